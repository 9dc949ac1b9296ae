"""`negmerge reproduce cifar10-random` on small files of CIFAR-10's kind: every row, ResNet-18, again, dry, misspelt."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from negmerge_kit.baselines import BASELINES
from negmerge_kit.classifier_eval.retrained_model import RetrainedSpec, find_retrained
from negmerge_kit.cli import main
from negmerge_kit.comparison.methods import ALL, RETRAIN_AGAIN
from negmerge_kit.data.embedded import family_images
from negmerge_kit.models import classifier
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.reproduction.cifar10_random import PROTOCOL, find_published_rows, with_published
from negmerge_kit.scoring.gap import average_gap
from negmerge_kit.scoring.metrics import METRICS
from negmerge_kit.training.from_scratch import BaseTraining

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GRID = "[recipe]\nlr = 2e-3\nepochs = 1\nbatch_size = 8\n[vary]\nweight_decay = [0.0, 0.1]\n"


def write_cifar(folder, **counts):
    """Other pictures under CIFAR-10's class names, as a local copy of it lies on a disk."""
    for split, n in counts.items():
        images = family_images("digits", split).take(n)
        for k, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            home = folder / split / CLASSES[label]
            home.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((32, 32)).save(home / f"{k:04d}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small CIFAR-10, a smaller one, and a grid of two."""
    folder = tmp_path_factory.mktemp("cifar")
    write_cifar(folder / "cifar10", train=120, test=30)
    write_cifar(folder / "few", train=17, test=10)
    (folder / "grid.toml").write_text(GRID)
    return folder


@pytest.fixture
def words(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setitem(classifier.BATCH, "cpu", 5)  # these sets are smaller than a whole pass
    return [
        *("reproduce", "cifar10-random", "--data", f"cifar10:{place / 'cifar10'}", "--grid", str(place / "grid.toml")),
        *("--share", "0.2", "--epochs", "1", "--device", "cpu", "--out", str(place / "out"), "--json"),
    ]


def run(words, capsys):
    code = main(words)
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if code == 0 else shown.err


def lasting(result):
    """The table without what takes another time every time."""
    return [
        {**row, "measured": row["measured"] and {k: v for k, v in row["measured"].items() if k != "seconds"}}
        for row in result["rows"]
    ]


@pytest.mark.slow
def test_every_row_from_files_to_the_table_and_again_without_a_step(words, place, capsys, monkeypatch):
    words = [*words, "--model", "tiny", "--scales", "0:1:0.5"]
    code, told = run(words, capsys)
    assert code == 0, told
    rows = {row["row"]: row for row in told["rows"]}
    assert list(rows) == ["base", *PROTOCOL, "single", "greedy", *ALL]
    assert told["never_seen"] == 0 and "20 %" in told["forgetting"] and told["failed"] == []
    for row in told["comparison"]["rows"]:
        if row["status"] in ("ok", "infeasible"):
            assert list(row["metrics"]) == list(METRICS)
        if row["rule"] in BASELINES:
            assert row["scale"] is None and row["matched"] is None and row["kept_fraction"] is None
            assert row["seconds"] >= sum(trial["seconds"] for trial in row.get("trials", ())) - 1e-9
    reference = {name: score["value"] for name, score in rows["retrain"]["measured"].items()}
    assert reference["gap"] == 0
    for row in rows.values():
        if row["measured"]:
            values = {name: score["value"] for name, score in row["measured"].items()}
            assert values["gap"] == pytest.approx(average_gap(values, reference))
    assert sum(row["measured"] is not None for row in rows.values()) >= 20

    from negmerge_kit.comparison import baseline_rows

    monkeypatch.setattr(baseline_rows, "choose_rate", None)  # whoever trains again fails
    code, again = run(words, capsys)
    assert code == 0 and again["rows"] == told["rows"]
    saved = json.loads((place / "out" / "cifar10-random-tiny-seed2-1-epochs-grid.json").read_text())
    assert saved == again
    assert main([word for word in words if word != "--json"]) == 0
    said = capsys.readouterr().out
    assert "Retrain" in said and "NegMerge" in said and "nearest" not in said.split("\n")[0]


def test_the_table_does_not_grow_with_the_kit(words, capsys):
    """`all` is what the protocol has; every other baseline of the kit is taken by name, and counted then."""
    newer = set(BASELINES) - set(PROTOCOL)
    assert newer and set(PROTOCOL) <= {*BASELINES, RETRAIN_AGAIN}
    published = {row["row"] for network in ("resnet18", "vgg16-bn") for row in find_published_rows(network).rows}
    assert published <= {*PROTOCOL, "single", "uniform", "negmerge"}
    words = [*words, "--model", "tiny", "--dry-run"]
    code, forecast = run([*words, "--rules", "none"], capsys)
    assert code == 0 and {row["row"] for row in forecast["rows"]} == {"base", "candidates", *PROTOCOL}
    code, forecast = run([*words, "--rules", "none", "--baselines", ",".join(newer)], capsys)
    assert code == 0 and newer < {row["row"] for row in forecast["rows"]}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table(words, place, capsys):
    few = [*words, *("--model", "tiny", "--scales", "0:1:0.5", "--as-published")]
    few += ["--rules", "negmerge,uniform", "--baselines", "retrain,salun"]
    _, one = run([*few, "--out", str(place / "one")], capsys)
    _, two = run([*few, "--out", str(place / "two")], capsys)
    assert lasting(one) == lasting(two)
    assert one["never_seen"] > 0 and "published" in one["forgetting"]


@pytest.mark.slow
def test_another_seed_draws_everything_anew(words, place, capsys):
    """Base, retrained model and candidates; the share to forget follows the seed too."""
    few = [*words, *("--model", "tiny", "--scales", "0:1:1", "--rules", "uniform", "--baselines", "retrain")]
    pools = []
    for seed in (4, 5):
        code, told = run([*few, "--seed", str(seed), "--out", str(place / "seeds")], capsys)
        assert code == 0, told
        pools.append(open_pool(place / "seeds" / f"cifar10-random-tiny-seed{seed}-1-epochs"))
        assert pools[-1].scene["training"]["seed"] == pools[-1].scene["forgetting"]["seed"] == seed
    first, second = ({recipe["seed"] for recipe in pool.recipes.values()} for pool in pools)
    assert (first, second) == ({8, 9}, {10, 11})
    assert pools[0].base_file.sha256 != pools[1].base_file.sha256
    own = [find_retrained(pool, RetrainedSpec(seed=seed, epochs=1)) for pool, seed in zip(pools, (4, 5), strict=True)]
    assert [retrained.json()["seed"] for retrained in own] == [4, 5]


@pytest.mark.slow
def test_resnet18_by_every_rule_and_baseline_beside_the_published_rows(words, place, capsys, monkeypatch):
    """Each baseline at the smallest rate of its published grid, each rule at one scale."""
    for name, baseline in BASELINES.items():
        presets = {key: replace(preset, rates=preset.rates[:1]) for key, preset in baseline.presets.items()}
        monkeypatch.setitem(BASELINES, name, replace(baseline, presets=presets))
    few = ["--data", f"cifar10:{place / 'few'}", "--share", "0.1", "--scales", "0:1:1"]
    code, told = run([*words, *few], capsys)
    assert code == 0, told
    rows = {row["row"]: row for row in told["rows"]}
    assert list(rows) == ["base", *PROTOCOL, "single", "greedy", *ALL]
    # Of so few images one more or less is the floor: which side a row falls on may change with the processor.
    assert {row["status"] for row in rows.values()} <= {"ok", "infeasible", "empty"}
    measured = {name: row["measured"] for name, row in rows.items() if name in BASELINES or row["status"] == "ok"}
    assert all(scores["mia"]["n"] == 1 for scores in measured.values()) and "negmerge" in measured
    for row in told["comparison"]["rows"]:
        assert len(row.get("trials", ())) == (row["rule"] in PROTOCOL), row["rule"]
    assert rows["retrain"]["measured"]["gap"]["value"] == 0
    assert [row["gap"] for row in rows["negmerge"]["published"]] == [0.0107, 0.029]
    assert len(rows["salun"]["published"]) == 2
    assert {row["source"] for row in rows["uniform"]["published"]} == {"targets", "reproduction"}
    names = open_pool(place / "out" / "cifar10-random-resnet18-seed2-1-epochs").base
    assert tuple(names["conv1.weight"].shape) == (64, 3, 3, 3)


@pytest.mark.slow
def test_another_grid_shares_the_base_but_no_candidate(words, place, capsys):
    (place / "other.toml").write_text(GRID.replace("0.1", "0.2"))
    few = [*words, *("--model", "tiny", "--seed", "3", "--scales", "0,1", "--rules", "uniform")]
    few += ["--baselines", "retrain", "--out", str(place / "grids")]
    _, one = run(few, capsys)
    _, two = run([*few, "--grid", str(place / "other.toml")], capsys)
    (folder,) = (path for path in (place / "grids").iterdir() if path.is_dir())
    assert len(open_pool(folder).ids) == 3 and len(list((place / "grids").glob("*.json"))) == 2
    seen = [set(told["comparison"]["candidates"]) for told in (one, two)]
    assert [len(ids) for ids in seen] == [2, 2] and len(seen[0] & seen[1]) == 1
    for told, ids in zip((one, two), seen, strict=True):
        assert set(next(row for row in told["comparison"]["rows"] if row["rule"] == "uniform")["candidates"]) == ids
    assert len({json.dumps(lasting(told)[0]) for told in (one, two)}) == 1  # of one base and one retrained model


@pytest.mark.slow
def test_published_rows_stand_beside_their_own_data_and_share_only(words, capsys):
    for data, share in (("cifar10", 0.1), ("cifar10:/copy", 0.1)):
        assert len(find_published_rows("resnet18", data, share).rows) == 17
    for asked in (("resnet18", "svhn"), ("resnet18", "folder:/my/cifar10"), ("resnet18", "cifar10", 0.2), ("tiny",)):
        none = find_published_rows(*asked)
        assert none.rows == () and "10 % of cifar10, resnet18" in none.why_none
    words = [word for word in words if word != "--json"]
    assert main([*words, "--model", "tiny", "--scales", "0:1:1", "--rules", "uniform", "--baselines", "retrain"]) == 0
    said = capsys.readouterr().out
    assert "Nothing is published for this" in said and "table2" not in said


@pytest.mark.slow
def test_each_network_has_its_published_grid(words, place, capsys):
    place_of = words.index("--grid")
    plain = [*words[:place_of], *words[place_of + 2 :], "--dry-run", "--rules", "negmerge", "--baselines", "none"]
    for network, name in (("resnet18", "paper-cifar"), ("vgg16-bn", "paper-cifar-vgg16"), ("swin-t", "cifar-swin")):
        code, told = run([*plain, "--model", network], capsys)
        assert code == 0 and (told["grid"], told["candidates"]) == (name, 27)


@pytest.mark.slow
def test_any_network_of_timm_is_trained_and_unlearned(words, place, capsys):
    few = [*words, "--model", "timm/test_resnet", "--scales", "0:1:1", "--rules", "uniform", "--baselines", "retrain"]
    code, told = run(few, capsys)
    assert code == 0, told
    assert {row["row"] for row in told["rows"] if row["measured"]} >= {"base", "uniform", "retrain"}
    assert "Nothing is published for this" in told["published"]["why_none"]
    scene = open_pool(place / "out" / "cifar10-random-timm-test_resnet-seed2-1-epochs").scene
    assert scene["model"] == {"arch": "classifier:timm/test_resnet", "pretrained": None}


@pytest.mark.slow
def test_a_dry_run_tells_steps_time_and_bytes(words, place, capsys):
    code, told = run([*words, "--dry-run"], capsys)
    assert code == 0 and told["steps"] > 0 and told["disk_bytes"] > 4 * told["model_bytes"]
    assert {row["row"] for row in told["rows"]} == {"base", "candidates", *PROTOCOL}
    assert told["images"]["forgotten"] == round(0.2 * told["images"]["train"])
    _, shadowed = run([*words, "--dry-run", "--shadows", "8", "--choose", "floor"], capsys)
    assert shadowed["steps"] > told["steps"] and shadowed["attacks"] < told["attacks"]
    few = ["--scales", "0:1:0.5", "--rules", "uniform", "--baselines", "retrain"]
    _, coarse = run([*words, "--dry-run", *few], capsys)
    assert (coarse["scales"], coarse["trainings"]) == (3, 5) and coarse["attacks"] < shadowed["attacks"]
    _, published = run([*words, "--dry-run", "--as-published"], capsys)
    assert published["images"]["forgotten"] != told["images"]["forgotten"]
    assert main([word for word in [*words, "--dry-run"] if word != "--json"]) == 0
    assert "GPU hours" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_counts_what_is_then_trained(words, place, capsys, monkeypatch):
    few = [*words, "--model", "tiny", "--scales", "0.5:1:0.5", "--shadows", "4", "--out", str(place / "counted")]
    few += ["--rules", "negmerge,uniform", "--baselines", "retrain,gradient-ascent,salun,single", "--as-published"]
    _, told = run([*few, "--dry-run"], capsys)
    forecast = {row["row"]: row for row in told["rows"]}
    assert not (place / "counted").exists()
    begun = []
    real = BaseTraining.steps
    monkeypatch.setattr(BaseTraining, "steps", lambda self, *a, **k: begun.append(self.recipe) or real(self, *a, **k))
    _, made = run(few, capsys)
    rows = {row["rule"]: row for row in made["comparison"]["rows"]}
    models = {"retrain", "retrain-again"}  # one judges, the other chooses
    assert forecast.keys() == {"base", "candidates", "shadows", *models, "gradient-ascent", "salun"}
    for name in ("retrain", "gradient-ascent", "salun"):
        assert forecast[name]["trainings"] == len(rows[name]["trials"]), name
        steps = sum(trial["steps"] for trial in rows[name]["trials"])
        assert forecast[name]["steps"] == pytest.approx(steps, rel=0.1), name
    assert forecast["candidates"]["trainings"] == len(made["comparison"]["candidates"]) == told["candidates"] == 2
    from_nothing = sum(forecast[name]["trainings"] for name in ("base", *models, "shadows"))
    assert len(begun) == from_nothing == 1 + 2 + 4
    assert told["trainings"] == from_nothing + 2 + sum(forecast[n]["trainings"] for n in ("gradient-ascent", "salun"))
    assert told["scales"] == sum(rows[name]["evaluations"] for name in ("single", "negmerge", "uniform")) == 3 * 4
    sizes = {name: rows["retrain"]["metrics"][name]["n"] for name in ("forget", "retain")}
    for name, images in (("forgotten", "forget"), ("remaining", "retain")):
        assert told["images"][name] == pytest.approx(sizes[images], abs=9), name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--model", "nope"], "choose one of tiny"),
        (["--model", "timm/nope"], "not known to timm"),
        (["--model", "timm/resnet18.a1_in1k"], "from scratch: leave them out"),
        (["--choose", "test"], "floor or gap"),
        (["--shadows", "3"], "halved"),
        (["--share", "0"], "nothing"),
        (["--baselines", "nope"], "there is no rule 'nope'"),
        (["--grid", "nope"], "grid"),
        (["--epochs", "0"], "epochs"),
        (["--data", "nope"], "not known"),
        (["--dry-run", "--tflops", "-3"], "--tflops is -3"),
    ],
)
def test_what_is_misspelt_is_told_before_anything_is_made(words, tmp_path, capsys, change, says):
    code, said = run([*words, "--out", str(tmp_path / "out"), *change], capsys)
    assert code == 2 and says in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("network", ["resnet18", "vgg16-bn"])
def test_published_gaps_follow_from_the_published_rows(network):
    published = find_published_rows(network)
    reference = {}
    for row in published.of("retrain"):
        reference.setdefault(row["source"] == "reproduction", row)
    for row in published.rows:
        assert row["second_hand"] == (row["source"] != "reproduction")
        if "mia" in row and "gap" in row:
            ours = average_gap(row, reference[row["source"] == "reproduction"])
            assert ours == pytest.approx(row["gap"], abs=1.01e-4), row["title"]
    assert find_published_rows("swin-t").rows == ()


def test_rows_that_were_only_published_stand_at_the_end():
    class Nothing:
        rows = ()

    lines = with_published(Nothing(), find_published_rows("vgg16-bn"))
    assert [line["row"] for line in lines] == ["retrain", "single", "negmerge"]
    assert all(line["status"] == "not measured" and not line["measured"] for line in lines)
