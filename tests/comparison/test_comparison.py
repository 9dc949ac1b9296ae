"""The comparison on the embedded scene and on a small stand: exact where it can be, refusing what it must."""

import json
import mmap
import shutil
from dataclasses import replace

import pytest
import torch

from negmerge_kit.checkpoints.header import MADE_FROM
from negmerge_kit.checkpoints.writer import save_checkpoint, sha256_file
from negmerge_kit.comparison.bootstrap import _choices, curve_of, resample
from negmerge_kit.comparison.compare import across, compare_rules, strangers
from negmerge_kit.comparison.greedy import best_single, greedy
from negmerge_kit.comparison.matched_retention import matched_retention_scale
from negmerge_kit.comparison.methods import find_method, find_methods
from negmerge_kit.comparison.row import Row
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.comparison.rule_rows import ComparisonRunner
from negmerge_kit.comparison.subset_draws import redraw
from negmerge_kit.errors import CheckpointError, ParameterError, PoolError, SceneError, SplitError
from negmerge_kit.pools import result_store
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.progress import Progress
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.scale_search import Point, ScaleSearch, select_scale
from negmerge_kit.unlearning.cost import metered
from negmerge_kit.unlearning.scorer import Scorer
from negmerge_kit.unlearning.workbench import Workbench
from tests.comparison.small_workbench import GRID, stand


@pytest.fixture(scope="module")
def small():
    made = stand()
    return made, compare_rules(made, scales=GRID)


@pytest.mark.slow
def test_the_protocol_is_select_scale_on_the_whole_curve(small):
    made, comparison = small
    scorer = Scorer(made)
    floor = comparison.floor
    for row in comparison.rows:
        if row.status == "empty":
            continue
        choice = made.choose(
            row.candidates,
            "uniform" if row.method.rule in ("single", "greedy") else row.method.rule,
            row.params,  # of a dial that was searched, what was chosen
        )
        points = [scorer.answers(choice, scale).accuracy() for scale in GRID]
        chosen = select_scale(GRID, [p[0].value for p in points], [p[1].value for p in points], floor)
        assert row.scale == chosen
        assert (row.validation.forget, row.validation.retain) == points[GRID.index(chosen)]
        assert (row.test.forget, row.test.retain) == scorer.answers(choice, chosen, "test").accuracy()


def test_matched_rows_lie_on_the_floor(small):
    made, comparison = small
    floor = comparison.keep * comparison.base["val"].retain.correct
    scorer = Scorer(made)
    matched = [row for row in comparison.rows if row.matched]
    assert len(matched) >= 12
    for row in matched:
        crossing = row.matched.crossing
        assert crossing.above[1] >= floor > crossing.below[1]
        assert crossing.above[0] <= crossing.scale <= crossing.below[0]
        assert crossing.above[1] - crossing.below[1] == 1 or crossing.below[0] - crossing.above[0] < 0.2 / 32
        assert crossing.between(crossing.above[1], crossing.below[1]) == pytest.approx(floor)
        assert row.matched.test.forget.split == row.matched.test.retain.split == "test"
        if row.method.rule not in ("single", "greedy"):
            choice = made.choose(row.candidates, row.method.rule, row.params)
            assert scorer.retained(choice, crossing.above[0]) == crossing.above[1]


def test_searches_over_candidates_pay_for_every_search(small):
    _, comparison = small
    by_name = {row.method.name: row for row in comparison.rows}
    one = by_name["uniform"].cost
    assert by_name["single"].cost.evaluations >= 3 * one.evaluations
    assert by_name["greedy"].cost.evaluations >= by_name["single"].cost.evaluations
    assert len(by_name["single"].candidates) == 1 and len(by_name["uniform"].candidates) == 4
    assert {row.cost.train for row in comparison.rows} == {4.0}
    assert by_name["single"].test.forget.value <= 1.0 and by_name["single"].cost.wall > 4.0


def test_nothing_is_asked_twice_and_hopeless_scales_are_given_up():
    made = stand()
    runner = ComparisonRunner(made, scales=GRID)
    first = runner.row(find_method("uniform"))
    whole = sum(len(images) for images in made.images("val"))
    assert first.cost.images < 0.8 * whole * first.cost.evaluations
    answered = made.answered
    again = runner.row(find_method("uniform"))
    assert made.answered == answered and again == first


def test_rows_come_back_from_json_as_they_were(small):
    _, comparison = small
    for row in comparison.rows:
        assert Row.from_json(row.method, json.loads(json.dumps(row.json(), allow_nan=False))) == row


@pytest.mark.slow
def test_bootstrap_of_the_images_as_they_are_is_the_protocol(small):
    made, comparison = small
    found = resample(comparison, replicates=60)
    for row in comparison.rows:
        if row.status != "ok" or row.method.name not in found:
            continue
        numbers = found[row.method.name].numbers
        assert numbers["protocol forget"].value == pytest.approx(row.test.forget.value)
        assert numbers["protocol retain"].value == pytest.approx(row.test.retain.value)
        assert found["negmerge"].differences["matched forget"].value == 0.0
    curve = curve_of(comparison.runner, made.choose(None, "uniform"))
    assert curve.capped == 11 and len(curve.forget) >= 11


@pytest.mark.slow
def test_subsets_show_points_and_never_an_interval(small):
    made, _ = small
    comparison = compare_rules(made, ["uniform", "negmerge"], scales=GRID)
    drawn = redraw(comparison, 6, size=2, seed=3)
    assert len({one.candidates for one in drawn}) == 6
    assert all(row.candidates == one.candidates for one in drawn for row in one.rows)
    spread = across([*drawn, *drawn], independent=False)[0]["protocol"]["forget"]
    assert len(spread["points"]) == 12 and spread["interval"] is None
    assert across([*drawn, *drawn])[0]["protocol"]["forget"]["interval"] is not None
    assert across(drawn)[0]["protocol"]["forget"]["interval"] is None
    with pytest.raises(ParameterError, match="do not exist"):
        redraw(comparison, 7, size=2)


def test_greedy_takes_only_what_forgets_strictly_more():
    scores = {"a": 50, "b": 40, "c": 45, "ab": 40, "bc": 30, "abc": 30}

    def search(ids):
        forget = scores["".join(ids)]
        point = Point(1.0, Accuracy(forget, 100, "val"), Accuracy(95, 100, "val"))
        return ScaleSearch(0.95, point, None if ids == ("d",) else point, (point,))

    scores["d"] = 0
    assert greedy(["a", "b", "c", "d"], search).candidates == ("b", "c")
    assert best_single(["a", "b", "c", "d"], search).candidates == ("b",)
    assert greedy(["a", "b", "c", "d"], search).searches == 6  # four alone, bc, abc


def test_a_crossing_is_never_looked_for_on_test():
    with pytest.raises(SplitError, match="validation"):
        matched_retention_scale(lambda scale: 1, lambda scale: True, floor=1, scales=[1.0], split="test")
    made = stand()
    with pytest.raises(SplitError, match="validation"):
        made.scorer.search(made.choose(), scales=GRID, split="test")


def test_retention_that_never_falls_has_no_crossing():
    assert matched_retention_scale(lambda scale: 100, lambda scale: True, floor=95, scales=GRID, farthest=3.0) is None


def test_an_infeasible_floor_is_told_by_every_row():
    comparison = compare_rules(stand(step=2.0), ["uniform", "negmerge"], keep=1.0, scales=[0.0, 0.9, 1.0])
    assert not comparison.feasible
    assert [row.status for row in comparison.rows] == ["infeasible", "infeasible"]
    assert all(row.scale is None and row.test is None and row.matched for row in comparison.rows)


@pytest.mark.parametrize("keep", [0.0, 1.2, float("nan")])
def test_an_impossible_floor_is_refused(keep):
    with pytest.raises(ParameterError, match="keep"):
        compare_rules(stand(), ["uniform"], keep=keep)


def test_a_pool_of_one_is_refused():
    with pytest.raises(ParameterError, match="every rule is that candidate"):
        compare_rules(stand(n=1), ["uniform"])


@pytest.mark.slow
def test_copies_of_a_candidate_are_left_out_and_named():
    made = stand(n=3)
    first = made.pool.entries[0]
    made.pool = replace(made.pool, entries=tuple(replace(entry, sha256=first.sha256) for entry in made.pool.entries))
    with pytest.raises(ParameterError, match="has 1 candidate"):
        compare_rules(made, ["uniform", "negmerge", "conflict"], scales=GRID)

    made = stand(n=4)
    first, last = made.pool.entries[0], made.pool.entries[-1]
    alone = compare_rules(stand(n=3), ["uniform", "negmerge", "single"], scales=GRID)
    made.pool = replace(made.pool, entries=(*made.pool.entries[:-1], replace(last, sha256=first.sha256)))
    comparison = compare_rules(made, ["uniform", "negmerge", "single"], scales=GRID)
    assert comparison.candidates == alone.candidates and last.id not in comparison.candidates
    assert [row.test for row in comparison.rows] == [row.test for row in alone.rows]
    assert any(f"candidate {last.id} holds the same weights as {first.id}" in told for told in comparison.warnings)


def test_nan_logits_name_the_rule_and_the_scale():
    made = stand()
    made.candidates[made.pool.ids[0]]["w"][5] = float("inf")
    with pytest.raises(CheckpointError, match="NaN or inf"):
        compare_rules(made, ["uniform"])
    made = stand()
    merged = made.merged(made.choose(None, "uniform"))
    merged.delta["w"][5] = float("nan")
    with pytest.raises(CheckpointError, match="uniform at scale 1 answers"):
        compare_rules(made, ["uniform"], scales=[0.0, 1.0])


def test_an_empty_side_is_refused_and_an_empty_class_told():
    made = stand()
    comparison = compare_rules(made, ["uniform"], scales=GRID)
    assert any("forget has no val image of no" in warning for warning in comparison.warnings)
    made = stand()
    empty = made.images("val")
    made._images["val"] = Splits(empty.forget.take(0), empty.retain)
    with pytest.raises(SceneError, match="forget has no val image"):
        compare_rules(made, ["uniform"])


def test_entrants_are_checked_by_name():
    assert len(find_methods()) == 19 and find_methods("none", "greedy")[0].rule == "greedy"
    for text in ("nonsense", "ties:density=7", "single:a=1", "uniform:agreement=1"):
        with pytest.raises(ParameterError):
            find_method(text)
    with pytest.raises(ParameterError, match="nothing to compare"):
        find_methods("none", "none")


@pytest.mark.slow
def test_a_dial_that_is_searched_is_the_best_of_its_values_and_charged_for_all():
    made = stand()
    searched, *given = compare_rules(
        made, ["consensus-mask", *(f"consensus-mask:lam={lam}" for lam in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))], scales=GRID
    ).rows
    assert len({row.validation.forget.correct for row in given}) > 1
    best = min(given, key=lambda row: row.validation.forget.correct)
    assert searched.params == best.params and searched.scale == best.scale and searched.test == best.test
    assert searched.cost.evaluations == sum(row.cost.evaluations for row in given)
    assert searched.json()["note"].startswith("Mask threshold (lam) is the best on validation of 0.1, 0.2")
    assert "searched" not in given[0].json()["note"] and "adding different tasks" in given[0].json()["note"]


def test_a_searched_dial_is_chosen_again_in_every_replicate():
    comparison = compare_rules(stand(), ["negmerge", "consensus-mask"], scales=(0.0, 0.5, 1.0))
    assert len(_choices(comparison.runner, comparison.rows[1])) == 6


@pytest.fixture(scope="module")
def embedded(tiny_pool, tmp_path_factory):
    """The quick pool compared once; its rows lie in a copy."""
    folder = shutil.copytree(tiny_pool, tmp_path_factory.mktemp("compared") / "pool")
    bench = Workbench(open_pool(folder), device="cpu")
    kept = RowStore(bench.pool, keep=0.9, scales=GRID[::2], device=torch.device("cpu"))
    return bench, compare_rules(bench, ["uniform", "negmerge"], keep=0.9, scales=GRID[::2], kept=kept)


@pytest.mark.slow
def test_on_the_embedded_scene_the_rows_are_the_workbenchs_own(embedded):
    bench, comparison = embedded
    for row in comparison.rows:
        choice = bench.choose(rule=row.method.rule)
        found = bench.search(choice, keep=0.9, scales=GRID[::2])
        assert row.scale == found.best.scale
        assert (row.validation.forget, row.validation.retain) == (found.best.forget, found.best.retain)
        scores = bench.score(choice, row.scale, "test")
        assert (row.test.forget, row.test.retain) == (scores.forget, scores.retain)


@pytest.mark.slow
def test_finished_rows_are_found_again_and_others_are_not(embedded, monkeypatch):
    bench, comparison = embedded
    seen = []
    kept = RowStore(bench.pool, keep=0.9, scales=GRID[::2], device=torch.device("cpu"))
    before = bench.scorer.images
    again = compare_rules(bench, ["negmerge"], keep=0.9, scales=GRID[::2], kept=kept, on_row=seen.append)
    assert again.rows == comparison.rows[1:]
    assert seen == [Progress(f"{again.rows[0].method.title}, last rule", step=0, total=1)]
    assert again.runner.scorer.images == before  # not even the base is asked
    other = RowStore(bench.pool, keep=0.8, scales=GRID[::2], device=torch.device("cpu"))
    assert other.find(comparison.rows[0].method, bench.pool.ids) is None
    monkeypatch.setattr(result_store, "RESULTS_VERSION", -1)
    other = RowStore(bench.pool, keep=0.9, scales=GRID[::2], device=torch.device("cpu"))
    assert other.find(comparison.rows[0].method, bench.pool.ids) is None
    assert kept.find(comparison.rows[0].method, bench.pool.ids[:2]) is None
    monkeypatch.undo()
    kept = RowStore(bench.pool, keep=0.9, scales=GRID[::2], device=torch.device("cpu"))
    assert kept.find(comparison.rows[0].method, bench.pool.ids) == comparison.rows[0]
    for damaged in ({"cost": [], "matched": [], "status": 3}, {}, [], 3, None):
        for path in (bench.pool.folder / "comparisons").iterdir():
            path.write_text(json.dumps(json.loads(path.read_text()) | {"value": damaged}))
        assert kept.find(comparison.rows[0].method, bench.pool.ids) is None


def test_a_pool_that_cannot_be_written_keeps_no_row_and_says_so_once(bench, tmp_path, caplog):
    (tmp_path / "comparisons").write_text("in the way")
    pool = replace(bench.pool, folder=tmp_path)
    kept = RowStore(pool, keep=0.9, scales=GRID, device=torch.device("cpu"))
    rows = compare_rules(stand(), ["uniform", "negmerge"], scales=(0.0, 0.5)).rows
    for row in rows:
        kept.keep(row, pool.ids)
        assert kept.find(row.method, pool.ids) is None
    (said,) = caplog.messages
    assert f"{tmp_path / 'comparisons'} cannot be written" in said


def test_a_candidate_of_another_base_is_refused_unless_forced(own_pool):
    pool = open_pool(own_pool)
    entry = pool.entries[0]
    weights = dict(pool.candidate(entry.id))
    path = save_checkpoint(own_pool / entry.file, weights.items(), like=weights, metadata={MADE_FROM: "f" * 64})
    record = json.loads((own_pool / "pool.json").read_text())
    record["candidates"][0]["sha256"] = sha256_file(path)
    (own_pool / "pool.json").write_text(json.dumps(record))
    with pytest.raises(PoolError, match="another base.*--force"):
        strangers(open_pool(own_pool))
    assert strangers(open_pool(own_pool, force=True)) == (entry.id,)


def test_peak_memory_is_that_of_the_block():
    cpu = torch.device("cpu")
    with metered(cpu) as small:
        torch.ones(10)
    with metered(cpu) as large:
        # Not from the heap, which may have kept as much of what earlier tests freed.
        room = mmap.mmap(-1, 200_000_000)
        torch.frombuffer(room, dtype=torch.uint8).fill_(1)
    with metered(cpu) as after:
        torch.ones(10)
    room.close()
    assert large.peak - small.peak > 100_000_000  # of 200 MB
    assert after.peak <= large.peak and min(small.seconds, after.seconds) >= 0
