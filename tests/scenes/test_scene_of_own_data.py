"""Scenes beyond the embedded one: TOML files, folders, other models; through the same code and the same numbers."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from negmerge_kit.data.embedded import FAMILIES, family_images
from negmerge_kit.errors import SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.tiny_clip import TINY, tiny_weights
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.pools.pool_writer import create_pool
from negmerge_kit.scenes.find import open_scene, scene_from_json
from negmerge_kit.unlearning.evaluation import evaluate_splits
from negmerge_kit.unlearning.workbench import Workbench


def draw(family, root, splits=("train", "val", "test"), n=60):
    """The first drawings of each split as PNG files, which lose nothing; class folders sort in label order."""
    for split in splits:
        images = family_images(family, split).take(n)
        for number, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            folder = root / split / f"{int(label):02} {images.classes[label]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return {name: draw(name, root / name) for name in ("arrows", "shapes")}


@pytest.fixture
def toml(drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    for name, folder in drawn.items():
        shutil.copytree(folder, tmp_path / f"my_{name}")
    path = tmp_path / "own.toml"
    path.write_text('model = "tiny"\nforget = "folder:my_arrows"\nretain = ["folder:my_shapes", "digits"]\n')
    return path


def known(images):
    """Pixels -> label."""
    return {pixels.numpy().tobytes(): int(label) for pixels, label in zip(images.images, images.labels, strict=True)}


def test_a_scene_of_folders_has_the_drawn_pixels(toml):
    scene = open_scene(toml)
    assert scene.name == "own" and scene.forget == f"folder:{toml.parent / 'my_arrows'}" and scene.retain[1] == "digits"
    assert [source.name for source in scene.sources] == ["my_arrows", "my_shapes", "digits"]
    for split in ("train", "val", "test"):
        for images in scene.images(split):
            family = images.name.removeprefix("my_")
            whole = family_images(family, split)
            assert known(images).items() <= known(whole).items()
            assert len(images) == (len(whole) if family == "digits" else 60)
    live = scene.images("live")
    assert [len(images) for images in live] == [60, 48, 192]  # sets to keep in proportion to their 60 and 240 images


@pytest.mark.slow
def test_its_pool_is_described_opened_and_scored_like_any_other(toml):
    scene = open_scene(toml)
    model = scene.load(device="cpu")
    assert tuple(model.heads["my_arrows"].shape) == (len(FAMILIES["arrows"].classes), 64)
    described = json.loads(json.dumps(scene.describe()))
    pool = create_pool(toml.parent / "pool", scene.describe(), model.weights(), model.heads)
    bench = Workbench(pool, device="cpu")
    assert scene_from_json(described) == scene == bench.scene and open_scene(toml.parent / "pool") == scene
    assert bench.base_scores("val").json() == evaluate_splits(model, scene.images("val")).json()
    assert {entry["name"] for entry in described["sets"]} == {"my_arrows", "my_shapes", "digits"}
    told = next(entry for entry in described["sets"] if entry["name"] == "my_shapes")
    assert len(told["indices"].split()) == told["n"] == 60 and len(told["fingerprint"]) == 64


@pytest.mark.slow
def test_changed_images_and_foreign_heads_are_refused(toml):
    scene = open_scene(toml)
    described = scene.describe()
    scene.require(described)
    model = scene.load(device="cpu")
    for head in (torch.zeros(3, 64), torch.zeros(len(FAMILIES["arrows"].classes), 65)):
        with pytest.raises(SceneError, match=r"the head 'my_arrows' is \[.*built for another model or data set"):
            scene.load(device="cpu", heads={**model.heads, "my_arrows": head})
    with pytest.raises(SceneError, match="the head 'my_arrows' is missing"):
        scene.load(device="cpu", heads={name: head for name, head in model.heads.items() if name != "my_arrows"})
    picture = next((toml.parent / "my_shapes" / "val").rglob("*.png"))
    Image.new("RGB", (32, 32), "red").save(picture)
    with pytest.raises(SceneError, match=r"the images of my_shapes \(val\)|my_shapes"):
        scene_from_json(described).require(described)
    create_pool(toml.parent / "pool", described, model.weights(), model.heads)
    with pytest.raises(SceneError, match="make a new pool"):
        Workbench(open_pool(toml.parent / "pool"), device="cpu")


def test_a_linear_scene_loads_the_linear_model(toml):
    toml.write_text(toml.read_text() + 'mode = "linear"\n')
    scene = open_scene(toml)
    model = scene.load(device="cpu")
    assert model.mode == "linear" and scene.describe()["mode"] == "linear"
    assert "my_arrows" in model.heads and model.classes["my_shapes"] == scene.sources[1].classes


def test_corrupt_images_follow_the_scenes_policy(toml):
    next((toml.parent / "my_shapes" / "test").rglob("*.png")).write_bytes(b"broken")
    with pytest.raises(SceneError, match="cannot be decoded"):
        open_scene(toml).images("test")
    toml.write_text(toml.read_text() + 'corrupt = "skip"\n')
    scene = open_scene(toml)
    assert len(scene.images("test").retain[0]) == 59
    described = scene.describe()
    assert described["corrupt"] == "skip" and scene_from_json(described) == scene
    assert [len(entry["corrupt"]) for entry in described["sets"] if "corrupt" in entry] == [0, 0, 0, 0, 1]


def test_a_tower_without_text_gets_heads_from_training_images(toml, tmp_path):
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "vit.safetensors")
    toml.write_text(
        f'model = "timm:test_vit/{tmp_path / "vit.safetensors"}"\nforget = "folder:my_arrows"\n'
        'retain = "folder:my_shapes"\n'
    )
    scene = open_scene(toml)
    assert scene.transform.size == (160, 160) and scene.images("val").forget.images.shape[1:] == (3, 160, 160)
    model = scene.load(device="cpu")
    assert len(model.head("my_shapes")) == len(FAMILIES["shapes"].classes)
    assert scene_from_json(json.loads(json.dumps(scene.describe()))).require(scene.describe()) is None


@pytest.mark.parametrize(
    "model",
    [
        '"base.safetensors"',
        '"negmerge-tiny/base.safetensors"',
        '{arch = "negmerge-tiny", pretrained = "base.safetensors"}',
    ],
)
def test_weights_beside_the_file_are_found_from_anywhere(tmp_path, monkeypatch, model):
    save_file(tiny_weights(), tmp_path / "base.safetensors")
    (tmp_path / "s.toml").write_text(f'model = {model}\nforget = "digits"\nretain = "arrows"\n')
    described = open_scene(tmp_path / "s.toml").describe()
    assert described["model"] == {"arch": TINY, "pretrained": str(tmp_path / "base.safetensors")}
    monkeypatch.chdir("/")
    scene_from_json(described).require(described)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not toml", "cannot be read"),
        ('model = "tiny"\nforget = "digits"', "does not say retain"),
        ('model = "tiny"\nforget = "digits"\nretain = []', "nothing to keep"),
        ('model = "tiny"\nforget = "digits"\nretain = "digits"', "two sets called 'digits'"),
        (
            'model = "tiny"\nforget = "digits"\nretain = ["shapes"]\nmode = "cubic"',
            "'cubic' .* choose standard or linear",
        ),
        ('model = "tiny"\nforget = "digits"\nretain = ["shapes"]\nmodels = 3', "says models"),
        ('model = 3\nforget = "digits"\nretain = ["shapes"]', "something else than text"),
        ('model = "tiny"\nforget = "digits"\nretain = [1]', "something else than text"),
        ('model = "tiny"\nforget = "numbers"\nretain = ["shapes"]', "data 'numbers' is not known: choose one of cars"),
    ],
)
def test_scene_files_that_make_no_scene(tmp_path, text, told):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(SceneError, match=told):
        open_scene(path)


def test_a_scene_says_what_it_needs_and_prepares_it_once(toml, capsys):
    from negmerge_kit.cli.data import prepare_scene

    scene = open_scene(toml)
    assert [(source.name, splits) for source, splits in scene.needs()] == [
        ("my_arrows", ("train", "val", "test")),
        ("my_shapes", ("val", "test")),
        ("digits", ("val", "test")),
    ]
    prepare_scene(scene)
    told = capsys.readouterr()
    assert told.out == "" and [line.split(" [")[0] for line in told.err.splitlines()] == [
        "my_arrows train",
        "my_arrows val",
        "my_arrows test",
        "my_shapes val",
        "my_shapes test",
    ]
    prepare_scene(open_scene(toml))
    assert capsys.readouterr().err == ""


def test_descriptions_that_lack_something_are_refused():
    described = open_scene("tiny:digits").describe()
    del described["mode"]
    with pytest.raises(SceneError, match="lacks 'mode'"):
        scene_from_json(described)


def test_drawn_families_come_at_any_size():
    from negmerge_kit.data import find_data

    digits = find_data("digits")
    assert digits.images("val", image_size=32) is family_images("digits", "val")
    larger = digits.images("val", image_size=(48, 48))
    assert isinstance(larger, ImageSet) and tuple(larger.images.shape) == (240, 3, 48, 48)
    assert digits.described("val", image_size=48)["fingerprint"] == larger.fingerprint()
    with pytest.raises(SceneError, match="no split 'pretrain'"):
        digits.images("pretrain", image_size=32)
