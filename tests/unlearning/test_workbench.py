"""The workbench against the long way round: merge to a file, load it, count."""

import threading
from dataclasses import replace

import pytest
import torch

from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.errors import ParameterError, PoolError, SceneError
from negmerge_kit.merging import total, unlearn
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.unlearning.evaluation import evaluate_splits
from negmerge_kit.unlearning.workbench import Workbench


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["negmerge", "uniform"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_equal_those_of_the_written_file(bench, tmp_path, rule, split):
    choice = bench.choose(rule=rule)
    path = save_checkpoint(tmp_path / "u.safetensors", bench.unlearned(choice, 0.7), like=bench.pool.base)
    model = bench.scene.load(device="cpu")
    model.load(open_checkpoint(path).items())
    model.heads = bench.model.heads
    assert evaluate_splits(model, bench.scene.images(split)) == bench.score(choice, 0.7, split)


def test_unlearned_weights_are_the_librarys_bit_for_bit(bench):
    choice = bench.choose(params={"agreement": 0.6})
    ours = dict(bench.unlearned(choice, 0.35))
    theirs = dict(unlearn(bench.pool.base, bench.pool.candidates, scale=0.35, agreement=0.6))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_counts_are_those_of_the_whole_model(bench):
    layers = bench.agreement()
    counts = bench.merged(bench.choose()).counts
    assert counts.elements == sum(t.numel() for t in bench.pool.base.values() if t.is_floating_point())
    assert (total(layers).moved, total(layers).unanimous) == (counts.moved, counts.kept)
    assert 0 < counts.kept < counts.moved < counts.elements


def test_a_candidate_that_is_held_again_is_there_once(tiny_pool):
    bench = Workbench(open_pool(tiny_pool), device="cpu")
    ids, first = bench.pool.ids, bench.pool.entries[0]
    other = replace(first, id="new", sha256="0" * 64)
    for entry in (first, other, replace(other, seconds=1.0)):
        bench.hold(entry)
    assert bench.pool.ids == list(bench.choose().candidates) == [*ids, "new"]
    assert bench.pool.entry("new").seconds == 1.0


def test_scale_zero_is_the_base_and_sliding_back_leaves_no_trace(bench):
    choice = bench.choose()
    before = bench.score(choice, 0.0, "live")
    assert before == bench.base_scores("live")
    moved = bench.score(choice, 1.0, "live")
    assert moved.forget.correct < before.forget.correct
    other = bench.choose(bench.pool.ids[:1], rule="uniform")
    bench.score(other, 0.5, "live")
    assert bench.score(choice, 1.0, "live") == moved
    assert bench.score(choice, 0.0, "live") == before


@pytest.mark.slow
def test_a_fresh_bench_answers_alike_in_any_order(bench, tiny_pool):
    fresh = Workbench(open_pool(tiny_pool), device="cpu")
    choice = fresh.choose(rule="uniform")
    assert fresh.score(choice, 0.4, "val") == bench.score(bench.choose(rule="uniform"), 0.4, "val")


def test_order_of_ids_does_not_matter_but_selection_does(bench):
    ids = bench.pool.ids
    assert bench.choose(ids[::-1]) == bench.choose(ids)
    assert bench.choose(ids[:2]) != bench.choose(ids)


def test_threads_take_turns(bench):
    choice = bench.choose()
    alone = {scale: bench.score(choice, scale, "live") for scale in (0.2, 0.5, 0.9)}
    seen = []
    threads = [
        threading.Thread(target=lambda s=scale: seen.append((s, bench.score(choice, s, "live"))))
        for scale in (0.2, 0.5, 0.9) * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 9 and all(alone[scale] == scores for scale, scores in seen)


@pytest.mark.parametrize(
    ("candidates", "rule", "params", "error", "says"),
    [
        ([], "negmerge", {}, ParameterError, "at least one"),
        (["nope"], "negmerge", {}, PoolError, "no candidate"),
        (None, "nope", {}, ParameterError, "no rule"),
        (None, "negmerge", {"agreement": 0.2}, ParameterError, "agreement"),
        (None, "uniform", {"agreement": 0.9}, ParameterError, "agreement"),
    ],
)
def test_wrong_choices(bench, candidates, rule, params, error, says):
    with pytest.raises(error, match=says):
        bench.choose(candidates, rule, params)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -0.1])
def test_impossible_scales(bench, scale):
    with pytest.raises(ParameterError, match="scale"):
        bench.score(bench.choose(), scale)


def test_unknown_split(bench):
    with pytest.raises(SceneError, match="split"):
        bench.score(bench.choose(), 0.1, "nonsense")


@pytest.mark.slow
def test_search_agrees_with_the_whole_curve(bench):
    choice = bench.choose()
    quick, whole = (bench.search(choice, method=method) for method in ("early", "exhaustive"))
    assert quick.best == whole.best
    assert all(point.stopped is None for point in whole.curve) and len(whole.curve) == 21
    assert any(point.stopped for point in quick.curve)


@pytest.mark.slow
def test_a_changed_candidate_is_refused(own_pool):
    pool = open_pool(own_pool)
    path = own_pool / pool.entries[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    bench = Workbench(pool, device="cpu")
    with pytest.raises(PoolError, match="SHA-256"):
        bench.score(bench.choose(), 0.5, "live")
    # The others are not lost with it.
    bench.score(bench.choose(pool.ids[1:]), 0.5, "live")
