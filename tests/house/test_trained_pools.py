"""Pools kept between runs: trained once, and anew as soon as something that decides their weights has changed."""

import shutil

import pytest

from negmerge_kit.training.recipe import Recipe
from tests.trained_pools import PACKAGE, copy_of, key

RECIPES = [Recipe(lr=1e-3, epochs=2)]


@pytest.fixture
def package(tmp_path):
    return shutil.copytree(PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize(
    "name",
    [
        "training/finetuning.py",
        "training/presets/tiny.toml",
        "models/clip.py",
        "data/embedded.py",
        "models/tiny_clip.safetensors",
        "checkpoints/writer.py",
        "sweeps/pool_setup.py",
    ],
)
def test_another_file_of_training_makes_another_pool(package, name):
    assert (package / name).is_file()
    before = key(RECIPES, "tiny:digits", package)
    assert before == key(RECIPES, "tiny:digits")
    with (package / name).open("ab") as file:
        file.write(b"\n")
    assert key(RECIPES, "tiny:digits", package) != before


def test_a_file_that_decides_no_weights_keeps_the_pools(package):
    before = key(RECIPES, "tiny:digits", package)
    (package / "app" / "page.js").write_text("")
    assert key(RECIPES, "tiny:digits", package) == before


def test_so_do_other_recipes_scenes_and_versions_of_torch(monkeypatch):
    before = key(RECIPES, "tiny:digits")
    assert key([Recipe(lr=2e-3, epochs=2)], "tiny:digits") != before
    assert key(RECIPES, "tiny:letters") != before
    monkeypatch.setattr("torch.__version__", "0.0")
    assert key(RECIPES, "tiny:digits") != before


def test_a_pool_is_trained_once_and_a_killed_run_leaves_none(tmp_path):
    kept, trained = tmp_path / "kept", []
    kept.mkdir()

    def train(folder, recipes, scene):
        folder.mkdir()
        (folder / "pool.json").write_text(scene)
        trained.append(scene)
        if len(trained) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_of(kept, "a", RECIPES, "tiny:digits", tmp_path / "1", train)
    for place in ("2", "3"):
        (copy_of(kept, "a", RECIPES, "tiny:digits", tmp_path / place, train) / "pool.json").write_text("changed")
    assert trained == ["tiny:digits"] * 2
    other = copy_of(kept, "a", RECIPES, "tiny:letters", tmp_path / "4", train)
    assert (other / "pool.json").read_text() == "tiny:letters" and len(list(kept.glob("a-*"))) == 1
