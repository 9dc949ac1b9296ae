"""Twins between what a scene forgets and keeps, or learns and is tested on."""

import shutil

import pytest

from negmerge_kit.cli import main
from negmerge_kit.errors import SceneError
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.scenes.overlap import find_overlaps
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from tests.data.pictures import write_folder


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate(("pets", "wild")):
        for at, split in enumerate(("train", "val", "test")):
            write_folder(tmp_path / name / split, (4, 4, 4), start=1000 * number + 100 * at)
    return ZeroShotScene("pets", "tiny", f"folder:{tmp_path / 'pets'}", (f"folder:{tmp_path / 'wild'}",))


def test_sets_that_share_nothing_give_no_sentence(scene):
    assert find_overlaps(scene) == []


def test_a_shared_image_is_counted(scene, tmp_path):
    shutil.copy(tmp_path / "pets/train/cat/0.png", tmp_path / "wild/test/dog/0.png")
    (sentence,) = find_overlaps(scene)
    assert "1 of the 12 images to forget (train) have a twin in wild (test), 1 exact and 0 near" in sentence


def test_test_images_that_candidates_learn_are_counted(scene, tmp_path):
    shutil.copy(tmp_path / "pets/train/cat/0.png", tmp_path / "pets/val/cat/0.png")
    (sentence,) = find_overlaps(scene)
    assert "have a twin in pets (val), 1 exact" in sentence


def test_a_set_to_forget_and_to_keep_is_refused(scene, tmp_path):
    for split in ("train", "val", "test"):
        shutil.rmtree(tmp_path / "wild" / split)
        shutil.copytree(tmp_path / "pets" / split, tmp_path / "wild" / split)
    with pytest.raises(SceneError, match="12 of the 12 images to forget in pets .val. are also to be kept, in wild"):
        find_overlaps(scene)


def test_a_classifier_is_held_against_what_it_keeps_and_not_against_what_it_forgets(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    found = []
    for name in ("clean", "copied"):
        root = write_folder(tmp_path / name / "train", (20, 20, 20), start=5000).parent
        write_folder(root / "test", (4, 4, 4), start=6000)
        for number in range(20 if name == "copied" else 0):  # so many dogs that the halves and draws have some
            shutil.copy(root / f"train/cat/{3 * (number % 3)}.png", root / f"train/dog/{number}.png")
        forgetting = Forgetting(f"folder:{root}", of_class="cat")
        found.append(find_overlaps(ClassifierScene(name, "classifier:tiny", forgetting)))
    clean, copied = found
    assert clean == []
    assert sum("twin in remaining" in sentence and "3 exact" in sentence for sentence in copied) == 2
    assert not any("twin in forgotten" in sentence for sentence in copied)


def test_sweep_refuses_a_set_to_forget_and_to_keep_before_it_makes_anything(tmp_path, scene, capsys):
    file = tmp_path / "scene.toml"
    file.write_text(f'model = "tiny"\nforget = "{scene.forget}"\nretain = ["{scene.retain[0]}"]\n')
    for split in ("val", "test"):
        shutil.rmtree(tmp_path / "wild" / split)
        shutil.copytree(tmp_path / "pets" / split, tmp_path / "wild" / split)
    assert main(["sweep", "--scene", str(file), "--grid", "tiny", "--out", str(tmp_path / "pool")]) == 2
    err = capsys.readouterr().err
    assert "are also to be kept, in wild: remove them" in err and not (tmp_path / "pool").exists()
