"""One scorer for all: every count is that of the plain order, and no image is answered twice, in no process."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.errors import CheckpointError, ParameterError, SceneError
from negmerge_kit.lab import answer_memory, provenance
from negmerge_kit.lab.answer_memory import AnswerMemory, Side
from negmerge_kit.lab.comparison.comparison import compare_rules
from negmerge_kit.lab.evaluation import evaluate_splits
from negmerge_kit.lab.scorer import Scorer
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.scoring.scale import DEFAULT_SCALES
from tests.lab.small_stand import stand

CPU = torch.device("cpu")
GRID = [0.0, 0.3, 0.6, 0.9]


@pytest.fixture
def two(own_pool):
    """The quick pool with two candidates and no answer kept; opened again, it is another process's."""
    shutil.rmtree(own_pool / "searches", ignore_errors=True)
    pool = open_pool(own_pool)
    return lambda: Workbench(pool.only(pool.ids[:2]), device="cpu")


def compared(bench):
    return compare_rules(bench, ["negmerge", "uniform"], scales=GRID).rows


def searched(bench):
    return [bench.search(bench.choose(rule=rule), scales=GRID) for rule in ("negmerge", "uniform")]


@pytest.mark.slow
def test_a_search_after_a_comparison_answers_nothing_and_a_comparison_after_a_search_only_what_is_new(two, own_pool):
    first, alone = two(), two()
    found = searched(first)
    search = first.scorer.images
    again = two()
    rows = compared(again)
    shutil.rmtree(own_pool / "searches")
    expected = compared(alone)
    assert search > 1680 and again.scorer.images <= alone.scorer.images - search
    late = two()
    assert [one.best for one in searched(late)] == [one.best for one in found] and late.scorer.images == 0
    # A row costs what it takes from nothing, whoever asked before.
    for row, fresh in zip(rows, expected, strict=True):
        assert replace(row, cost=fresh.cost, matched=None, curve=()) == replace(fresh, matched=None, curve=())
        assert row.cost.images > 500 and row.cost.evaluations == fresh.cost.evaluations == 3
        assert row.cost.search > 0 and row.cost.peak_memory > 1 << 20
        assert row.matched.crossing == fresh.matched.crossing
        assert {point.scale for point in fresh.curve} <= {point.scale for point in row.curve} | {0.0}


@pytest.mark.slow
def test_another_process_finds_the_answers(two, own_pool, capsys):
    bench = two()
    searched(bench)
    code = (
        "import sys; from negmerge_kit.checkpoints.pool import open_pool; from negmerge_kit.lab.workbench import *\n"
        "pool = open_pool(sys.argv[1]); bench = Workbench(pool.only(pool.ids[:2]), device='cpu')\n"
        "found = bench.search(bench.choose(rule='uniform'), scales=[0.0, 0.3, 0.6, 0.9])\n"
        "print(found.best.scale, bench.scorer.images)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(own_pool)], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(searched(two())[1].best.scale), "0"]


@pytest.mark.slow
def test_every_count_is_that_of_the_plain_order(bench):
    choice, scorer = bench.choose(), Scorer(bench)
    for scale in (0.0, 1.0, 0.4, 0.7):
        with bench.at(choice, scale) as model:
            plain = evaluate_splits(model, bench.images("val"))
        point = scorer.point(choice, scale, retain_at_least=0)
        assert (point.forget, point.retain) == (plain.forget, plain.retain)
        assert dict(point.sets) == {name: plain.families[name] for name in bench.scene.retain}
        assert scorer.scores(choice, scale) == plain
    assert scorer.images == 4 * 1680


@pytest.mark.slow
def test_a_search_asks_a_fraction_of_the_images(bench):
    quick, whole = Scorer(bench), Scorer(bench)
    found = quick.search(bench.choose(), scales=DEFAULT_SCALES)
    assert found.best == whole.search(bench.choose(), scales=DEFAULT_SCALES, method="exhaustive").best
    assert quick.images < 0.25 * whole.images == 0.25 * 21 * 1680


@pytest.mark.slow
def test_a_floor_for_each_set_is_held_to_the_image(bench):
    choice = bench.choose()
    keep = {"letters": 0.97, "shapes": 0.9}
    found, whole = (Scorer(bench).search(choice, keep=keep, method=method) for method in ("early", "exhaustive"))
    assert found.best == whole.best and found.best is not None
    base = bench.base_scores("val").families
    feasible = [
        (point.forget.correct, point.scale)
        for point in whole.curve
        if all(point.sets[name].value >= share * base[name].value for name, share in keep.items())
    ]
    assert found.best.scale == min(feasible)[1]
    nothing = bench.search(choice, keep={"letters": 1.0, "textures": 1.0}, scales=[2.0, 3.0])
    assert nothing.status == "infeasible" and "retention of" in nothing.failing


@pytest.mark.slow
def test_a_stopped_search_goes_on_and_a_repeated_one_asks_nothing(two):
    expected, told, bench = two(), [], two()
    expected = expected.scorer.search(expected.choose(), scales=GRID)
    shutil.rmtree(bench.pool.folder / "searches")

    def stop(point):
        told.append(point)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.search(bench.choose(), scales=GRID, on_point=stop)
    later = two()
    assert later.search(later.choose(), scales=GRID).best == expected.best
    assert 0 < bench.scorer.images and 0 < later.scorer.images
    before = later.scorer.images
    assert later.search(later.choose(), scales=GRID).best == expected.best and later.scorer.images == before
    whole = later.search(later.choose(), scales=GRID, method="exhaustive")
    assert whole.best == expected.best and later.scorer.images + bench.scorer.images == len(GRID) * 1680


def test_a_nan_is_an_error_not_a_class(bench):
    broken = dict(bench.model.heads)
    bench.model.heads = {name: torch.full_like(head, float("nan")) for name, head in broken.items()}
    try:
        with pytest.raises(CheckpointError, match="the base answers with NaN"):
            Scorer(bench).scores(None, 0.0)
    finally:
        bench.model.heads = broken


def test_a_set_without_images_is_refused():
    made = stand()
    made._images["val"] = replace(made.images("val"), retain=(made.images("val").retain[0].take(0),))
    with pytest.raises(SceneError, match="keep has no val image"):
        made.scorer.scores(None, 0.0)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), True])
def test_an_impossible_scale_is_refused_before_anything_is_remembered(scale):
    made = stand()
    with pytest.raises(ParameterError, match="scale"):
        made.scorer.answers(made.choose(), scale)
    assert made.scorer.points(made.choose()) == ()


def test_what_a_block_took_is_counted_whoever_asked_before():
    made = stand()
    choice, charges = made.choose(), []
    for _ in range(2):
        with made.scorer.charge() as charge:
            made.scorer.search(choice, scales=GRID)
        charges.append(charge)
    first, again = charges
    assert first.asked > 0 == again.asked and first.images == again.images > 100
    assert first.evaluations == again.evaluations == 3 and again.seconds > 0.5 * first.asked
    with made.scorer.charge() as other:
        made.scorer.retained(choice, 0.45)
    assert other.beyond(first)[0] == 1 and again.beyond(first)[0] == 0


# --- what is kept in the pool's folder ----------------------------------------------------------


def kept(pool, choice, *, split="val", device=CPU, sizes=(4, 11)):
    memory = AnswerMemory(pool, device)
    return memory, memory.known(choice, split, sizes)


def fill(pool, choice):
    memory, known = kept(pool, choice)
    right = torch.tensor([True, False, True, True])
    known.at(0.9).forget.take(right, torch.tensor([True, True, False, False]))
    known.at(0.9).retain.take(torch.ones(11, dtype=torch.bool), torch.ones(11, dtype=torch.bool))
    known.at(0.9).seconds, known.margins = 1.5, [torch.ones(4), torch.zeros(11)]
    memory.changed(choice, "val")
    return memory._store.path(answer_memory.KIND, memory.key(choice, "val"))


def test_answers_come_back_as_they_were(bench, tmp_path):
    pool, choice = replace(bench.pool, folder=tmp_path), bench.choose()
    fill(pool, choice)
    point = kept(pool, choice)[1].points[0.9]
    right, asked = point.forget.bits()
    assert right.tolist() == [True, False, False, False] and asked.tolist() == [True, True, False, False]
    assert point.retain.asked is None and point.images == 13 and point.seconds == 1.5
    assert [side.tolist() for side in kept(pool, choice)[1].margins] == [[1.0] * 4, [0.0] * 11]
    assert not kept(pool, choice, sizes=(40, 11))[1].points
    read = AnswerMemory(pool, CPU, write=False)
    read.known(choice, "test", (4, 11)).at(0.5).forget.take(right, asked)
    read.changed(choice, "test")
    assert len(list((tmp_path / "searches").iterdir())) == 1


def test_answers_given_first_stay():
    side = Side(3)
    side.take(torch.tensor([True, False, False]), torch.tensor([True, False, False]))
    side.take(torch.tensor([False, True, True]), torch.tensor([True, True, True]))
    assert side.bits()[0].tolist() == [True, True, True] and side.asked is None and side.answered == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: json.dumps(json.loads(text) | {"made_from": {}}),
        lambda text: json.dumps({**json.loads(text), "value": {"points": 3}}),
        lambda text: json.dumps({**json.loads(text), "value": {"points": [{"scale": 0.9}], "margins": None}}),
        lambda text: text.replace('"right": "', '"right": "!'),
        lambda text: text.replace('"right": "', '"right": "AAAA'),
    ],
)
def test_a_damaged_file_counts_as_none(bench, tmp_path, damage):
    pool, choice = replace(bench.pool, folder=tmp_path), bench.choose()
    path = fill(pool, choice)
    assert kept(pool, choice)[1].points
    path.write_text(damage(path.read_text()))
    assert not kept(pool, choice)[1].points


def test_anything_changed_is_another_file(bench, monkeypatch):
    pool, choice = bench.pool, bench.choose()
    keys = []

    def another(pool=pool, choice=choice, split="val", device=CPU):
        key = AnswerMemory(pool, device).key(choice, split)
        assert key not in keys
        keys.append(key)

    another()
    another(split="test")
    another(device=torch.device("meta"))
    another(choice=None)
    another(choice=bench.choose(bench.pool.ids[:2]))
    another(choice=bench.choose(params={"agreement": 0.7}))
    another(choice=bench.choose(rule="uniform"))
    another(choice=replace(choice, buffers="merge"))
    another(choice=replace(choice, files=tuple(file[::-1] for file in choice.files)))
    another(pool=replace(pool, base_file=replace(pool.base_file, sha256="0" * 64)))
    another(pool=replace(pool, heads_file=replace(pool.heads_file, sha256="0" * 64)))
    sets = [entry | {"fingerprint": "0" * 64} for entry in pool.scene["sets"]]
    another(pool=replace(pool, scene={**pool.scene, "sets": sets}))
    monkeypatch.setattr(provenance, "RESULTS_VERSION", -1)
    another()
    assert AnswerMemory(pool, CPU).key(choice, "live") is None


def test_a_folder_that_cannot_be_written_is_searched_all_the_same(bench, tmp_path):
    (tmp_path / "searches").write_text("in the way")
    made = stand()
    scorer = Scorer(made, AnswerMemory(replace(bench.pool, folder=tmp_path), CPU))
    assert scorer.search(made.choose(), scales=GRID).best is not None
