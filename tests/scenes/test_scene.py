"""Scenes: what is forgotten, what is kept, and what a pool remembers of them."""

import json

import pytest
import torch

from negmerge_kit.data.embedded import FAMILIES, family_images
from negmerge_kit.errors import SceneError
from negmerge_kit.scenes.find import open_scene


@pytest.mark.parametrize("name", FAMILIES)
def test_any_family_can_be_forgotten(name):
    scene = open_scene(f"tiny:{name}")
    assert scene.forget == name and set(scene.retain) == set(FAMILIES) - {name}
    train, live = scene.images("train"), scene.images("live")
    assert len(train.forget) == 700 and train.forget.split == "train" and train.retain == ()
    assert len(live.forget) == 240 and [len(images) for images in live.retain] == [40] * 6
    for images in live:
        whole = family_images(images.name, "val")
        assert images.split == "live" and torch.equal(images.images, whole.images[: len(images)])
    for split in ("val", "test"):
        images = scene.images(split)
        assert images.forget.name == name and tuple(kept.name for kept in images.retain) == scene.retain
        assert {part.split for part in images} == {split}


def test_the_description_is_json_with_every_set():
    described = json.loads(json.dumps(open_scene("tiny:arrows").describe()))
    assert described["model"] == "tiny" and described["mode"] == "standard" and described["forget"] == "arrows"
    sets = {(entry["name"], entry["split"]): entry for entry in described["sets"]}
    assert set(sets) == {("arrows", "train")} | {(name, split) for name in FAMILIES for split in ("val", "test")}
    for (name, split), entry in sets.items():
        images = family_images(name, split)
        assert entry["n"] == len(images) and entry["fingerprint"] == images.fingerprint()
        assert entry["seed"] == FAMILIES[name].seed(split)


def test_a_pool_of_other_images_is_refused():
    scene = open_scene("tiny:digits")
    described = scene.describe()
    scene.require(described)
    described["sets"][3]["fingerprint"] = "0" * 64
    changed = described["sets"][3]
    with pytest.raises(SceneError, match=rf"the images of {changed['name']} \({changed['split']}\)"):
        scene.require(described)


@pytest.mark.parametrize("text", ["digits", "huge:digits", ""])
def test_unknown_scenes_list_the_choices(text):
    with pytest.raises(SceneError, match="choose one of tiny:digits, tiny:shapes"):
        open_scene(text)


def test_unknown_family_and_split():
    with pytest.raises(SceneError, match="'numbers' does not exist: choose one of digits, shapes"):
        open_scene("tiny:numbers")
    with pytest.raises(SceneError, match="choose one of train, val, test, live"):
        open_scene("tiny:digits").images("pretrain")
