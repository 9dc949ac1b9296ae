"""One scorer for all: every count is that of the plain order, and no image is answered twice, in no process."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negmerge_kit.comparison.compare import compare_rules
from negmerge_kit.comparison.rule_rows import ComparisonRunner
from negmerge_kit.errors import CheckpointError, ParameterError, SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.pools import result_store
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES
from negmerge_kit.unlearning import answer_memory
from negmerge_kit.unlearning.answer_memory import AnswerMemory, Side
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.evaluation import evaluate_splits
from negmerge_kit.unlearning.scorer import Scorer
from negmerge_kit.unlearning.workbench import Workbench
from tests.comparison.small_workbench import stand
from tests.scoring.test_scale import chosen, models

CPU = torch.device("cpu")
GRID = [0.0, 0.3, 0.6, 0.9]


def opened(folder):
    """A workbench on a pool's first two candidates; opened again, it is another process's."""
    pool = open_pool(folder)
    return Workbench(pool.only(pool.ids[:2]), device="cpu")


@pytest.fixture
def two(own_pool):
    """Opens the quick pool, which keeps no answer at first."""
    shutil.rmtree(own_pool / "searches", ignore_errors=True)
    return lambda: opened(own_pool)


@pytest.fixture(scope="module")
def both_orders(classifier_pool, tmp_path_factory):
    """A search, then a comparison of the same rules; and the other way round. Each on a workbench of its own."""
    found = {}
    for order in ("search first", "comparison first"):
        folder = shutil.copytree(classifier_pool, tmp_path_factory.mktemp("orders") / "pool")
        shutil.rmtree(folder / "searches", ignore_errors=True)
        benches = [opened(folder), opened(folder)]
        steps = (searched, compared) if order == "search first" else (compared, searched)
        found[order] = benches, [step(bench) for step, bench in zip(steps, benches, strict=True)]
    return found


RULES = ("negmerge", "uniform")


def compared(bench):
    return compare_rules(bench, RULES).rows


def searched(bench):
    return [bench.search(bench.choose(rule=rule)) for rule in RULES]


def answered(bench):
    """How many images a workbench knows the answers to, whoever asked; the sliders' subset apart."""
    known = bench.scorer.memory._known
    return sum(p.images for (_, split), one in known.items() for p in one.points.values() if split != "live")


@pytest.mark.slow
def test_a_comparison_after_a_search_answers_no_image_again(both_orders):
    (first, second), (found, rows) = both_orders["search first"]
    assert [row.scale for row in rows] == [one.best.scale for one in found]
    assert first.scorer.images == answered(first) > 4 * 840
    live = sum(len(queue) for queue in second.scorer._queues["live"])
    asked_live = sum(
        p.images for (_, s), k in second.scorer.memory._known.items() if s == "live" for p in k.points.values()
    )
    assert live and second.scorer.images == answered(second) - answered(first) + asked_live
    third = Workbench(second.pool, device="cpu")
    runner = ComparisonRunner(third)
    for rule in RULES:
        runner.search(third.choose(rule=rule))
        runner.matched(third.choose(rule=rule))
    assert third.scorer.images == 0


@pytest.mark.slow
def test_a_search_after_a_comparison_answers_nothing(both_orders):
    (_, second), (rows, found) = both_orders["comparison first"]
    assert [row.scale for row in rows] == [one.best.scale for one in found]
    assert second.scorer.images == 0


@pytest.mark.slow
def test_a_row_costs_what_it_takes_from_nothing_whoever_asked_before(both_orders):
    _, (_, late) = both_orders["search first"]
    _, (fresh, _) = both_orders["comparison first"]
    for one, other in zip(late, fresh, strict=True):
        assert replace(one, cost=other.cost, matched=None, curve=(), metrics=None) == replace(
            other, matched=None, curve=(), metrics=None
        )
        assert one.cost.evaluations == other.cost.evaluations >= 20
        assert one.cost.images == pytest.approx(other.cost.images, rel=0.3) and one.cost.images > 1500
        assert one.cost.search > 0.01 and one.cost.peak_memory > 1 << 20
        assert one.matched.crossing == other.matched.crossing and one.matched.test == other.matched.test


@pytest.mark.slow
def test_another_process_finds_the_answers(two, own_pool):
    bench = two()
    expected = bench.search(bench.choose(rule="uniform"), scales=GRID)
    code = (
        "import sys; from negmerge_kit.pools.pool import open_pool; from negmerge_kit.unlearning.workbench import *\n"
        "pool = open_pool(sys.argv[1]); bench = Workbench(pool.only(pool.ids[:2]), device='cpu')\n"
        "found = bench.search(bench.choose(rule='uniform'), scales=[0.0, 0.3, 0.6, 0.9])\n"
        "print(found.best.scale, bench.scorer.images)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(own_pool)], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(expected.best.scale), "0"]


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
    assert first.evaluations == again.evaluations == 3
    assert again.seconds >= sum(seconds for _, seconds in first.points.values()) > 0
    with made.scorer.charge() as other:
        made.scorer.retained(choice, 0.45)
    assert other.beyond(first)[0] == 1 and again.beyond(first)[0] == 0


class Table:
    """Lends out models that are right where a drawn table says so, by margins of their own."""

    device, at_once = CPU, 4

    def __init__(self, model):
        sets = {"forget": model.forget, **model.retain}
        self.rows, first = {}, 0
        made = {}
        for name, hits in sets.items():
            n = len(hits[0.0])
            pixels = torch.zeros(n, 3, 1, 1, dtype=torch.uint8)
            pixels[:, 0, 0, 0] = torch.arange(first, first + n)
            made[name] = ImageSet(name, pixels, torch.ones(n, dtype=torch.int64), ("no", "yes"), "val")
            self.rows |= {first + i: {scale: row[i] for scale, row in hits.items()} for i in range(n)}
            first += n
        self.splits = Splits(made.pop("forget"), tuple(made.values()))
        self.scale = 0.0

    @contextmanager
    def at(self, choice, scale):
        self.scale = scale
        yield self

    def images(self, split):
        return self.splits

    def yield_to_foreground(self):
        pass

    def features(self, images):
        rows = images[:, 0, 0, 0].tolist()
        sure = [(1 + row % 5) * (1 if self.rows[row][self.scale] else -1) for row in rows]
        return torch.tensor([[0.0, float(margin)] for margin in sure])

    def head(self, name):
        return torch.eye(2)


@pytest.mark.slow
@given(models(), st.lists(st.tuples(st.floats(0.01, 1.0), st.sampled_from(["early", "exhaustive"])), max_size=2))
@settings(max_examples=100, deadline=None)
def test_any_curve_is_searched_exactly_whatever_was_asked_before(drawn, more):
    scales, model, keep = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("negmerge_kit.unlearning.scorer.BATCH", {"cpu": 3})
        scorer, choice = Scorer(Table(model)), Choice(("a",), "uniform", ())
        for floor, method in [(keep, "early"), *more]:
            found = scorer.search(choice, scales=scales, keep=floor, method=method)
            expected, feasible = chosen(scales, model, floor)
            assert (found.best.scale if found.best else None) == (expected if feasible else None)
            assert [point.scale for point in found.curve] == scales
            for point in found.curve:
                if point.stopped is None:
                    assert point.forget.correct == sum(model.forget[point.scale])
                    kept = {name: sum(hits[point.scale]) for name, hits in model.retain.items()}
                    assert {name: score.correct for name, score in point.sets.items()} == kept
        known = scorer.memory._known.values()
        assert scorer.images == sum(point.images for one in known for point in one.points.values())


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
    monkeypatch.setattr(result_store, "RESULTS_VERSION", -1)
    another()
    assert AnswerMemory(pool, CPU).key(choice, "live") is None


def test_a_folder_that_cannot_be_written_is_searched_all_the_same(bench, tmp_path):
    (tmp_path / "searches").write_text("in the way")
    made = stand()
    scorer = Scorer(made, AnswerMemory(replace(bench.pool, folder=tmp_path), CPU))
    assert scorer.search(made.choose(), scales=GRID).best is not None
