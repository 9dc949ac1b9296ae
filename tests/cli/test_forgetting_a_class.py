"""A class forgotten whole: `sweep` and `compare --choose gap` from a scene's file, and what new images of it show."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from negmerge_kit.classifier_eval.retrained_model import find_retrained
from negmerge_kit.cli import main
from negmerge_kit.comparison.compare import doubts
from negmerge_kit.data import find_data
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.load import load_model
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scenes.find import scene_from_json
from negmerge_kit.unlearning.evaluation import evaluate

SCENE = 'model = "classifier:tiny"\ndata = "scans"\nforget = {class = "7"}\ntraining = {epochs = 5}\n'
GRID = "[recipe]\nlr = 1e-3\nepochs = 4\nbatch_size = 30\nwarmup = 0\nweight_decay = 0.0\n[vary]\nlr = [1e-3, 2e-3]\n"


def run(capsys, *words):
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "say nothing" not in shown.err  # a class forgotten whole is where it belongs, and nowhere else
    return json.loads(shown.out)


@pytest.fixture
def sevens():
    """Every image of the class, by split, as the data have them."""
    splits = {split: find_data("scans").images(split, image_size=8) for split in ("train", "val", "test")}
    return {
        split: replace(
            images,
            name="forgotten",
            images=images.images[images.labels == 7],
            labels=images.labels[images.labels == 7],
            known=None,
        )
        for split, images in splits.items()
    }


@pytest.mark.slow
def test_from_a_scenes_file_to_the_table(tmp_path, capsys, sevens):
    (tmp_path / "seven.toml").write_text(SCENE)
    (tmp_path / "grid.toml").write_text(GRID)
    folder, here = tmp_path / "pool", ("--device", "cpu", "--json")
    swept = run(
        capsys, "sweep", "--scene", tmp_path / "seven.toml", "--grid", tmp_path / "grid.toml", "--out", folder, *here
    )
    assert len(swept["candidates"]) == 2 and swept["failed"] == []
    told = run(
        capsys,
        "compare",
        folder,
        "--choose",
        "gap",
        "--rules",
        "negmerge,uniform",
        "--baselines",
        "retrain",
        "--scales",
        "0:2:0.5",
        *here,
    )
    assert told["warnings"] == []

    pool, sizes = open_pool(folder), {split: len(images) for split, images in sevens.items()}
    parts = scene_from_json(pool.scene).parts
    assert parts.forgotten.fingerprint() == sevens["train"].fingerprint()
    assert all(7 not in images.labels for images in (parts.remaining, parts.validation, parts.test))
    told_of = {(images["name"], images["split"]): images["n"] for images in pool.scene["sets"]}
    assert told_of["forgotten", "train"] == sizes["train"] == 2 * told_of["forgotten", "test"]
    assert told_of["remaining", "test"] == len(parts.remaining) // 2
    assert told_of["unseen", "test"] == len(parts.test)
    rows = {row["rule"]: row for row in told["rows"]}
    assert list(rows) == ["base", "retrain", "negmerge", "uniform"]
    whole = {split: len(find_data("scans").images(split, image_size=8)) for split in sizes}
    for name, row in rows.items():
        n = {metric: row["metrics"][metric]["n"] for metric in ("forget", "retain", "unseen", "mia")}
        # One half of what the base has seen chose, the other half reports.
        assert n == {
            "forget": sizes["train"] // 2,
            "retain": (whole["train"] - sizes["train"]) // 2,
            "unseen": whole["test"] - sizes["test"],
            "mia": sizes["train"] // 2,
        }, name
        assert row["test"]["retain"]["n"] == n["retain"] + n["unseen"]
        assert row["validation"]["retain"]["n"] == n["retain"] + whole["val"] - sizes["val"]
    value = {name: {metric: score["value"] for metric, score in row["metrics"].items()} for name, row in rows.items()}
    # Who never saw a 7 never says 7; the other classes it knows.
    assert value["retrain"]["gap"] == value["retrain"]["forget"] == 0 and value["retrain"]["unlearning"] == 1
    assert value["retrain"]["unseen"] > 0.8 and value["base"]["forget"] > 0.8
    assert value["base"]["gap"] > value["negmerge"]["gap"] > 0 and rows["negmerge"]["scale"] > 0

    # The class is forgotten, not only its training images: none of the table's sets holds a new 7.
    made = run(
        capsys,
        "unlearn",
        folder,
        "--choose",
        "gap",
        "--scales",
        "0.5:2:0.5",
        "--out",
        tmp_path / "without.safetensors",
        *here,
    )
    assert made["scale"] == rows["negmerge"]["scale"]
    model = load_model(f"classifier:tiny/{tmp_path / 'without.safetensors'}", device="cpu")
    known = {"negmerge": evaluate(model, sevens["test"]).value}
    for name, weights in (("base", pool.base), ("retrain", find_retrained(pool).weights)):
        model.load(weights.items())
        known[name] = evaluate(model, sevens["test"]).value
    assert known["retrain"] == 0 and known["negmerge"] < known["base"] - 0.3


class Stand:
    """What `doubts` asks of a pool: which class is forgotten whole, and the images of its sets."""

    def __init__(self, of_class, **labels):
        self.pool = SimpleNamespace(repeats=[], scene={"forgetting": {"of_class": of_class}})
        self.sets = [
            ImageSet(
                name, torch.zeros(len(found), 3, 1, 1, dtype=torch.uint8), torch.tensor(found), ("a", "b", "c"), "val"
            )
            for name, found in labels.items()
        ]

    def images(self, split):
        return self.sets


def test_a_class_that_is_missing_by_accident_is_warned_of():
    assert doubts(Stand("b", forgotten=[1, 1], remaining=[0, 2], unseen=[2, 0])) == []
    for name, found, lacking in (("unseen", [2], "a"), ("remaining", [0, 0], "c"), ("forgotten", [0], "b")):
        sets = {"forgotten": [1], "remaining": [0, 2], "unseen": [0, 2]} | {name: found}
        warnings = doubts(Stand("b", **sets))
        assert len(warnings) == 2 and all(
            f"{name} has no" in told and f"image of {lacking}:" in told for told in warnings
        )
    assert len(doubts(Stand(None, forgotten=[1], remaining=[0, 1, 2], unseen=[0, 2]))) == 4
