"""The scale search against the authors' rule, and early stopping against the whole curve."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.scoring import Accuracy, Point, parse_scales, search_scale, select_scale
from negmerge_kit.scoring.early_stopping import BELOW_FLOOR, NO_NUMBERS, NOT_BETTER, out_of_reach
from negmerge_kit.scoring.retention_floor import parse_keep
from negmerge_kit.scoring.scale_search import METHODS

CASES = json.loads((Path(__file__).parents[1] / "golden" / "coefficient_cases.json").read_text())


def test_there_are_sixty_golden_curves_some_of_them_infeasible():
    assert len(CASES) == 60
    assert any(case["expected_scale"] is None for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_select_scale_picks_what_the_authors_code_picks(case):
    assert select_scale(case["scales"], case["forget"], case["retain"], case["retain_floor"]) == case["expected_scale"]


def stop_early(forget, retain, *, forget_n, retain_n, forget_at_most, retain_at_least, scale, split):
    """Count (set, correct, images) part by part and stop once the counts prove that this scale cannot be chosen."""
    correct, kept, unseen = 0, dict.fromkeys(retain_n, 0), dict(retain_n)

    def forget_side():
        nonlocal correct
        for _, hits, _ in forget:
            correct += hits
            if forget_at_most is not None and correct > forget_at_most:
                return NOT_BETTER
        return None

    def retain_side():
        for name, hits, images in retain:
            kept[name], unseen[name] = kept[name] + hits, unseen[name] - images
            if retain_at_least is not None and (short := out_of_reach(retain_at_least, kept, unseen)):
                return short
        return None

    sides = (retain_side, forget_side) if forget_at_most is None else (forget_side, retain_side)
    for index, side in enumerate(sides):
        if stopped := side():
            forgotten = Accuracy(correct, forget_n, split) if index and stopped != NOT_BETTER else None
            return Point(scale, forgotten, None, stopped)
    sets = {name: Accuracy(kept[name], n, split) for name, n in retain_n.items()}
    pooled = Accuracy(sum(kept.values()), sum(retain_n.values()), split)
    return Point(scale, Accuracy(correct, forget_n, split), pooled, sets=sets)


class Model:
    """Right or wrong per image and scale, drawn at random; counts what it was asked."""

    def __init__(self, forget, retain, batch):
        self.forget, self.retain, self.batch, self.asked, self.looks = forget, retain, batch, 0, 0

    def score(self, scale, *, forget_at_most=None, retain_at_least=None):
        self.looks += 1

        def batches(name, hits):
            for start in range(0, len(hits), self.batch):
                part = hits[start : start + self.batch]
                self.asked += len(part)
                yield name, sum(part), len(part)

        retain = {name: hits[scale] for name, hits in self.retain.items()}
        return stop_early(
            batches("forget", self.forget[scale]),
            (part for name, hits in retain.items() for part in batches(name, hits)),
            forget_n=len(self.forget[scale]),
            retain_n={name: len(hits) for name, hits in retain.items()},
            forget_at_most=forget_at_most,
            retain_at_least=retain_at_least,
            scale=scale,
            split="val",
        )


@st.composite
def models(draw, falling=False):
    """Scales, a model of two retain sets, and floors: pooled, or one for each set or for one of them."""
    scales = [index / 4 for index in range(draw(st.integers(2, 12)))]
    sizes = {name: draw(st.integers(1, n)) for name, n in {"forget": 12, "a": 15, "b": 10}.items()}

    def curve(n):
        counts = draw(st.lists(st.integers(0, n), min_size=len(scales), max_size=len(scales)))
        counts = sorted(counts, reverse=True) if falling else counts
        rows = [draw(st.permutations([i < right for i in range(n)])) for right in counts]
        return dict(zip(scales, rows, strict=True))

    hits = {name: curve(n) for name, n in sizes.items()}
    share = st.floats(0.01, 1.0)
    sets = st.dictionaries(st.sampled_from(["a", "b"]), share, min_size=1)
    model = Model(hits["forget"], {"a": hits["a"], "b": hits["b"]}, draw(st.integers(1, 6)))
    return scales, model, draw(st.one_of(share, sets))


def chosen(scales, model, keep):
    """What the authors' rule picks from the whole curve, and whether any scale above 0 is feasible."""

    def share(sets, scale):
        right = [hit for name in sets for hit in model.retain[name][scale]]
        return sum(right) / len(right)

    floors = {(name,): part for name, part in keep.items()} if isinstance(keep, dict) else {("a", "b"): keep}
    kept = [all(share(sets, s) >= part * share(sets, 0.0) for sets, part in floors.items()) for s in scales]
    forget = [sum(model.forget[s]) / len(model.forget[s]) for s in scales]
    return select_scale(scales, forget, [float(k) for k in kept], 1.0), any(kept[1:])


def picked(found):
    return found.best.scale if found.best else None


@pytest.mark.slow
@given(models(), st.sampled_from(["early", "exhaustive"]))
@settings(max_examples=150, deadline=None)
def test_stopping_early_never_changes_the_answer(drawn, method):
    scales, model, keep = drawn
    found = search_scale(model.score, scales=scales, keep=keep, method=method)
    expected, feasible = chosen(*drawn)
    assert found.status == ("ok" if feasible else "infeasible")
    if feasible:
        assert found.best.scale == expected
    else:
        assert f"of {len(scales) - 1} scales" in found.failing
    assert [point.scale for point in found.curve] == scales
    assert method == "early" or all(point.stopped is None for point in found.curve)


@pytest.mark.slow
@given(models(falling=True), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_falling_curve_needs_no_scorer_that_stops(drawn, heedless):
    scales, model, keep = drawn
    score = (lambda scale, **bounds: model.score(scale)) if heedless else model.score
    found = search_scale(score, scales=scales, keep=keep)
    expected, feasible = chosen(*drawn)
    assert picked(found) == (expected if feasible else None)


def _falling():
    scales = parse_scales("0:1:0.05")
    forget = {s: [i >= 200 * s for i in range(240)] for s in scales}
    retain = {"a": {s: [i % 20 >= 8 * s for i in range(1440)] for s in scales}}
    return scales, forget, retain


def test_fewer_images_are_asked_on_a_falling_curve():
    scales, forget, retain = _falling()
    quick, whole = Model(forget, retain, 240), Model(forget, retain, 240)
    a = search_scale(quick.score, scales=scales)
    b = search_scale(whole.score, scales=scales, method="exhaustive")
    assert a.best == b.best and a.best is not None
    assert quick.asked < whole.asked / 2


def test_a_curve_that_rises_and_falls_is_searched_exactly():
    scales = [float(k) for k in range(9)]
    forget = {s: [i >= s for i in range(10)] for s in scales}
    retain = {"a": {s: [i >= s for i in range(10)] for s in scales}}
    assert search_scale(Model(forget, retain, 1).score, scales=scales, keep=0.5).best.scale == 5.0
    forget[5.0] = [True] * 8 + [False] * 2
    for bumpy in (Model(forget, retain, 1), Model({**forget, 4.0: [False] * 10}, retain, 1)):
        assert search_scale(bumpy.score, scales=scales, keep=0.5).best.scale == 4.0


def test_an_infeasible_search_names_the_floor_that_fails():
    scales = [0.0, 0.5, 1.0]
    sets = {"a": {s: [True] * 10 for s in scales}, "b": {s: [s == 0.0] * 10 for s in scales}}
    model = Model({s: [True] for s in scales}, sets, 5)
    for method in METHODS:
        found = search_scale(model.score, scales=scales, keep={"a": 0.9, "b": 0.9}, method=method)
        assert found.failing == "retention of b cannot reach its floor at 2 of 2 scales"
    assert search_scale(model.score, scales=scales, keep={"a": 1.0}).failing is None
    pooled = search_scale(model.score, scales=scales, keep=0.9, method="exhaustive")
    assert pooled.failing == f"{BELOW_FLOOR} at 2 of 2 scales"


def test_a_floor_for_an_unknown_set_is_refused():
    model = Model({0.0: [True], 1.0: [True]}, {"a": {0.0: [True], 1.0: [True]}}, 5)
    with pytest.raises(ParameterError, match="'nope': choose among a"):
        search_scale(model.score, scales=[1.0], keep={"nope": 0.9})
    with pytest.raises(ParameterError, match="does not tell its sets apart"):
        search_scale(_flat("val"), keep={"a": 0.9})


@pytest.mark.parametrize("text", ["x", "", "a=", "=0.9", "a=0.9,a=0.8", "a=0.9,0.8", "a=1.5", "0", "nan"])
def test_unreadable_floors(text):
    with pytest.raises(ParameterError, match="keep"):
        parse_keep(text)


def test_an_unknown_method_is_refused():
    with pytest.raises(ParameterError, match="choose one of early, exhaustive\\.$"):
        search_scale(_flat("val"), method="random")
    with pytest.raises(ParameterError, match="exhaustive; leave it out, the default search finds"):
        search_scale(_flat("val"), method="bisect")


def _flat(split):
    return lambda scale, **bounds: Point(scale, Accuracy(5, 10, split), Accuracy(9, 10, split))


def test_a_test_split_is_refused():
    with pytest.raises(SplitError, match="search on validation"):
        search_scale(_flat("test"))


def test_nothing_forgotten_is_scale_zero_not_a_random_scale():
    assert search_scale(_flat("val")).best.scale == 0.0


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.01, float("nan")])
def test_keep_out_of_range(keep):
    with pytest.raises(ParameterError, match="keep"):
        search_scale(_flat("val"), keep=keep)


@pytest.mark.parametrize("text", ["nan", "0:1:0", "0:1:-1", "1:0:0.1", "a:b:c", "-0.5", "", "0:1e9:1e-9", "inf"])
def test_unreadable_scales(text):
    with pytest.raises(ParameterError):
        parse_scales(text)


def test_lengths_must_agree():
    with pytest.raises(ParameterError, match="as many"):
        select_scale([0.0], [0.5, 0.4], [0.9], 0.8)


@pytest.mark.parametrize("method", ["early", "exhaustive"])
def test_what_ended_a_range_whose_largest_scales_cannot_be_scored(method):
    """Below them a scale that forgets no more than a smaller one may still keep enough."""

    def score(scale, *, forget_at_most=None, retain_at_least=None):
        if scale > 1:
            return Point(scale, None, None, NO_NUMBERS)
        right = 80 if scale < 0.5 else 40
        if forget_at_most is not None and right > forget_at_most:
            return Point(scale, None, None, NOT_BETTER)
        return Point(scale, Accuracy(right, 100, "val"), Accuracy(90, 100, "val"))

    found = search_scale(score, scales=[0.0, 0.5, 1.0, 1.5], method=method)
    assert (found.best.scale, found.ended) == (0.5, "limit")
