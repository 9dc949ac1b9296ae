"""How a classifier's scales and rates are chosen: without a test image, and at a cost that is charged alike."""

import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from negmerge_kit.baselines import BASELINES, rate_search
from negmerge_kit.baselines.baseline import TINY, Baseline
from negmerge_kit.classifier_eval.evaluator import ClassifierEvaluator
from negmerge_kit.classifier_eval.metric_set import measure
from negmerge_kit.classifier_eval.retrained_model import ANY_RETRAINED, RetrainedSpec, find_retrained, keep_retrained
from negmerge_kit.cli.classifier_tables import standings_table
from negmerge_kit.comparison import baseline_rows, classifier_rule_rows
from negmerge_kit.comparison.classifier_rule_rows import ClassifierRunner
from negmerge_kit.comparison.compare import compare_rules
from negmerge_kit.comparison.methods import find_method
from negmerge_kit.comparison.options import ComparisonOptions
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.pools import result_store
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.scenes.forget_set import Parts
from negmerge_kit.scoring.gap import average_gap
from negmerge_kit.sweeps.finetune_job import missing_jobs
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.workbench import Workbench

NEGMERGE, ASCENT, RETRAIN = (find_method(name) for name in ("negmerge", "gradient-ascent", "retrain"))
SCALES = [0.0, 0.5, 1.0]
ASCENT_RATES = BASELINES["gradient-ascent"].preset(TINY).rates


class TestWasReadError(Exception):
    __test__ = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The embedded classifier after one epoch, with two candidates, held against its own weights, a little smaller."""
    scene = replace(open_scene("tiny-classifier"), training={"epochs": 1})
    pool, _ = start_pool(scene, tmp_path_factory.mktemp("choosing") / "pool")
    recipes = [Recipe(lr=lr, epochs=1, batch_size=30, warmup=0) for lr in (1e-3, 2e-3)]
    for outcome in run_sweep(missing_jobs(pool, recipes, device="cpu"), store=pool):
        assert outcome.failure is None, outcome.failure
    for seed, size in ((0, 0.9), (1, 0.8)):  # the first judges, the other chooses
        smaller = {name: tensor * size if tensor.is_floating_point() else tensor for name, tensor in pool.base.items()}
        keep_retrained(pool, smaller, {"seconds": 1.0}, RetrainedSpec(seed=seed, device="cpu"))
    return pool.folder


@pytest.fixture
def bench(folder):
    return Workbench(open_pool(folder), device="cpu")


def contest_of(bench, choose):
    runner = ClassifierRunner(bench, keep=0.5, scales=SCALES, options=ComparisonOptions(choose), recompute=True)
    runner.prepare([NEGMERGE])
    return runner


@pytest.mark.slow
@pytest.mark.parametrize("choose", ["floor", "gap"])
def test_only_the_final_row_reads_test_images(bench, choose, monkeypatch):
    @property
    def sealed(parts):
        raise TestWasReadError

    monkeypatch.setattr(Parts, "test", sealed)
    chosen = []
    for room, name in ((baseline_rows, "choose_rate"), (classifier_rule_rows.ClassifierRunner, "search")):
        real = getattr(room, name)
        monkeypatch.setattr(room, name, lambda *a, real=real, **k: chosen.append(real(*a, **k)) or chosen[-1])
    runner = contest_of(bench, choose)
    for done, method in enumerate((ASCENT, NEGMERGE), start=1):
        with pytest.raises(TestWasReadError):
            runner.row(method)
        assert len(chosen) >= done  # it was chosen before any test image was asked for
    assert len(chosen[0].trials) > 1 and len(chosen[1].found.curve) == len(SCALES)
    if choose == "floor":
        assert runner.crossing(runner.choose(NEGMERGE, bench.pool.ids)[0]) is not None


@pytest.mark.parametrize("choose", ["floor", "gap"])
def test_what_was_read_is_told_and_test_images_are_refused_under_another_name(bench, choose, monkeypatch):
    monkeypatch.setattr(Parts, "validation", property(lambda parts: parts.test))
    runner = ClassifierRunner(bench, scales=SCALES, options=ComparisonOptions(choose), recompute=True)
    assert runner.evaluator.reference("val").split == "test"
    with pytest.raises(SplitError):
        runner.search(bench.choose())
    with pytest.raises(
        (SplitError, ParameterError),
        match="test images must not choose|splits .'test', 'val'.|asked for as val are test images",
    ):
        runner.row(ASCENT)
    with pytest.raises(SplitError, match="test images must not choose"):
        baseline_rows.retrained(
            ClassifierEvaluator(bench, wanted=RetrainedSpec(seed=5, device="cpu")), ComparisonOptions(seed=5, epochs=1)
        )


@pytest.mark.slow
def test_one_retrained_model_chooses_and_another_judges(bench):
    runner = contest_of(bench, "gap")
    chooser, judge = (runner.evaluator.retrained(split) for split in ("val", "test"))
    assert (chooser.json()["seed"], judge.json()["seed"]) == (1, 0)
    row = runner.row(NEGMERGE)
    reference = runner.evaluator.reference("test")
    assert row.metrics.values["gap"] == pytest.approx(average_gap(row.metrics.values, reference.values))
    on_val, chosen = runner.evaluator.reference("val"), next(p for p in row.curve if p.scale == row.scale)
    with bench.at(bench.choose(), row.scale) as model:
        values = measure(model, runner.evaluator.parts, split="val", features=("confidence",)).values
    assert chosen.gap == pytest.approx(average_gap(values, on_val.values))

    again, first = (runner.row(find_method(name)) for name in ("retrain-again", "retrain"))
    assert again.method.title == "Retrain, another seed" and first.metrics.values["gap"] == 0
    model = bench.fresh_model()
    model.load(chooser.weights.items())
    expected = measure(model, runner.evaluator.parts, split="test").values
    assert 0 < again.metrics.values["gap"] == pytest.approx(average_gap(expected, reference.values))
    assert again.cost.wall == first.cost.wall == 1.0  # its own training, as recorded

    same = {"options": ComparisonOptions("gap"), "scales": SCALES}
    comparison = compare_rules(bench, ["retrain", "retrain-again", "negmerge", "uniform"], **same)
    assert comparison.noise_floor == again.metrics.values["gap"] and comparison.within_noise[1] == 2
    assert comparison.json()["images"] == {
        "val": {"forgotten": 60, "remaining": 540, "unseen": 240},
        "test": {"forgotten": 60, "remaining": 540, "unseen": 357},
        "shared": [],
    }
    told = standings_table(comparison)
    assert "chosen on 60 forgotten, 540 remaining, 240 unseen; reported on 60 forgotten, 540 remaining, 357" in told
    assert f"noise floor: two retrained models are {100 * comparison.noise_floor:.2f} points apart; of 2 rows" in told
    shared = replace(comparison, images=comparison.images | {"shared": ["forgotten", "remaining"]})
    assert "the forgotten and remaining images that report are the ones that chose" in standings_table(shared)
    alone = compare_rules(bench, ["retrain", "negmerge"], **same)
    assert alone.noise_floor is None and "noise floor" not in standings_table(alone)


@pytest.mark.slow
def test_a_baselines_scoring_is_charged_as_a_rules_is(bench, monkeypatch):
    """The reference is measured before, at nobody's cost; every scale and every rate then takes an hour to score."""
    point, clock, hours = ClassifierEvaluator.point, time.perf_counter, []

    def slow(evaluator, *asked):
        assert "val" in {split for _, split in evaluator._retrained}
        hours.append(1)
        return point(evaluator, *asked)

    monkeypatch.setattr(ClassifierEvaluator, "point", slow)
    for room in (time, rate_search):
        monkeypatch.setattr(room, "perf_counter", lambda: clock() + 3600 * len(hours))
    runner = contest_of(bench, "gap")
    for method, scored in ((NEGMERGE, len(SCALES)), (ASCENT, len(ASCENT_RATES))):
        row = runner.row(method)
        assert round(row.cost.search / 3600) == scored and row.metrics.values["seconds"] == row.cost.wall
        assert [round(trial["seconds"] / 3600) for trial in row.trials] == [1] * len(row.trials)


def test_a_retrained_model_of_another_device_torch_or_version_is_not_mixed_in(folder, tmp_path, monkeypatch):
    bench = Workbench(open_pool(shutil.copytree(folder, tmp_path / "pool")), device="cpu")
    here, there = (RetrainedSpec(seed=1, device=device) for device in ("cpu", "cuda"))
    kept = RowStore(bench.pool, keep=0.5, scales=SCALES, device=bench.model.device, options=ComparisonOptions("gap"))
    assert find_retrained(bench.pool, there) is None and find_retrained(bench.pool, here).json()["seed"] == 1
    before = kept._key(NEGMERGE, bench.pool.ids)
    keep_retrained(bench.pool, bench.pool.base, {"seconds": 1.0}, there)
    found = [find_retrained(bench.pool, wanted).path for wanted in (here, there)]
    assert found[0] != found[1] and kept._key(NEGMERGE, bench.pool.ids) == before
    assert baseline_rows.evaluator_of(bench, ComparisonOptions("gap")).require().path == found[0]
    find_retrained(bench.pool, there).path.unlink()
    for name, value in (("RESULTS_VERSION", -1), ("torch", SimpleNamespace(__version__="1"))):
        with monkeypatch.context() as patched:
            patched.setattr(result_store, name, value)
            assert kept._key(NEGMERGE, bench.pool.ids) != before
            assert find_retrained(bench.pool, ANY_RETRAINED.other).path == found[0] != find_retrained(bench.pool).path
            with pytest.raises(ParameterError, match="of seed 1 that this version trained on cpu .*--device cpu"):
                baseline_rows.evaluator_of(bench, ComparisonOptions("gap")).require()


@pytest.mark.slow
def test_anew_makes_the_retrained_model_anew_and_once(folder, tmp_path, monkeypatch):
    bench = Workbench(open_pool(shutil.copytree(folder, tmp_path / "pool")), device="cpu")
    unlearn, trained = Baseline.unlearn, []
    monkeypatch.setattr(Baseline, "unlearn", lambda self, *a, **k: trained.append(self.name) or unlearn(self, *a, **k))
    same = {"options": ComparisonOptions(seed=7, epochs=1), "scales": SCALES}
    for anew, times in ((False, 1), (False, 1), (True, 2)):
        row, other = compare_rules(bench, ["retrain", "uniform"], recompute=anew, **same).rows
        assert trained == ["retrain"] * times and row.metrics.values["gap"] == 0 < other.metrics.values["gap"]
