"""`negmerge reproduce clip-negation` on small files of the real formats: every row, again at no cost, and dry."""

import json

import pytest
from PIL import Image

from negmerge_kit.checkpoints import save_checkpoint
from negmerge_kit.cli import main
from negmerge_kit.data import find_data
from negmerge_kit.data.embedded import FAMILIES, family_images
from negmerge_kit.data.transform import Transform
from negmerge_kit.models.tiny_clip import TINY, tiny_weights
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.reproduction.clip_negation import ROWS, averages, find_published
from negmerge_kit.training.forecast import count_images
from negmerge_kit.unlearning.workbench import Workbench

GRID = "[recipe]\nlr = 1e-3\nepochs = 2\n[vary]\nweight_decay = [0.1, 0.2]\n"


def write_images(folder, family, split, n, name=str):
    """A family's pictures as PNG files, one folder a class, as data sets of classification come."""
    images = family_images(family, split).take(n)
    for k, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        place = folder / name(FAMILIES[family].classes[label])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{k:04d}.png")


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The command over an open_clip checkpoint, a local copy of MNIST's layout and a folder to keep."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = tiny_weights()
    base = save_checkpoint(tmp_path / "base.safetensors", weights.items(), like=weights)
    (tmp_path / "grid.toml").write_text(GRID)
    digits = dict(zip(FAMILIES["digits"].classes, "0123456789", strict=True))
    for split, n in (("train", 400), ("test", 120)):
        write_images(tmp_path / "mnist" / split, "digits", split, n, digits.get)
    write_images(tmp_path / "colours", "colours", "train", 400)
    return [
        *("reproduce", "clip-negation", "--model", f"{TINY}/{base}", "--datasets", f"mnist:{tmp_path / 'mnist'}"),
        *("--control", f"folder:{tmp_path / 'colours'}", "--grid", str(tmp_path / "grid.toml")),
        *("--out", str(tmp_path / "out"), "--device", "cpu", "--json"),
    ]


def run(words, capsys):
    code = main(words)
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_from_files_to_the_table_and_again_without_a_step(words, tmp_path, capsys, monkeypatch):
    code, told = run(words, capsys)
    assert code == 0
    (part,) = told["datasets"]
    assert (part["data"], part["candidates"], part["failed"]) == ("mnist", 2, [])
    rows = {row["row"]: row for row in part["rows"]}
    assert list(rows) == list(ROWS)
    assert rows["ties"]["params"]["trim_over"] == "all"  # as the paper's table, whatever the rule's default
    base = rows["base"]["test"]
    assert base["forget"]["n"] == 120 and base["forget"]["split"] == "test" and base["forget"]["value"] > 0.5
    for row in rows.values():
        if row["status"] == "ok":
            for side in ("forget", "retain"):
                assert row["test"][side]["low"] <= row["test"][side]["value"] <= row["test"][side]["high"]
        else:
            assert row["test"] is None and row["scale"] is None
    assert rows["negmerge"]["status"] == "ok"
    assert rows["negmerge"]["test"]["forget"]["value"] < base["forget"]["value"]
    assert rows["single"]["searches"] == 2 and part["training_seconds"] > 0
    mean = {line["row"]: line for line in told["averages"]}
    assert mean["negmerge"]["measured"]["forget"] == rows["negmerge"]["test"]["forget"]["value"]
    assert json.loads((tmp_path / "out" / "clip-negation.json").read_text()) == told

    made = open_pool(tmp_path / "out" / "mnist").entries
    asked, score = [], Workbench.score

    def counted(self, *given):
        before = self.scorer.images
        found = score(self, *given)
        asked.append(self.scorer.images - before)
        return found

    monkeypatch.setattr(Workbench, "score", counted)
    _, again = run(words, capsys)
    assert open_pool(tmp_path / "out" / "mnist").entries == made and asked and not any(asked)

    def lasting(result):
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in result["datasets"][0]["rows"]]

    assert lasting(again) == lasting(told)

    assert main([word for word in words if word != "--json"]) == 0
    said = capsys.readouterr().out
    assert "NegMerge" in said and "published" in said and "interval" in said


@pytest.mark.slow
def test_candidates_of_another_grid_in_the_same_folder_take_no_part(words, tmp_path, capsys):
    words = [*words, "--rows", "single,negmerge"]
    assert run(words, capsys)[0] == 0
    (tmp_path / "grid.toml").write_text(GRID.replace("[0.1, 0.2]", "[0.3]"))
    _, told = run(words, capsys)
    (part,) = told["datasets"]
    assert part["candidates"] == 1 and part["rows"][0]["searches"] == 1
    assert len(open_pool(tmp_path / "out" / "mnist").ids) == 3


def test_a_dry_run_tells_and_makes_nothing(words, tmp_path, capsys):
    code, told = run([*words, "--dry-run"], capsys)
    assert code == 0 and not (tmp_path / "out").exists()
    (row,) = told["rows"]
    assert (row["candidates"], row["training_images"]) == (2, 360)
    assert told["gpu_hours"] > 0 and told["disk_bytes"] > 3 * told["model_bytes"]
    _, twice = run([*words, "--dry-run", "--tflops", "80"], capsys)
    assert twice["gpu_hours"] == pytest.approx(told["gpu_hours"] / 2)
    assert main([word for word in [*words, "--dry-run"] if word != "--json"]) == 0
    assert "GPU hours" in capsys.readouterr().out


@pytest.mark.slow
def test_linear_models_are_trained_and_said_to_be(words, tmp_path, capsys):
    _, dry = run([*words, "--mode", "linear", "--dry-run"], capsys)
    _, plain = run([*words, "--dry-run"], capsys)
    assert dry["mode"] == "linear" and dry["gpu_hours"] > 1.5 * plain["gpu_hours"]  # a tangent takes two passes
    code, told = run([*words, "--mode", "linear", "--rows", "base,negmerge"], capsys)
    pool = open_pool(tmp_path / "out" / "mnist-linear")
    assert code == 0 and told["mode"] == pool.scene["mode"] == "linear"
    assert json.loads((tmp_path / "out" / "clip-negation-linear.json").read_text()) == told
    assert main(["pool", "show", str(pool.folder)]) == 0 and "linear models" in capsys.readouterr().out
    _, standard = run([*words, "--rows", "negmerge"], capsys)
    assert standard["mode"] == "standard" and len(open_pool(tmp_path / "out" / "mnist").ids) == len(pool.ids) == 2
    assert {e.sha256 for e in pool.entries}.isdisjoint(e.sha256 for e in open_pool(tmp_path / "out" / "mnist").entries)


def test_published_rows_of_linear_models_are_their_own():
    linear = find_published("ViT-B-32/openai", "linear")
    assert linear.average("negmerge") == {"forget": 0.0803} and linear.average("uniform") is None
    assert linear.row("negmerge", "cars") is None and linear.row("base", "cars")["forget"] == 0.5964
    assert find_published("ViT-L-14/openai", "linear").average("base") is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--rows", "nope"], "choose among base"),
        (["--datasets", "digits,digits"], "twice"),
        (["--datasets", ","], "empty list"),
        (["--datasets", "nope"], "not known"),
        (["--grid", "nope"], "grid"),
        (["--grid", "paper-randaugment-linear"], "is for linear models, and mode is standard: choose mode linear"),
        (["--grid", "paper-randaugment", "--mode", "linear"], "is for standard models, and mode is linear"),
        (["--keep", "2"], "keep"),
        (["--model", "timm:resnet18/a1_in1k", "--dry-run"], "text tower"),
        (["--dry-run", "--tflops", "nan"], "--tflops is nan"),
        (["--dry-run", "--tflops", "-3"], "--tflops is -3"),
        (["--dry-run", "--datasets", "hf:nobody/nothing"], "negmerge data prepare"),
    ],
)
def test_what_is_misspelt_is_told_before_anything_is_made(words, tmp_path, capsys, change, says):
    assert main([*words, *change]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_published_numbers_are_those_of_the_record():
    published = find_published("ViT-B-32-quickgelu/openai")
    bases = [published.row("base", name)["forget"] for name in published.sets]
    assert len(bases) == 8 and sum(bases) / 8 == pytest.approx(published.average("base")["forget"], abs=5e-5)
    assert published.row("base", "cars")["retain"] == 0.6334 and published.row("base", "folder") is None
    points = published.numbers["curve"]["points"]
    kept = [(forget, scale) for scale, forget, retain in points if retain >= published.numbers["curve"]["floor"]]
    assert min(kept)[1] == published.row("negmerge", "cars")["scale"] == 0.9
    assert find_published("tiny").row("negmerge", "cars") is None


def test_averages_say_which_sets_they_are_over():
    def part(name, forget):
        test = forget and {"forget": {"value": forget}, "retain": {"value": 0.6}}
        return {"data": name, "rows": [{"row": "negmerge", "test": test}]}

    (line,) = averages([part("cars", 0.2), part("dtd", 0.4), part("svhn", None)], find_published("ViT-B-32/openai"))
    assert line["measured"] == {"forget": pytest.approx(0.3), "retain": 0.6, "sets": ["cars", "dtd"]}
    assert line["published"] == {"forget": 0.2076, "retain": 0.6036} and line["complete"] is False


@pytest.mark.parametrize(
    ("text", "split", "n"),
    [
        ("cars", "val", 814),
        ("imagenet", "val", 5000),
        ("imagenet", "test", 50000),
        ("imagenet-small", "test", 5000),
        ("digits", "val", 240),
        ("svhn", "train", 68257),
    ],
)
def test_images_are_counted_before_they_are_here(text, split, n):
    assert count_images(find_data(text), split, Transform(32, 32)) == n
