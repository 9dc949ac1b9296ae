"""Training standard classifiers: optimiser and schedule, crops, batches under batch normalisation, retraining."""

import re
from dataclasses import replace

import pytest
import torch

from negmerge_kit.audits.audit import audit
from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.data.augment import crop_at_random
from negmerge_kit.data.labels import class_names
from negmerge_kit.errors import ParameterError, PoolError, SceneError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.pools.pool_writer import record_candidate, save_candidate
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.training.batches import batches, steps_of
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.finetuning import finetune, rate
from negmerge_kit.training.from_scratch import BaseTraining, base_recipe
from negmerge_kit.training.grids import PRESETS
from negmerge_kit.training.recipe import Recipe, grid
from negmerge_kit.unlearning.evaluation import evaluate
from negmerge_kit.unlearning.workbench import Workbench
from tests.data.pictures import hub_repository, write_parquet

SGD = Recipe(lr=0.1, epochs=1, weight_decay=0.01, batch_size=4, warmup=0, clip_norm=0.0, optimizer="sgd")
CPU = torch.device("cpu")


@pytest.fixture
def scene():
    return open_scene("tiny-classifier")


def test_old_recipes_keep_their_ids_and_new_settings_are_told():
    assert set(Recipe(lr=1e-3, epochs=4).json()) == {
        "lr",
        "epochs",
        "weight_decay",
        "batch_size",
        "warmup",
        "label_smoothing",
        "clip_norm",
        "seed",
    }
    assert SGD.json()["optimizer"] == "sgd" and Recipe.from_json(SGD.json()) == SGD
    assert replace(SGD, schedule="multistep").label == "lr 1e-1 · 1 epoch · wd 0.01 · sgd · multistep"
    for wrong in ({"optimizer": "adam"}, {"schedule": "linear"}, {"augment": "crop-0"}, {"augment": "crop"}):
        with pytest.raises(ParameterError):
            replace(SGD, **wrong)


def test_multistep_lets_the_rate_fall_after_a_half_and_three_quarters():
    recipe = replace(SGD, lr=1.0, schedule="multistep")
    assert [round(rate(recipe, index, 8), 6) for index in range(8)] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]


def test_sgd_steps_as_written_down(scene):
    """θ₁ = θ₀ - lr·(g + wd·θ₀), θ₂ = θ₁ - lr·(0.9·(g₀ + wd·θ₀) + g₁ + wd·θ₁), without momentum's dampening."""
    images, recipe = scene.parts.forgotten.take(4), replace(SGD, epochs=2, schedule="multistep")
    model, mine = scene.untrained(device="cpu"), scene.untrained(device="cpu")
    steps = list(finetune(model, images, recipe))
    mine.tower.train()
    velocity = {}
    for step in steps:
        mine.tower.zero_grad()
        logits = mine.tower(mine.pixels(images.images))
        torch.nn.functional.cross_entropy(logits, images.labels).backward()
        with torch.no_grad():
            for name, weight in mine.tower.named_parameters():
                gradient = weight.grad + recipe.weight_decay * weight
                velocity[name] = 0.9 * velocity[name] + gradient if name in velocity else gradient
                weight -= step.lr * velocity[name]
    assert [step.lr for step in steps] == pytest.approx([0.1, 0.01])
    for name, weight in mine.tower.state_dict().items():
        assert torch.allclose(model.weights()[name].float(), weight.float(), atol=1e-6), name


def test_crops_are_windows_of_the_padded_image_repeatable_and_mirrored_where_allowed():
    images = torch.randint(1, 256, (64, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for flips in (False, True):
        cropped = crop_at_random(images, 2, seed=1, flips=flips)
        seen = set()
        for image, made in zip(padded, cropped, strict=True):
            windows = {(top, left): image[:, top : top + 8, left : left + 8] for top in range(5) for left in range(5)}
            found = {
                (*place, mirror)
                for place, window in windows.items()
                for mirror in (False, True)
                if torch.equal(window.flip(2) if mirror else window, made)
            }
            assert len(found) == 1
            seen |= found
        assert len({place[:2] for place in seen}) > 12 and {place[2] for place in seen} == {False, flips}
    assert torch.equal(crop_at_random(images, 2, seed=1, flips=True), cropped)
    assert not torch.equal(crop_at_random(images, 2, seed=2, flips=True), cropped)


def test_batches_crop_by_the_seed_and_the_step(scene):
    images, recipe = scene.parts.forgotten.take(8), replace(SGD, augment="crop-1")
    first, again, plain = (list(batches(images, used, CPU)) for used in (recipe, recipe, SGD))
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(first, again, strict=True))
    assert all(torch.equal(one.labels, other.labels) for one, other in zip(first, plain, strict=True))
    assert not torch.equal(first[0].pixels, plain[0].pixels)


def test_a_trailing_image_alone_joins_the_batch_before_it(scene):
    images = scene.parts.forgotten.take(9)
    assert [len(batch.labels) for batch in batches(images, SGD, CPU)] == [4, 4, 1]
    assert [len(batch.labels) for batch in batches(images, SGD, CPU, least=2)] == [4, 5]
    assert steps_of(images, SGD) == 3 and steps_of(images, SGD, least=2) == 2
    steps = list(finetune(scene.untrained(device="cpu"), images, SGD))
    assert [(step.index, step.total) for step in steps] == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    "images, batch, says",
    [
        (8, 1, "the recipe's batch_size is 1, and batch normalisation cannot"),
        (1, 4, "forgotten has one image, and batch normalisation cannot"),
    ],
)
def test_a_batch_of_one_is_refused_under_batch_normalisation(scene, images, batch, says):
    with pytest.raises(ParameterError, match=says):
        list(
            finetune(scene.untrained(device="cpu"), scene.parts.forgotten.take(images), replace(SGD, batch_size=batch))
        )


def test_channels_last_trains_alike_and_leaves_the_weights_as_they_lay(scene):
    images, made = scene.parts.forgotten.take(8), []
    for channels_last in (False, True):
        model = scene.untrained(device="cpu")
        list(finetune(model, images, SGD, execution=Execution(channels_last=channels_last)))
        made.append(model.weights())
        assert all(weight.is_contiguous() for weight in model.tower.parameters())
    assert all(torch.allclose(made[0][name].float(), made[1][name].float(), atol=1e-4) for name in made[0])


def test_mixed_precision_trains_a_convolutional_network(scene):
    model = scene.untrained(device="cpu")
    steps = list(finetune(model, scene.parts.forgotten.take(8), replace(SGD, precision="bfloat16", epochs=3)))
    assert steps[-1].loss < steps[0].loss and all(
        weight.dtype == torch.float32 for weight in model.network.parameters()
    )


def test_a_stopped_run_goes_on_to_the_same_weights_and_statistics(scene, tmp_path):
    images, recipe = scene.parts.forgotten.take(12), replace(SGD, augment="crop-1", epochs=2)
    whole, stopped, resumed = (scene.untrained(device="cpu") for _ in range(3))
    list(finetune(whole, images, recipe))
    state = tmp_path / "state.safetensors"
    for step in finetune(stopped, images, recipe, resume=state, execution=Execution(save_seconds=0)):
        if step.index == 4:
            break
    list(finetune(resumed, images, recipe, resume=state))
    assert all(torch.equal(tensor, resumed.weights()[name]) for name, tensor in whole.weights().items())


class Guarded(torch.Tensor):
    """Images of which some must never be looked at."""

    forbidden: frozenset = frozenset()

    def __getitem__(self, index):
        places = torch.arange(len(self))[index]
        if touched := self.forbidden & set(places.flatten().tolist()):
            raise AssertionError(f"image {min(touched)} was looked at")
        return self.as_subclass(torch.Tensor)[index]


def test_retraining_never_looks_at_an_image_to_forget(scene, monkeypatch):
    guarded = type("Forgotten", (Guarded,), {"forbidden": frozenset(scene.parts.places.tolist())})
    whole = scene.forgetting.source

    class Source:
        def __getattr__(self, name):
            return getattr(whole, name)

        def images(self, split, **how):
            images = whole.images(split, **how)
            return replace(images, images=images.images.as_subclass(guarded)) if split == "train" else images

    monkeypatch.setattr(Forgetting, "source", property(lambda self: Source()))
    parts = replace(scene, forgetting=replace(scene.forgetting, data="guarded scans")).parts
    training = BaseTraining.of(scene).but(epochs=1)
    steps = list(training.steps(scene.untrained(device="cpu"), parts.remaining))
    assert len(steps) == 18
    for name in ("forgotten", "seen"):
        with pytest.raises(AssertionError, match="was looked at"):
            getattr(parts, name)


def test_the_base_is_good_and_remembers_what_it_saw(classifier_pool):
    pool = open_pool(classifier_pool)
    bench = Workbench(pool, device="cpu")
    parts = bench.scene.parts
    assert evaluate(bench.model, parts.test).value > 0.95 and evaluate(bench.model, parts.seen).value > 0.99
    assert pool.scene["training"] == base_recipe(bench.scene).json() and bench.scene.training == pool.scene["training"]
    forgets = bench.search(bench.choose(rule="uniform"))
    assert forgets.best.forget.value < 0.97 and forgets.best.retain.value > 0.95


def test_a_candidate_of_another_split_is_refused(classifier_pool, tmp_path):
    pool, _ = start_pool(
        ClassifierScene("other", "classifier:tiny", Forgetting("scans", seed=5), training={"epochs": 1}),
        tmp_path / "other",
    )
    theirs = open_pool(classifier_pool)
    entry = save_candidate(theirs, {"lr": 0.1}, theirs.base.items())
    try:
        strange = save_candidate(pool, {"lr": 0.1}, pool.base.items())
        (pool.folder / strange.file).write_bytes((theirs.folder / entry.file).read_bytes())
        pool = record_candidate(pool, replace(strange, sha256=entry.sha256))
    finally:
        (theirs.folder / entry.file).unlink()
    with pytest.raises(PoolError, match="made from another base"):
        pool.candidate(strange.id)
    forced = replace(pool, forced=True)
    with pytest.raises(PoolError, match=r"trained on another split .* this pool forgets those of .* sweep again"):
        forced.candidate(strange.id)


def test_bad_settings_of_the_bases_training(scene):
    with pytest.raises(ParameterError, match="training of scene tiny-classifier: .*unknown settings"):
        base_recipe(replace(scene, training={"epoch": 3}))
    for given in (-1.0, 1e39):
        with pytest.raises(ParameterError, match=rf"lr = {re.escape(str(given))} is out of range"):
            base_recipe(replace(scene, training={"lr": given}))
    with pytest.raises(SceneError, match="how tiny was trained is not known"):
        open_scene("tiny:digits").untrained(device="cpu")


def test_the_published_grid_is_named_with_its_uncertainty():
    recipes = grid("paper-cifar")
    assert len(recipes) == 27 and {recipe.epochs for recipe in recipes} == {40, 50, 60}
    assert {recipe.weight_decay for recipe in recipes} == {1e-4, 5e-5, 1e-5}
    assert {recipe.label_smoothing for recipe in recipes} == {0.0, 0.05, 0.1}
    assert {(recipe.lr, recipe.optimizer, recipe.augment) for recipe in recipes} == {(0.05, "sgd", "none")}
    vgg = grid("paper-cifar-vgg16")  # the same runs at the rate that is quoted for VGG-16
    assert vgg == tuple(replace(recipe, lr=0.01) for recipe in recipes)
    assert "ours, not measured" in PRESETS["cifar-swin"].read_text()
    assert {recipe.optimizer for recipe in grid("cifar-swin")} == {"adamw"}


@pytest.mark.slow
def test_resnet_18_on_small_files_of_cifars_format(tmp_path, monkeypatch):
    """From the Hub's parquet layout to a merged search: base, a candidate of its own split, a score."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    names = class_names("cifar10").classes

    def cifar(folder):
        for split, count, start in (("train", 40, 0), ("test", 6, 100)):
            write_parquet(
                folder / f"plain_text/{split}-00000-of-00001.parquet",
                count,
                names,
                image="img",
                start=start,
                size=(32, 32),
            )

    hub_repository(tmp_path / "hub", "uoft-cs/cifar10", cifar)
    (tmp_path / "cifar.toml").write_text(
        'model = "classifier:resnet18"\ndata = "cifar10"\nforget = {share = 0.1, seed = 2}\n'
        "training = {epochs = 1, batch_size = 12, warmup = 0}"
    )
    scene = open_scene(tmp_path / "cifar.toml")
    for source, splits in scene.needs():
        source.prepare(splits, image_size=scene.transform)
    pool, _ = start_pool(scene, tmp_path / "pool")
    assert pool.scene["training"] == {**base_recipe(scene).json()} and pool.scene["training"]["augment"] == "crop-4"
    assert [len(images) for images in scene.images("val")] == [2, 16, 4]  # one half of what was trained on chooses

    bench = Workbench(pool, device="cpu")
    model, recipe = bench.fresh_model(), replace(grid("cifar-small")[0], epochs=1, batch_size=2)
    losses = [step.loss for step in finetune(model, scene.images("train").forget, recipe)]
    assert len(losses) == 2
    record_candidate(pool, save_candidate(pool, recipe.json(), model.weights().items()))
    bench.refresh()
    scores = bench.score(bench.choose(buffers="recalibrate"), 1.0)
    assert scores.forget.n == 2 and list(scores.families) == ["forgotten", "remaining", "unseen"]
    written = dict(bench.unlearned(bench.choose(), 0.5))
    assert written.keys() == open_checkpoint(pool.folder / "base.safetensors").keys()
    delta = bench.merged(bench.choose())
    assert delta.counts.elements == sum(weight.numel() for weight in bench.model.tower.parameters())
    assert bool(delta.delta["fc.weight"].any()) and not bool(delta.delta["bn1.running_mean"].any())


def test_the_audit_of_clip_models_says_where_a_classifier_is_attacked(classifier_pool):
    bench = Workbench(open_pool(classifier_pool), device="cpu")
    with pytest.raises(ParameterError, match="a standard classifier's scene, .* `negmerge compare` attacks"):
        audit(bench, bench.choose(), 0.5)
