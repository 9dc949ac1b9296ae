"""A class forgotten whole: `sweep` and `compare --choose gap` from a scene's file, and what new images of it show."""

import json
from dataclasses import replace

import pytest

from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.cli import main
from negmerge_kit.lab.evaluation import evaluate
from negmerge_kit.lab.retrained import find_retrained
from negmerge_kit.vision.clip import load_model
from negmerge_kit.vision.data import find_data
from negmerge_kit.vision.forgetting import parts_of
from negmerge_kit.vision.scene import Scene

SCENE = 'model = "classifier:tiny"\ndata = "scans"\nforget = {class = "7"}\ntraining = {epochs = 5}\n'
GRID = "[recipe]\nlr = 1e-3\nepochs = 4\nbatch_size = 30\nwarmup = 0\nweight_decay = 0.0\n[vary]\nlr = [1e-3, 2e-3]\n"


def run(capsys, *words):
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)


@pytest.fixture
def sevens():
    """Every image of the class, by split, as the data have them."""
    splits = {split: find_data("scans").images(split, image_size=8) for split in ("train", "val", "test")}
    return {split: replace(images, name="forgotten", images=images.images[images.labels == 7],
                           labels=images.labels[images.labels == 7], known=None) for split, images in splits.items()}


def test_from_a_scenes_file_to_the_table(tmp_path, capsys, sevens):
    (tmp_path / "seven.toml").write_text(SCENE)
    (tmp_path / "grid.toml").write_text(GRID)
    folder, here = tmp_path / "pool", ("--device", "cpu", "--json")
    swept = run(capsys, "sweep", "--scene", tmp_path / "seven.toml", "--grid", tmp_path / "grid.toml", "--out", folder,
                *here)  # fmt: skip
    assert len(swept["candidates"]) == 2 and swept["failed"] == []
    told = run(capsys, "compare", folder, "--choose", "gap", "--rules", "negmerge,uniform", "--baselines", "retrain",
               "--scales", "0:2:0.5", *here)  # fmt: skip

    pool, sizes = open_pool(folder), {split: len(images) for split, images in sevens.items()}
    parts = parts_of(Scene.from_json(pool.scene))
    assert parts.forgotten.fingerprint() == sevens["train"].fingerprint()
    assert all(7 not in images.labels for images in (parts.remaining, parts.validation, parts.test))
    told_of = {images["name"]: images["n"] for images in pool.scene["sets"] if images["split"] in ("train", "test")}
    # One half of what was trained on reports, the other half chooses.
    assert sizes["train"] == 120 and len(parts.remaining) == 1080
    assert told_of == {"forgotten": 60, "remaining": 540, "unseen": len(parts.test)}
    rows = {row["rule"]: row for row in told["rows"]}
    assert list(rows) == ["base", "retrain", "negmerge", "uniform"]
    whole = {split: len(find_data("scans").images(split, image_size=8)) for split in sizes}
    for name, row in rows.items():
        n = {metric: row["metrics"][metric]["n"] for metric in ("forget", "retain", "unseen", "mia")}
        assert n == {"forget": sizes["train"], "retain": whole["train"] - sizes["train"],
                     "unseen": whole["test"] - sizes["test"], "mia": sizes["train"]}, name  # fmt: skip
        assert row["test"]["retain"]["n"] == n["retain"] + n["unseen"]
        assert row["validation"]["retain"]["n"] == n["retain"] + whole["val"] - sizes["val"]
    value = {name: {metric: score["value"] for metric, score in row["metrics"].items()} for name, row in rows.items()}
    # Who never saw a 7 never says 7; the other classes it knows.
    assert value["retrain"]["gap"] == value["retrain"]["forget"] == 0 and value["retrain"]["unlearning"] == 1
    assert value["retrain"]["unseen"] > 0.8 and value["base"]["forget"] > 0.8
    assert value["base"]["gap"] > value["negmerge"]["gap"] > 0 and rows["negmerge"]["scale"] > 0

    # The class is forgotten, not only its training images: none of the table's sets holds a new 7.
    made = run(capsys, "unlearn", folder, "--choose", "gap", "--scales", "0.5:2:0.5", "--out",
               tmp_path / "without.safetensors", *here)  # fmt: skip
    assert made["scale"] == rows["negmerge"]["scale"]
    model = load_model(f"classifier:tiny/{tmp_path / 'without.safetensors'}", device="cpu")
    known = {"negmerge": evaluate(model, sevens["test"]).value}
    for name, weights in (("base", pool.base), ("retrain", find_retrained(pool).weights)):
        model.load(weights.items())
        known[name] = evaluate(model, sevens["test"]).value
    assert known["retrain"] == 0 and known["negmerge"] < known["base"] - 0.3
