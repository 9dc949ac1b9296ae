"""`negmerge compare`, `search` and `unlearn` on a standard classifier's pool: contract, kept rows, one-line errors."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from negmerge_kit.baselines import BASELINES
from negmerge_kit.baselines.baseline import Baseline
from negmerge_kit.checkpoints.header import MADE_FROM
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.classifier_eval.evaluator import ClassifierEvaluator
from negmerge_kit.classifier_eval.retrained_model import RetrainedSpec, find_retrained, keep_retrained
from negmerge_kit.cli import compare, main
from negmerge_kit.cli.progress import ProgressDisplay
from negmerge_kit.comparison.compare import across, compare_rules
from negmerge_kit.comparison.options import ComparisonOptions
from negmerge_kit.comparison.row import Row
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scoring.gap import GAP_OVER
from negmerge_kit.scoring.metrics import METRICS
from negmerge_kit.sweeps.finetune_job import missing_jobs
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.workbench import Workbench

pytestmark = pytest.mark.slow

SCORE = {"value", "n", "low", "high", "split"}
FEW = ("--rules", "negmerge,uniform", "--scales", "0:1:0.25", "--device", "cpu")
FEW += ("--baselines", "retrain,gradient-ascent,single")
TRAINING = {"epochs": 3}


def run(capsys, *words):
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The embedded classifier, trained for a few epochs, with three quick candidates."""
    from negmerge_kit.scenes.find import open_scene

    scene = replace(open_scene("tiny-classifier"), training=TRAINING)
    pool, _ = start_pool(scene, tmp_path_factory.mktemp("classifier") / "pool")
    recipes = [Recipe(lr=lr, epochs=4, batch_size=30, warmup=0, weight_decay=0.0) for lr in (1e-3, 2e-3, 3e-3)]
    for outcome in run_sweep(missing_jobs(pool, recipes, device="cpu"), store=pool):
        assert outcome.failure is None, outcome.failure
    return pool.folder


@pytest.fixture(scope="module")
def compared(made, tmp_path_factory):
    """The same pool after a comparison by the gap, with what it printed."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("compared") / "pool")
    return folder, ("compare", folder, *FEW, "--choose", "gap", "--shadows", "4")


def test_compare_prints_the_contract_and_metrics(capsys, compared, monkeypatch, tmp_path):
    _, words = compared
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["choose"], told["shadows"], told["seed"]) == ("gap", 4, 0)
    rows = {row["rule"]: row for row in told["rows"]}
    assert list(rows) == ["base", "retrain", "gradient-ascent", "single", "negmerge", "uniform"]
    for name, row in rows.items():
        assert {
            "rule",
            "params",
            "status",
            "scale",
            "validation",
            "test",
            "matched",
            "kept_fraction",
            "evaluations",
            "seconds",
            "peak_memory",
        } <= set(row)
        assert list(row["metrics"]) == list(METRICS)
        for metric, score in row["metrics"].items():
            assert SCORE <= set(score) and score["value"] is not None, (name, metric, score)
        for which, split in (("validation", "val"), ("test", "test")):
            for side in ("forget", "retain"):
                assert set(row[which][side]) == SCORE and row[which][side]["split"] == split
        # The contract's pair and the metrics are counts of the same images.
        assert row["test"]["forget"]["value"] == row["metrics"]["forget"]["value"]
        n, right = 0, 0
        for part in ("retain", "unseen"):
            n, right = n + row["metrics"][part]["n"], right + row["metrics"][part]["value"] * row["metrics"][part]["n"]
        assert row["test"]["retain"]["n"] == n and row["test"]["retain"]["value"] == pytest.approx(right / n)
    reference = rows["retrain"]["metrics"]
    for row in rows.values():
        expected = sum(abs(row["metrics"][m]["value"] - reference[m]["value"]) for m in GAP_OVER) / 4
        assert row["metrics"]["gap"]["value"] == pytest.approx(expected)
    assert rows["base"]["scale"] is None and rows["base"]["seconds"] == 0
    ascent = rows["gradient-ascent"]
    assert ascent["scale"] is ascent["matched"] is ascent["kept_fraction"] is None
    assert len(ascent["trials"]) > 1 and ascent["seconds"] == pytest.approx(sum(t["seconds"] for t in ascent["trials"]))
    assert min(t["score"] for t in ascent["trials"] if t["score"] is not None) == next(
        t["score"] for t in ascent["trials"] if t["rate"] == ascent["params"]["learning_rate"]
    )
    best = min(rows["negmerge"]["curve"], key=lambda point: (point["gap"], point["scale"]))
    assert rows["negmerge"]["scale"] == best["scale"]
    for name, searches in (("negmerge", 1), ("single", 3)):  # every scale of every search, all images of validation
        n = sum(rows[name]["validation"][side]["n"] for side in ("forget", "retain"))
        assert rows[name]["evaluations"] == 5 * searches and rows[name]["cost"]["images"] == 5 * searches * n

    monkeypatch.setattr(Workbench, "fresh_model", None)  # whoever trains or measures again fails
    code, again, err = run(capsys, *words, "--json")
    assert code == 0 and json.loads(again)["rows"] == told["rows"], err
    code, said, _ = run(capsys, *words, "--plot", tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 10_000
    assert code == 0 and "nearest" not in said and "smallest gap" in said
    assert "Gradient ascent" in said and "Retrain" in said


def test_several_pools_tell_every_metric_with_its_range(capsys, compared):
    folder, _ = compared
    bench = Workbench(open_pool(folder), device="cpu")
    terms = ComparisonOptions("gap", 4, 0)
    scales = [0.0, 0.25, 0.5, 0.75, 1.0]
    kept = RowStore(bench.pool, keep=0.95, scales=scales, device=bench.model.device, options=terms)
    one = compare_rules(bench, ["base", "negmerge"], scales=scales, kept=kept, options=terms)
    (base, negmerge) = across([one, one])
    assert set(base["metrics"]) == set(METRICS)
    gap = negmerge["metrics"]["gap"]
    assert gap["points"] == [one.rows[1].metrics.values["gap"]] * 2 and gap["interval"] is None


def test_search_and_unlearn_by_the_gap(capsys, compared, tmp_path):
    folder, words = compared
    run(capsys, *words, "--json")
    scales = ("--scales", "0.25:1:0.25")
    code, out, err = run(capsys, "search", folder, "--choose", "gap", *scales, "--test", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["choose"] == "gap" and found["keep"] == 0
    assert found["scale"] == min(found["curve"], key=lambda point: (point["gap"], point["scale"]))["scale"] > 0
    assert found["test"]["forget"]["split"] == "test"
    out = ("--out", tmp_path / "u.safetensors", "--json")
    code, said, err = run(capsys, "unlearn", folder, "--choose", "gap", *scales, *out)
    written = json.loads(said)
    assert code == 0 and written["scale"] == found["scale"], err
    card = json.loads(Path(written["card"]).read_text())
    assert "nearest to the retrained model" in card["chosen"] and card["search"]["choose"] == "gap"
    code, out, err = run(capsys, "verify", written["card"], "--pool", folder, "--json")
    claims = {finding["claim"]: finding["holds"] for finding in json.loads(out)["claims"]}
    assert claims["scale"] is True, out


@pytest.mark.parametrize("choose", ["floor", "gap"])
def test_a_baseline_that_diverges_is_charged_and_shows_its_trials(compared, choose, monkeypatch, capsys):
    folder, words = compared
    run(capsys, *words, "--json")
    ascent = BASELINES["gradient-ascent"]
    far = replace(ascent, presets={name: replace(one, rates=(1e30, 1e31)) for name, one in ascent.presets.items()})
    monkeypatch.setitem(BASELINES, "gradient-ascent", far)
    bench, terms = Workbench(open_pool(folder), device="cpu"), ComparisonOptions(choose)
    (row,) = compare_rules(bench, ["gradient-ascent"], options=terms).rows
    assert row.status == "diverged" and row.metrics is None and "smaller ones" in row.params["why"]
    assert [(trial["rate"], trial["status"]) for trial in row.trials] == [(1e30, "diverged"), (1e31, "diverged")]
    assert row.cost.search == sum(trial["seconds"] for trial in row.trials) > 0 and row.cost.evaluations == 2
    assert row.json()["trials"] == list(row.trials) and Row.from_json(row.method, row.json()) == row


def test_by_the_floor_nothing_needs_a_retrained_model(capsys, made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "pool")
    words = ("compare", folder, "--rules", "negmerge", "--baselines", "gradient-ascent", "--scales", "0:1:0.5")
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    rows = {row["rule"]: row for row in json.loads(out)["rows"]}
    gap = rows["negmerge"]["metrics"]["gap"]
    assert gap["value"] is None and "retrain" in gap["why"]
    floor = 0.95 * rows["base"]["validation"]["retain"]["value"]
    for row in rows.values():
        assert row["status"] != "ok" or row["validation"]["retain"]["value"] >= floor - 1e-9
    assert find_retrained(open_pool(folder)) is None
    code, out, err = run(capsys, *words)
    assert code == 0 and "0.95 of the base" in out


def test_rates_are_one_bar_the_last_rule_says_so_and_shadow_models_are_not_mentioned(
    capsys, made, tmp_path, monkeypatch
):
    folder, told = shutil.copytree(made, tmp_path / "pool"), []
    show = ProgressDisplay.show

    def heard(display, text="", *, done=None, total=None):
        show(display, text, done=done, total=total)
        told.append((text, display._done, display._left()))

    monkeypatch.setattr(ProgressDisplay, "show", heard)
    words = ("compare", folder, "--rules", "negmerge", "--baselines", "gradient-ascent", "--scales", "0,0.5")
    code, out, err = run(capsys, *words, "--device", "cpu", "--json")
    assert code == 0, err
    trials = {row["rule"]: row for row in json.loads(out)["rows"]}["gradient-ascent"]["trials"]
    steps = [(text, done) for text, done, _ in told if text.startswith("Gradient ascent, 2 of 3: rate")]
    total = sum(trial["steps"] for trial in trials)
    assert len(trials) > 1 and len(steps) == total
    # From the end of the first row to that of the second, without beginning again at the second rate.
    assert [done for _, done in steps] == pytest.approx([1 + (k + 1) / total for k in range(total)])
    n = len(trials)
    assert f"rate {trials[-1]['rate']:g} ({n} of {n}), step {total}/{total}" in steps[-1][0]
    (last,) = (left for text, _, left in told if "last rule" in text)
    assert not last and any(left.startswith("about") for _, _, left in told[:-2])
    code, tables, more = run(capsys, *words, "--device", "cpu")
    said = out + err + tables + more + "".join(text for text, _, _ in told)
    assert code == 0 and "shadow model" not in said.lower()


def test_running_statistics_are_merged_or_recalibrated_and_rows_are_kept_apart(capsys, made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "pool")
    words = ("compare", folder, "--rules", "uniform", "--baselines", "single", "--scales", "0:1:0.5", "--device", "cpu")
    found = {}
    for buffers in ("keep", "merge", "recalibrate"):
        code, out, err = run(capsys, *words, "--buffers", buffers, "--json")
        found[buffers] = json.loads(out)
        assert code == 0 and found[buffers]["buffers"] == buffers, err
        assert ("variances would be negative" in err) == (buffers == "merge")
        base, *merged = found[buffers]["rows"]
        assert base["test"] == found["keep"]["rows"][0]["test"]
        assert buffers == "keep" or all(
            row["curve"] != kept["curve"] for row, kept in zip(merged, found["keep"]["rows"][1:], strict=True)
        )
    # One file for the base, and one for each of the two rows under each policy.
    assert len(list((folder / "comparisons").iterdir())) == 1 + 2 * 3
    bench, row = Workbench(open_pool(folder), device="cpu"), found["recalibrate"]["rows"][2]
    scores = bench.score(bench.choose(rule="uniform", buffers="recalibrate"), row["scale"], "test")
    assert scores.forget.json() == row["test"]["forget"] and scores.retain.json() == row["test"]["retain"]

    monkeypatch.setattr(Workbench, "fresh_model", None)  # whoever measures again fails
    for buffers, told in found.items():
        code, out, err = run(capsys, *words, "--buffers", buffers)
        assert code == 0 and ("running statistics: " + buffers in out) == (buffers != "keep"), err
        assert json.loads(run(capsys, *words, "--buffers", buffers, "--json")[1])["rows"] == told["rows"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("compare", "--buffers", "reset"), "--buffers"),
        (("compare", "--choose", "gap", "--baselines", "none", "--rules", "negmerge"), "no retrained model"),
        (("compare", "--choose", "test"), "floor or gap"),
        (("compare", "--shadows", "3"), "halved"),
        (("compare", "--seed", "-1"), "seed -1 is out of range"),
        (("compare", "--baselines", "nope"), "on a classifier's pool"),
        (("compare", "--resample", "10"), "--resample"),
        (("search", "--choose", "gap"), "no retrained model"),
        (("search", "--choose", "gap", "--keep", "0.95"), "leave --keep out"),
        (("compare", "--choose", "gap", "--keep", "0.95"), "leave --keep out"),
        (("unlearn", "--out", "u.safetensors", "--choose", "gap", "--scale", "1", "--keep", "1"), "--keep and --scale"),
        (("audit", "--choose", "gap", "--unlearned", "{pool}/base.safetensors"), "leave --unlearned out"),
    ],
)
def test_wrong_words_are_one_sentence(capsys, made, words, says):
    code, _, err = run(capsys, words[0], made, *(word.format(pool=made) for word in words[1:]))
    assert code == 2 and says in err and err.strip().count("\n") == 0, err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("compare", "--baselines", "salun"), "unlearns a standard classifier"),
        (("compare", "--buffers", "recalibrate"), "no batch normalisation to recalibrate"),
        (("compare", "--choose", "gap"), "no standard classifier's pool: leave --choose out."),
        (("compare", "--epochs", "1", "--shadows", "4"), "leave --shadows and --epochs out."),
        (("search", "--choose", "gap"), "no parted training images"),
    ],
)
def test_a_clip_pool_has_no_baselines_of_classifiers(capsys, tiny_pool, words, says):
    code, _, err = run(capsys, words[0], tiny_pool, *words[1:])
    assert code == 2 and says in err and err.strip().count("\n") == 0, err


def test_a_retrained_model_of_another_base_is_not_taken(capsys, made, tmp_path):
    other = Path(shutil.copytree(made, tmp_path / "pool"))
    weights = open_pool(other).base
    key = {"base": "0" * 64, "recipe": {"seed": 0}}
    save_checkpoint(
        other / "retrained-0123456789abcdef.safetensors",
        weights.items(),
        like=weights,
        metadata={MADE_FROM: "0" * 64, "seconds": 1.0, "made_from": key},
    )
    code, _, err = run(capsys, "search", other, "--choose", "gap")
    assert code == 2 and "has no retrained model" in err


def test_every_seed_has_a_retrained_model_of_its_own(capsys, compared, tmp_path):
    folder, words = compared
    run(capsys, *words, "--json")
    folder = Path(shutil.copytree(folder, tmp_path / "pool"))
    only = ("--rules", "none", "--baselines", "retrain", "--device", "cpu", "--json")
    code, _, err = run(
        capsys,
        "compare",
        folder,
        "--choose",
        "gap",
        "--rules",
        "negmerge",
        "--baselines",
        "none",
        "--seed",
        "1",
        "--device",
        "cpu",
    )
    assert code == 2 and "no retrained model of seed 2" in err and "--seed 2" in err  # the one that chooses
    rows = {}
    for seed in (1, 0):
        code, out, err = run(capsys, "compare", folder, *only, "--seed", seed)
        assert code == 0, err
        rows[seed] = json.loads(out)["rows"][1]
        assert rows[seed]["params"]["seed"] == seed and rows[seed]["metrics"]["gap"]["value"] == 0
    pool = open_pool(folder)
    first, second = (find_retrained(pool, RetrainedSpec(seed=seed)) for seed in (0, 1))
    assert first.sha256 != second.sha256 and len(list(folder.glob("retrained-*.safetensors"))) == 2
    assert find_retrained(pool, RetrainedSpec(seed=0, epochs=2)) is None is find_retrained(pool, RetrainedSpec(seed=2))
    assert find_retrained(pool, RetrainedSpec(sha256=second.sha256)) == second

    # Who names no seed is told which one was taken, and the card says it for good.
    few = ("--choose", "gap", "--scales", "0.5:1:0.5", "--device", "cpu")
    code, out, err = run(capsys, "search", folder, *few)
    assert code == 0 and f"{second.path.name} (seed 1, 3 epochs)" in out, err
    code, out, err = run(capsys, "unlearn", folder, *few, "--out", tmp_path / "u.safetensors", "--json")
    written = json.loads(out)
    assert written["retrained"] == {"file": second.path.name, "sha256": second.sha256, "seed": 1, "epochs": 3}, err
    told = json.loads(Path(written["card"]).read_text())["search"]["retrained"]
    assert told == written["retrained"]
    verify = ("verify", written["card"], "--pool", folder, "--device", "cpu", "--json")
    claims = {claim["claim"]: claim for claim in json.loads(run(capsys, *verify)[1])["claims"]}
    assert claims["retrained model"]["holds"] is claims["scale"]["holds"] is True
    second.path.unlink()
    code, out, _ = run(capsys, *verify)
    claims = {claim["claim"]: claim for claim in json.loads(out)["claims"]}
    assert code != 0 and claims["retrained model"]["holds"] is False and claims["scale"]["holds"] is None
    assert "another retrained model" in claims["retrained model"]["says"]


def test_epochs_shorten_every_baseline_and_are_part_of_what_is_kept(capsys, made, tmp_path):
    pool = shutil.copytree(made, tmp_path / "pool")
    words = ("compare", pool, "--rules", "none", "--baselines", "gradient-ascent", "--scales", "0:1:0.5", "--json")
    steps = {}
    for epochs in (1, 2):
        code, out, err = run(capsys, *words, "--epochs", epochs)
        assert code in (0, 2) and out, err  # 2: one epoch may not be enough to unlearn
        told = json.loads(out)
        row = next(row for row in told["rows"] if row["rule"] == "gradient-ascent")
        assert told["epochs"] == row["params"]["epochs"] == epochs
        steps[epochs] = max(trial["steps"] for trial in row["trials"])
    assert steps[2] == 2 * steps[1]
    logs = [json.loads(file.read_text()) for file in (pool / "baselines").glob("gradient-ascent-*.json")]
    assert {log["made_from"]["epochs"] for log in logs} == {1, 2}


def test_a_quick_look_by_the_gap_has_retrained_models_of_its_own(capsys, made, tmp_path):
    pool = shutil.copytree(made, tmp_path / "pool")
    words = ("compare", pool, "--choose", "gap", "--rules", "negmerge", "--scales", "0:1:0.5", "--device", "cpu")
    code, _, err = run(capsys, *words, "--baselines", "none", "--epochs", "1")
    remedy = shlex.split(err.split("`")[1])[1:]
    assert code == 2 and "of seed 1 and 1 epoch that" in err and remedy[-4:-2] == ["--epochs", "1"], err
    seen = {}
    for epochs in (("--epochs", "1"), ()):
        code, out, err = run(capsys, *words, "--baselines", "retrain,retrain-again,gradient-ascent", *epochs, "--json")
        told = json.loads(out)
        seen[epochs] = {row["rule"]: row for row in told["rows"]}
        assert code == 0 and told["choose"] == "gap" and told["epochs"] == (1 if epochs else None), err
        assert {row["params"]["epochs"] for name, row in seen[epochs].items() if "retrain" in name} == {
            1 if epochs else TRAINING["epochs"]
        }
    quick, full = seen.values()
    assert quick["gradient-ascent"]["params"]["epochs"] == 1
    for rule in ("base", "negmerge"):  # another judge, another gap
        assert quick[rule]["metrics"]["gap"]["value"] != full[rule]["metrics"]["gap"]["value"]
    assert len(list(pool.glob("retrained-*.safetensors"))) == 4
    # With both on disk, the quick look needs nothing but a flag, and says what it is.
    code, out, err = run(capsys, *words, "--baselines", "none", "--epochs", "1")
    assert code == 0 and "a quick look: baselines and retrained models have 1 epoch\n" in out, err
    assert "quick look" not in run(capsys, *words, "--baselines", "none")[1]


def test_anew_tries_every_rate_again(capsys, made, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(made, tmp_path / "pool"))
    words = ("compare", folder, "--rules", "none", "--baselines", "gradient-ascent", "--device", "cpu", "--json")
    words += ("--keep", "0.1")
    tried = []
    unlearn = Baseline.unlearn
    monkeypatch.setattr(Baseline, "unlearn", lambda self, *a, **k: tried.append(k["rate"]) or unlearn(self, *a, **k))
    assert run(capsys, *words)[0] == 0
    rates, kept = list(tried), sorted((folder / "baselines").iterdir())
    assert len(rates) > 1
    assert sorted(json.loads(file.read_text())["value"]["rate"] for file in kept) == rates
    before = [file.stat().st_mtime_ns for file in kept]
    tried.clear()
    assert run(capsys, *words, "--recompute")[0] == 0
    assert tried == rates and sorted((folder / "baselines").iterdir()) == kept
    assert max(before) < min(file.stat().st_mtime_ns for file in kept)


def test_what_every_row_needs_is_made_before_the_rows_are_spread(capsys, made, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(made, tmp_path / "pool"))
    there, models = [], []

    def spread(title, jobs, options, *, last):
        assert last == "last rule"
        models.extend(path.stat().st_ino for path in folder.glob("retrained-*.safetensors"))
        assert [job.recompute for job in jobs] == [options.recompute and job.method.rule != "retrain" for job in jobs]
        there.extend(
            [
                len(jobs),
                len(list((folder / "shadows").glob("*.safetensors"))),
                len(list(folder.glob("retrained-*.safetensors"))),
            ]
        )

    monkeypatch.setattr(compare, "spread", spread)
    code, _, err = run(
        capsys,
        "compare",
        folder,
        "--rules",
        "none",
        "--baselines",
        "retrain",
        "--shadows",
        "4",
        "--executor",
        "process",
        "--device",
        "cpu",
        "--json",
    )
    assert code == 0 and there == [2, 4, 1], (there, err)
    # Made anew it is made once, before the rows, and by nobody after them.
    code, _, err = run(
        capsys,
        "compare",
        folder,
        "--rules",
        "none",
        "--baselines",
        "retrain",
        "--recompute",
        "--executor",
        "process",
        "--device",
        "cpu",
        "--json",
    )
    (last,) = (path.stat().st_ino for path in folder.glob("retrained-*.safetensors"))
    assert code == 0 and len(models) == 2 and models[0] != models[1] == last, err


def test_a_reference_made_anew_is_measured_anew(made, tmp_path):
    folder = Path(shutil.copytree(made, tmp_path / "pool"))
    bench = Workbench(open_pool(folder), device="cpu")
    evaluator = ClassifierEvaluator(bench)
    scaled = [
        {name: tensor * factor if tensor.is_floating_point() else tensor for name, tensor in bench.pool.base.items()}
        for factor in (1.0, 0.01)
    ]
    seen = []
    for weights in scaled:
        keep_retrained(bench.pool, weights, {"seconds": 1.0}, RetrainedSpec(seed=0, device="cpu"))
        seen.append(evaluator.reference("val").values)
    assert seen[0] != seen[1] and evaluator.reference("val") is evaluator.reference("val")
