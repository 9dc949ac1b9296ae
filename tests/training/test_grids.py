"""Recipes and grids: the published ones as published, files of one's own, and what is wrong with a bad one."""

import pytest

from negmerge_kit.errors import ParameterError
from negmerge_kit.training.finetuning import rate
from negmerge_kit.training.grids import PRESETS
from negmerge_kit.training.recipe import Recipe, grid

# The authors' finetune.py: epochs without and with augmentation, and the number of their training images.
PUBLISHED = {
    "cars": (35, 70, 7330),
    "dtd": (76, 100, 3384),
    "eurosat": (12, 40, 21600),
    "gtsrb": (11, 40, 23976),
    "mnist": (5, 30, 55000),
    "resisc45": (15, 40, 17010),
    "sun397": (14, 40, 17865),
    "svhn": (4, 30, 68257),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_pool(name):
    plain, augmented, images = PUBLISHED[name]
    recipes = grid("paper-randaugment", data=name, images=images)
    assert {recipe.augment for recipe in recipes} == {
        f"rand-m{m}-n{n}-mstd0.5" for m in range(1, 11) for n in (1, 2, 3)
    }
    for recipe in recipes:
        assert (recipe.lr, recipe.weight_decay, recipe.batch_size, recipe.clip_norm) == (1e-5, 0.1, 128, 1.0)
        assert (recipe.epochs, recipe.flips, recipe.trainable) == (augmented, "as-published", "no-attention")
        assert recipe.order == "fixed" and "fixed order" in recipe.label
    assert len({recipe.seed for recipe in recipes}) == 30
    linear = grid("paper-randaugment-linear", data=name)
    assert {recipe.trainable for recipe in linear} == {"all"} and len(linear) == 30
    assert {recipe.order for recipe in linear} == {"fixed"}
    middle = [r for r in grid("lr-wd-epochs", data=name) if r.epochs == plain]
    assert len(middle) >= 9 and {r.lr for r in middle} == {5e-6, 1e-5, 2e-5}


def test_a_recipe_of_the_first_version_is_of_its_own_order_and_digests_the_same():
    recipe = Recipe.from_json({"lr": 1e-3, "epochs": 4})
    assert recipe.order == "own" and "order" not in recipe.json()
    assert Recipe(lr=1e-3, epochs=4, order="fixed").json()["order"] == "fixed"
    assert {recipe.order for name in ("tiny", "tiny-even") for recipe in grid(name)} == {"own"}


def test_the_published_rate_is_the_authors():
    """500 steps up to the peak and a cosine to zero over the rest, on the shortest published run too."""
    recipe = grid("lr-wd-epochs", data="sun397")[10]
    assert (recipe.lr, recipe.epochs) == (1e-5, 14)
    total = 140 * 14
    assert [rate(recipe, k, total) for k in (0, 498, 499, 500)] == pytest.approx([2e-8, 499 / 5e7, 1e-5, 1e-5])
    assert rate(recipe, 500 + (total - 500) // 2, total) == pytest.approx(5e-6)
    assert rate(recipe, total - 1, total) < 1e-10


def test_other_data_trains_as_many_steps():
    (recipe,) = {r.epochs for r in grid("paper-randaugment", data="folder:faces", images=500)}
    assert recipe == 1000  # 4 batches an epoch, 4,000 steps
    assert {r.epochs for r in grid("paper-randaugment", data="folder:faces")} == {70}  # of unknown size: as Cars
    assert max(rate(r, k, 40) for r in grid("lr-wd-epochs", images=10)[:1] for k in range(40)) == 5e-6


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[recipe]\nlr = 1e-3\nweight_decay = 0\nprecision = "bfloat16"\n[epochs]\nDigits = 3\n'
        '[vary]\nlabel_smoothing = [0, 0.1]\ntrainable = ["all", "last-2"]\n[[runs]]\nlr = 2e-3\nepochs = 9\n'
    )
    recipes = grid(path, data="digits")
    assert [(r.lr, r.epochs, r.label_smoothing, r.trainable, r.seed) for r in recipes] == [
        (1e-3, 3, 0, "all", 0),
        (1e-3, 3, 0, "last-2", 1),
        (1e-3, 3, 0.1, "all", 2),
        (1e-3, 3, 0.1, "last-2", 3),
        (2e-3, 9, 0, "all", 4),
    ]
    assert recipes[1].label == "lr 1e-3 · 3 epochs · wd 0 · last-2 · bfloat16"
    assert all(Recipe.from_json(r.json()) == r for r in recipes)
    with pytest.raises(ParameterError, match="candidate 1 .*epochs"):
        grid(path, data="letters")  # [epochs] does not say how long


@pytest.mark.parametrize(
    "text, words",
    [
        ("lr = 1e-3", "'lr' is not one of title"),
        ("[recipe\nlr=1", "not a TOML file"),
        ('mode = "tangent"\n[recipe]\nlr = 1e-3\nepochs = 2', "mode must be standard or linear"),
        ("[vary]\nlr = 1e-3", "vary.lr must be a list"),
        ("[vary]\nlr = []", "vary.lr must be a list that is not empty"),
        ('[epochs]\ncars = "many"', "epochs.cars must be a whole number"),
        ("runs = [1]", "must be a table"),
        ("[recipe]\nlr = 1e-3\nepochs = 2\nspeed = 1", "candidate 1 .*unknown settings .'speed'.: choose among lr"),
        ('[recipe]\nlr = "fast"\nepochs = 2', "lr = 'fast' is of the wrong type"),
        ("[recipe]\nlr = 1e-3\nepochs = true", "epochs = True is of the wrong type"),
        ('[recipe]\nlr = -1\nepochs = 2\nflips = "often"', "lr = -1.0, flips = often"),
        ('[recipe]\nlr = 1e-3\nepochs = 2\norder = "none"', "order = none"),
        ('[recipe]\nlr = 1e-3\nepochs = 2\naugment = "flip"', "augment is 'flip'"),
        ('[recipe]\nlr = 1e-3\nepochs = 2\ntrainable = "half"', "choose all, no-attention"),
        ("[recipe]\nlr = 1e-3\nepochs = 2\nseed = 1\n[vary]\nweight_decay = [0.1, 0.1]", "twice with seed 1"),
        ("[recipe]\nlr = 1e-3\nepochs = 2\n[vary]\nepochs_times = [0]", "epochs_times must be positive"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=words):
        grid(path)


def test_unknown_grids_list_the_presets():
    with pytest.raises(ParameterError, match="no grid .large.: choose among cifar-small, cifar-swin, lr-wd"):
        grid("large")
    assert set(PRESETS) == {
        "tiny",
        "tiny-even",
        "paper-randaugment",
        "paper-randaugment-linear",
        "lr-wd-epochs",
        "tiny-classifier",
        "cifar-small",
        "paper-cifar",
        "paper-cifar-vgg16",
        "cifar-swin",
    }


def test_old_recipes_keep_their_values_and_so_their_ids():
    old = {
        "lr": 1e-3,
        "epochs": 4,
        "weight_decay": 0.1,
        "batch_size": 64,
        "warmup": 20,
        "label_smoothing": 0.0,
        "clip_norm": 1.0,
        "seed": 2,
    }
    assert Recipe.from_json(old).json() == old == grid("tiny")[2].json()
    assert Recipe(lr=1e-3, epochs=4, trainable="norms").json()["trainable"] == "norms"
    assert Recipe(lr=1, epochs=4).json() == Recipe(lr=1.0, epochs=4).json()


def test_labels_tell_the_rate_in_full():
    assert Recipe(lr=1.5e-5, epochs=1).label.startswith("lr 1.5e-5 ·")
