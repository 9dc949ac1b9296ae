"""Without given scales the search goes on beyond the paper's grid; every end of it is named as what it was."""

import pytest

from negmerge_kit.errors import NotFiniteError
from negmerge_kit.scoring import Accuracy, Point, parse_scales, search_scale, select_scale
from negmerge_kit.scoring.early_stopping import DEFAULT_SCALES, FARTHEST, STEPS
from negmerge_kit.scoring.scale_search import METHODS, outcome, remedy
from tests.scoring.test_scale import Model

N, KEPT = 200, 1000


class Stretched(Model):
    """Forget and retain accuracy fall as the scale grows; a stretch of 10 does at scale 10 what 1 does at 1."""

    def __init__(self, stretch, *, forgets=160, loses=60):
        super().__init__({}, {"a": {}}, 20)
        self.stretch, self.forgets, self.loses = stretch, forgets, loses

    def score(self, scale, **bounds):
        at = scale / self.stretch
        right = [max(0, round(N * 0.9 - self.forgets * at)), max(0, round(KEPT * 0.9 - self.loses * at * at))]
        self.forget[scale] = [i >= N - right[0] for i in range(N)]
        self.retain["a"][scale] = [i >= KEPT - right[1] for i in range(KEPT)]
        return super().score(scale, **bounds)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stretch", [1, 2.2, 10, 25])
def test_a_short_delta_is_searched_until_retention_falls_to_the_floor(method, stretch):
    model = Stretched(stretch)
    found = search_scale(model.score, method=method)
    # 60·x² of 900 images: the floor of 95 % lies at x = 0.866.
    assert 0.866 * stretch - max(0.05, 0.05 * found.best.scale) <= found.best.scale <= 0.867 * stretch
    assert found.ended == "floor" and outcome(found) is None and found.status == "ok"
    assert found.range[1] >= found.best.scale and len(found.curve) <= len(DEFAULT_SCALES) + 5 + STEPS - 1
    full = [s.scale for s in found.curve]
    points = [model.score(s) for s in full]
    forget, retain = [p.forget.value for p in points], [p.retain.value for p in points]
    assert found.best.scale == select_scale(full, forget, retain, 0.95 * points[0].retain.value)


def test_going_on_costs_less_than_the_grid_in_full():
    beyond, whole = Stretched(10), Stretched(10)
    search_scale(beyond.score)
    search_scale(whole.score, scales=DEFAULT_SCALES, method="exhaustive")
    assert beyond.asked < whole.asked


@pytest.mark.parametrize("method", METHODS)
def test_given_scales_end_the_search(method):
    found = search_scale(Stretched(10).score, scales=parse_scales("0:1:0.05"), method=method)
    assert (found.best.scale, found.range, found.ended) == (1.0, (0.0, 1.0), "grid")
    assert outcome(found) == "the grid ended before the floor: at scale 1 retention is 99.9 % of the base’s"


def test_where_the_grid_meets_the_floor_nothing_is_looked_at_beyond_it():
    given, free = Stretched(1), Stretched(1)
    a, b = search_scale(given.score, scales=DEFAULT_SCALES), search_scale(free.score)
    assert a == b and given.asked == free.asked and given.looks == free.looks


def test_chance_ends_the_search():
    found = search_scale(Stretched(3, loses=0).score, chance=0.1)
    assert found.ended == "chance" and found.range[1] == 4.0 and found.best.forget.value <= 0.1
    assert "at chance before retention meets the floor" in outcome(found)


def test_the_cap_ends_the_search_and_says_so():
    found = search_scale(Stretched(1000, loses=0, forgets=2000).score)
    assert found.ended == "cap" and found.best.scale == found.range[1] == FARTHEST
    assert outcome(found).startswith("retention meets no floor up to the largest scale that is tried: at scale 32")


def flat(retain):
    """Forgets nothing; retention is `retain(scale)` of 100."""

    def score(scale, **bounds):
        return Point(scale, Accuracy(50, 60, "val"), Accuracy(retain(scale), 100, "val"))

    return score


@pytest.mark.parametrize(
    ("retain", "scales", "says"),
    [
        (lambda s: 90, None, "up to scale 32 nothing is forgotten and nothing lost"),
        (lambda s: 90 + int(s > 0.5), None, "nothing is forgotten, and retention rose to 101.1 % of the base’s"),
        (lambda s: 90, [0, 0.5, 1], "the grid ended before the floor: up to scale 1 nothing is forgotten and nothing"),
        (lambda s: 90 if s < 1 else 10, None, "until retention falls below the floor, beyond scale 0.95"),
        (lambda s: 90 if s == 0 else 10, None, "the floor breaks at the first step, scale 0.05 (retention cannot"),
    ],
)
def test_every_message_names_what_really_happened(retain, scales, says):
    found = search_scale(flat(retain), scales=scales)
    assert says in outcome(found) and remedy(found)
    infeasible = "first step" in says
    assert found.status == ("infeasible" if infeasible else "ok")
    assert (found.best is None) == infeasible and (infeasible or found.best.scale == 0)


def test_a_scale_that_forgets_nothing_is_dropped_after_its_forget_images():
    model = Model({s: [True] * 30 for s in DEFAULT_SCALES}, {"a": {s: [True] * 1000 for s in DEFAULT_SCALES}}, 10)
    found = search_scale(model.score, scales=DEFAULT_SCALES)
    assert found.best.scale == 0.0
    # The base and the largest scale in full; of the other nineteen not one retain image.
    assert model.asked <= 2 * 1030 + 19 * 30


def test_a_scale_beyond_the_grid_that_answers_with_nan_ends_the_range_and_not_the_search():
    model = Stretched(20)

    def score(scale, **bounds):
        if scale > 5:
            raise NotFiniteError("NaN")
        return model.score(scale, **bounds)

    found = search_scale(score)
    assert found.ended == "limit" and found.best.scale == 5.0 and "NaN" in outcome(found)
    with pytest.raises(NotFiniteError):
        search_scale(score, scales=[0, 1, 6])
