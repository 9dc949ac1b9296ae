"""Folders of images: order, splits, names, and what is refused."""

import json
import shutil
import sys
from dataclasses import replace
from itertools import chain

import pytest
import torch
from PIL import Image

from negmerge_kit.data import find_data
from negmerge_kit.data.labels import class_names
from negmerge_kit.data.splits import draw_splits
from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import SceneError
from tests.data.pictures import CLASSES, encoded, write_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_validation_rule_is_the_authors():
    """random_split with torch's generator from seed 0; their code asserts that MNIST's first index is 36044."""
    drawn = draw_splits(60000, name="mnist")
    train, val = torch.utils.data.random_split(range(60000), [55000, 5000], torch.Generator().manual_seed(0))
    assert drawn == {"train": train.indices, "val": val.indices} and train.indices[0] == 36044
    assert len(draw_splits(8144, name="cars")["val"]) == 814
    three = draw_splits(100, ("val", "test"), name="own")
    assert three["val"] == draw_splits(100, name="own")["val"]
    assert [len(three[split]) for split in ("train", "val", "test")] == [80, 10, 10]
    assert sorted(chain(*three.values())) == list(range(100))
    with pytest.raises(SceneError, match="9 images, of which a tenth cannot be held out"):
        draw_splits(9, name="own")


def test_a_plain_folder_is_torchvisions_image_folder_split_by_the_rule(tmp_path):
    from torchvision.datasets import ImageFolder

    root = write_folder(tmp_path / "pets", (12, 9, 11))
    theirs = ImageFolder(str(root))
    source, transform = find_data(f"folder:{root}"), Transform(16, 16)
    assert source.name == "pets" and source.classes == tuple(theirs.classes)
    rule = draw_splits(32, ("val", "test"), name="pets")
    for split, rows in rule.items():
        images = source.images(split, image_size=16)
        assert images.split == split and images.labels.tolist() == [theirs[row][1] for row in rows]
        assert [image.numpy().tobytes() for image in images.images] == [
            transform(theirs[row][0]).tobytes() for row in rows
        ]
        assert images.fingerprint() == replace(images, known=None).fingerprint()
        assert images.take(2).fingerprint() == replace(images.take(2), known=None).fingerprint()
    described = json.loads(json.dumps(source.described("val", image_size=16)))
    assert described["indices"] == " ".join(map(str, rule["val"])) and described["rows"] == 32
    assert source.bytes == sum(path.stat().st_size for path in root.rglob("*.*"))
    assert "indices" not in source.described("train", image_size=16)


def test_a_folder_does_not_need_the_library_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    source = find_data(f"folder:{write_folder(tmp_path / 'pets', (10, 10, 10))}")
    source.prepare(source.splits, image_size=8)
    assert source.verify(image_size=8) == {"train": None, "val": None, "test": None}
    with pytest.raises(ImportError):
        find_data("hf:owner/pets").prepare(("train",), image_size=8)


def test_own_splits_are_used_as_they_are(tmp_path):
    root = tmp_path / "pets"
    for split, counts, start in (("train", (10, 10, 10), 0), ("val", (2, 0, 1), 100), ("test", (1, 1, 1), 200)):
        write_folder(root / split, counts, start=start)
    source = find_data(f"folder:{root}")
    assert [len(source.images(split, image_size=8)) for split in ("train", "val", "test")] == [30, 3, 3]
    assert sorted(source.images("val", image_size=8).labels.tolist()) == [0, 0, 2]
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    write_folder(root / "val", (2, 2, 2), start=300)
    drawn = find_data(f"folder:{root}")
    assert [len(drawn.images(split, image_size=8)) for split in ("train", "val", "test")] == [27, 6, 3]


def test_names_are_said_as_prompts_say_them_and_odd_files_are_passed_over(tmp_path):
    root = write_folder(tmp_path / "big_dogs", (10, 10), classes=("golden_retriever", "pug"))
    (root / "pug" / "deeper").mkdir()
    (root / "pug" / "deeper" / "more.JPG").write_bytes(encoded(99, kind="JPEG"))
    for odd in ("notes.txt", ".hidden.png", "._0.png"):
        (root / "pug" / odd).write_text("no picture")
    (root / ".cache").mkdir()
    source = find_data(f"folder:{root}")
    assert source.classes == ("golden retriever", "pug") and source.templates == ("a photo of a {}.",)
    assert sum(len(source.images(split, image_size=8)) for split in source.splits) == 21


def test_a_changed_picture_is_another_state_of_the_data(tmp_path):
    root = write_folder(tmp_path / "pets", (10, 10, 10))
    before = find_data(f"folder:{root}").images("train", image_size=8).fingerprint()
    assert find_data(f"folder:{root}").images("train", image_size=8).fingerprint() == before
    for path in (root / "cat").iterdir():
        Image.new("RGB", (9, 9), "red").save(path)
    assert find_data(f"folder:{root}").images("train", image_size=8).fingerprint() != before


def test_what_is_no_data_set_is_refused(tmp_path):
    root = write_folder(tmp_path / "pets", (10, 10, 10))
    with pytest.raises(SceneError, match="is not a folder"):
        find_data(f"folder:{tmp_path / 'none'}").images("val", image_size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match="has no sub-folders"):
        find_data(f"folder:{tmp_path / 'empty'}").images("val", image_size=8)
    (root / "fox").mkdir()
    with pytest.raises(SceneError, match="class 'fox' in .*pets has no image"):
        find_data(f"folder:{root}").images("val", image_size=8)
    (root / "fox").rmdir()
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(SceneError, match="gone.png cannot be read"):
        find_data(f"folder:{root}").images("val", image_size=8)
    shutil.rmtree(root)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    with pytest.raises(SceneError, match="has no images"):
        find_data(f"folder:{root}").images("val", image_size=8)
    shutil.rmtree(root)
    write_folder(root / "test", (1, 1, 1))
    with pytest.raises(SceneError, match="has test but no train"):
        find_data(f"folder:{root}").images("val", image_size=8)
    write_folder(root / "train", (10, 10), classes=CLASSES[:2])
    with pytest.raises(SceneError, match="has a class 'eel' that the training images do not have"):
        find_data(f"folder:{root}").images("test", image_size=8)


# --- local copies of named sets -------------------------------------------------------------------


def test_a_local_copy_has_the_names_of_the_set_and_its_order(tmp_path):
    known = class_names("eurosat")
    root = tmp_path / "mine"
    write_folder(root / "train", [2] * 10, classes=known.labels[0])
    write_folder(root / "test", [1] * 10, classes=known.labels[0], start=50)
    source = find_data(f"eurosat:{root}")
    assert (source.name, source.classes, source.templates) == ("eurosat", known.classes, known.templates)
    assert [len(source.images(split, image_size=8)) for split in source.splits] == [18, 2, 10]
    (root / "train" / "SeaLake").rename(root / "train" / "Atlantic")
    (root / "test" / "SeaLake").rename(root / "test" / "Atlantic")
    source = find_data(f"eurosat:{root}")
    for _ in range(2):
        with pytest.raises(SceneError, match="another order: class 2 is 'Forest' there, but 'brushland"):
            source.images("val", image_size=8)
    with pytest.raises(SceneError, match="has 10 classes, 196 were expected"):
        find_data(f"cars:{root}").images("val", image_size=8)
    with pytest.raises(SceneError, match="not a copy of Stanford Cars"):
        find_data(f"cars:{tmp_path}").images("val", image_size=8)


@pytest.mark.slow
def test_imagenet_is_a_control_with_the_authors_splits(tmp_path):
    synsets = class_names("imagenet").labels[0]
    small = encoded(0, size=(3, 3))
    for folder, names in (("train", ("0.JPEG", "1.JPEG")), ("val", ("v.JPEG",))):
        for synset in synsets:
            (tmp_path / folder / synset).mkdir(parents=True)
            for name in names:
                (tmp_path / folder / synset / name).write_bytes(small)
    control = find_data(f"imagenet:{tmp_path}")
    assert control.splits == ("val", "test") and control.classes[0] == "tench"
    val = control.images("val", image_size=2)
    assert val.labels.tolist() == [row // 2 for row in draw_splits(2000, name="")["val"]]
    assert len(control.images("test", image_size=2)) == 1000
    with pytest.raises(SceneError, match="has no split 'train'.*only kept, never forgotten"):
        control.images("train", image_size=2)
    small_control = find_data(f"imagenet-small:{tmp_path}")
    rule = draw_splits(1000, ("val", "test"), name="")
    for split in ("val", "test"):
        assert small_control.images(split, image_size=2).labels.tolist() == rule[split]
