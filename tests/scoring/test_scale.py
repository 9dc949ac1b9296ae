"""The scale search against the authors' rule, and early stopping against the whole curve."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.scoring import Accuracy, Point, parse_scales, search_scale, select_scale
from negmerge_kit.scoring.scale import stop_early

CASES = json.loads((Path(__file__).parents[1] / "golden" / "coefficient_cases.json").read_text())


def test_there_are_sixty_golden_curves_some_of_them_infeasible():
    assert len(CASES) == 60
    assert any(case["expected_scale"] is None for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_select_scale_picks_what_the_authors_code_picks(case):
    assert select_scale(case["scales"], case["forget"], case["retain"], case["retain_floor"]) == case["expected_scale"]


class Model:
    """Right or wrong per image and scale, drawn at random; counts what it was asked."""

    def __init__(self, forget, retain, batch):
        self.forget, self.retain, self.batch, self.asked = forget, retain, batch, 0

    def score(self, scale, *, forget_at_most=None, retain_at_least=None):
        def batches(hits):
            for start in range(0, len(hits), self.batch):
                part = hits[start : start + self.batch]
                self.asked += len(part)
                yield sum(part), len(part)

        return stop_early(
            batches(self.forget[scale]),
            batches(self.retain[scale]),
            forget_n=len(self.forget[scale]),
            retain_n=len(self.retain[scale]),
            forget_at_most=forget_at_most,
            retain_at_least=retain_at_least,
            scale=scale,
            split="val",
        )


@st.composite
def models(draw):
    scales = [index / 4 for index in range(draw(st.integers(2, 9)))]
    forget_n, retain_n = draw(st.integers(1, 12)), draw(st.integers(1, 25))

    def hits(n):
        return draw(st.lists(st.booleans(), min_size=n, max_size=n))

    model = Model({s: hits(forget_n) for s in scales}, {s: hits(retain_n) for s in scales}, draw(st.integers(1, 6)))
    return scales, model, draw(st.floats(0.01, 1.0))


@given(models())
@settings(max_examples=300, deadline=None)
def test_early_stopping_never_changes_the_answer(drawn):
    scales, model, keep = drawn
    found = search_scale(model.score, scales=scales, keep=keep)
    whole = search_scale(model.score, scales=scales, keep=keep, exhaustive=True)
    assert (found.best and found.best.scale) == (whole.best and whole.best.scale)

    def share(hits):
        return sum(hits) / len(hits)

    floor = keep * share(model.retain[0.0])
    forget, retain = [share(model.forget[s]) for s in scales], [share(model.retain[s]) for s in scales]
    expected = select_scale(scales, forget, retain, floor)
    if any(r >= floor for s, r in zip(scales, retain, strict=True) if s > 0):
        assert found.best.scale == expected
    else:
        assert found.status == "infeasible"
    assert all(point.stopped is None for point in whole.curve)
    assert [point.scale for point in found.curve] == scales


def test_early_stopping_asks_fewer_images_on_a_falling_curve():
    scales = parse_scales("0:1:0.05")
    forget = {s: [i >= 200 * s for i in range(240)] for s in scales}
    retain = {s: [i % 20 >= 8 * s for i in range(1440)] for s in scales}
    early, whole = Model(forget, retain, 240), Model(forget, retain, 240)
    a = search_scale(early.score, scales=scales, keep=0.95)
    b = search_scale(whole.score, scales=scales, keep=0.95, exhaustive=True)
    assert a.best == b.best and a.best is not None
    assert early.asked < whole.asked / 2


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
