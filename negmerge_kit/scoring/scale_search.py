"""Search for the scale that forgets most while retention stays above its floor, by the authors' rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any, Literal, TypeAlias

from negmerge_kit.errors import NotFiniteError, ParameterError, SplitError
from negmerge_kit.scoring.early_stopping import (
    BELOW_FLOOR,
    DEFAULT_SCALES,
    NO_NUMBERS,
    NOT_BETTER,
    Least,
    Point,
    Scales,
    Score,
    between,
    onwards,
    out_of_reach,
    parse_scales,
    scale_grid,
    unscorable,
)
from negmerge_kit.scoring.retention_floor import KEEP, Keep, check_keep, images_needed, reaches

__all__ = [
    "BELOW_FLOOR",
    "DEFAULT_SCALES",
    "KEEP",
    "METHODS",
    "NOT_BETTER",
    "Keep",
    "Least",
    "Method",
    "Point",
    "ScaleSearch",
    "Scales",
    "Score",
    "parse_scales",
    "search_scale",
    "select_scale",
]

Method: TypeAlias = Literal["early", "exhaustive"]

METHODS: tuple[Method, ...] = ("early", "exhaustive")
"""Every scale until its counts decide; every scale in full. Both find the same scale."""

BISECT_GONE = "leave it out, the default search finds the best scale of any curve from hardly more images."
"""Why there is no method "bisect" any more."""

Ended: TypeAlias = Literal["floor", "chance", "grid", "cap", "limit"]
"""What ended the range of a search, upwards: the largest scale falls below the floor; accuracy on the forget set is at
chance; the given grid, or FARTHEST, came to its end with retention above the floor; or no larger scale can be scored.
"""


@dataclass(frozen=True)
class ScaleSearch:
    """The outcome of a scale search: the chosen point, the base it is held against, and the whole curve.

    Attributes:
        keep: the share of retention to keep, or each named set's.
        method: how the scales were searched.
        choose: the criterion of choice: "floor", or "gap" to the retrained model, where `keep` is 0.
        ended: what ended the range upwards; None where no floor was looked for.
    """

    keep: Keep
    base: Point
    best: Point | None
    curve: tuple[Point, ...] = field(repr=False)
    method: Method = "early"
    choose: str = "floor"
    ended: Ended | None = None

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest scale of the curve."""
        return self.curve[0].scale, self.curve[-1].scale

    @property
    def status(self) -> str:
        """`ok`, or `infeasible` when no scale above 0 keeps enough."""
        return "ok" if self.best else "infeasible"

    @property
    def failing(self) -> str | None:
        """Which floor fails at how many of the scales looked at, where no scale is feasible."""
        if self.best:
            return None
        least = images_needed(self.keep, self.base)
        reasons = Counter(point.stopped or _short(point, least) for point in self.curve if point.scale > 0)
        return "; ".join(f"{why} at {n} of {reasons.total()} scales" for why, n in reasons.most_common())


def select_scale(
    scales: Sequence[float], forget: Sequence[float], retain: Sequence[float], retain_floor: float
) -> float | None:
    """The scale with the smallest forget score among those whose retain score reaches the floor.

    Ties take the smallest scale; equality with the floor passes. This is `find_optimal_coef` of the
    authors' code (arXiv:2410.05583), with two accidents mended: a forget score of exactly 1 can be
    chosen, and "nothing feasible" is None rather than a crash later.

    Args:
        scales, forget, retain: equally long; accuracies are fractions in [0, 1].
        retain_floor: the smallest retain score that is allowed.

    Raises:
        ParameterError: if the lengths differ; pass one forget and one retain score a scale.

    >>> select_scale([0.0, 0.5, 1.0], [0.8, 0.5, 0.3], [0.90, 0.88, 0.70], retain_floor=0.855)
    0.5
    """
    if not len(scales) == len(forget) == len(retain):
        raise ParameterError(
            f"{len(scales)} scales, {len(forget)} forget and {len(retain)} retain scores: pass as many of each."
        )
    feasible = [(f, s) for s, f, r in zip(scales, forget, retain, strict=True) if r >= retain_floor]
    return min(feasible)[1] if feasible else None


def search_scale(
    score: Score,
    *,
    scales: Scales = None,
    keep: Keep = KEEP,
    method: Method = "early",
    chance: float = 0.0,
    on_point: Callable[[Point], None] | None = None,
) -> ScaleSearch:
    """Find the scale that forgets most on validation while retention stays at keep times the measured base.

    `early` tries scales from the largest down, because the largest feasible one usually forgets most: the rest are
    dropped as soon as their counts prove that they cannot win. Dropping is exact, so the answer is that of
    `select_scale` on the whole curve (arXiv:2410.05583, section 4.1: 21 scales, retention 95 %). `exhaustive` scores
    every scale in full, for the whole curve.

    Without `scales` the paper's grid does not end the search: where its last scale, 1, keeps enough, the scale is
    doubled until retention falls below the floor, accuracy on the forget set is at chance, or FARTHEST is reached, and
    the last doubling is searched in STEPS steps. That looks at 5 + 19 scales more at most.

    Args:
        score: scores one scale, on validation.
        scales: these and no others, each 0 or more; None for the paper's grid, and on beyond it.
        keep: share of the base's retain accuracy to keep, in (0, 1]: pooled, or by retain set, all of which must hold.
        method: one of METHODS.
        chance: accuracy on the forget set that guessing reaches, beyond which no scale need go.
        on_point: called with each point as soon as it is known.

    Raises:
        SplitError: if the scores come from a test split; choose on validation.
        ParameterError: if keep, a scale or the method is out of range, or keep names no retain set of the score's.

    >>> def score(scale, *, forget_at_most=None, retain_at_least=None):
    ...     return Point(scale, Accuracy(80 - int(6 * scale), 100, "val"), Accuracy(90 - int(scale), 100, "val"))
    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> search_scale(score, scales=[0.0, 0.5, 1.0], keep=0.95).best.scale
    1.0
    >>> found = search_scale(score, keep=0.95)
    >>> found.best.scale, found.range
    (4.8, (0.0, 8.0))
    """
    keep = check_keep(keep)
    grid = scale_grid(scales)
    if method not in METHODS:
        gone = f"; {BISECT_GONE}" if str(method) == "bisect" else "."
        raise ParameterError(f"method is {method!r}: choose one of {', '.join(METHODS)}{gone}")
    base = score(0.0)
    if base.forget is None or base.retain is None:
        raise ParameterError("the base was not scored in full: score scale 0 without stopping.")
    if base.retain.split == "test" or base.forget.split == "test":
        raise SplitError("test images must not choose a scale: search on validation, then score the chosen scale once.")
    climb = _Climb(score, base, images_needed(keep, base), on_point, base_competes=0.0 in grid)
    if scales is None:
        probe = climb.measure if method == "exhaustive" else climb.look
        grid = sorted({*grid, *climb.beyond(grid[-1], probe, chance)})
    above = [scale for scale in grid if scale > 0.0]
    no_numbers_above = False
    for scale in reversed(above):
        if method == "exhaustive":
            climb.measure(scale)
        else:
            # Where no larger scale can be scored, whether this one keeps enough says what ended the range.
            point = climb.look(scale, most=None if no_numbers_above else climb.to_beat(scale))
            no_numbers_above = unscorable(point)
    if 0.0 in grid:
        climb.take(base)
    best = climb.best
    if best and 0.0 in grid and _correct(base) <= _correct(best):
        best = base  # nothing was forgotten at any feasible scale
    curve = tuple(climb.points.get(scale, base) for scale in grid)
    ended = climb.ended(above, chance, "cap" if scales is None else "grid") if above else None
    return ScaleSearch(keep, base, best, curve, method, ended=ended)


class _Climb:
    """The points looked at so far and the best feasible one of them above 0."""

    def __init__(
        self, score: Score, base: Point, least: Least, on_point: Callable[[Point], None] | None, *, base_competes: bool
    ) -> None:
        self.points: dict[float, Point] = {}
        self.best: Point | None = None
        self._score, self._base, self._least, self._on_point = score, base, least, on_point
        self._base_competes = base_competes
        self._asked_for = inf

    def measure(self, scale: float) -> Point:
        """Score a scale in full, once."""
        return self.points[scale] if scale in self.points else self.take(self._ask(scale))

    def look(self, scale: float, *, most: int | None = None) -> Point:
        """Score a scale until it is clear that it keeps too little, or forgets less than `most` allows."""
        if scale in self.points:
            return self.points[scale]
        return self.take(self._ask(scale, forget_at_most=most, retain_at_least=self._least))

    def beyond(self, last: float, probe: Callable[[float], Point], chance: float) -> list[float]:
        """The scales to search beyond the last one of a grid: doublings of it, and the steps within the one that fell.

        A doubling is probed only while the one before keeps enough and is above chance.
        """
        self._asked_for = last
        point, doubled = probe(last), [last]
        for scale in islice(onwards([last], growth=1.0), 1, None):
            if not self._goes_on(point, chance):
                break
            point = probe(scale)
            doubled.append(scale)
        fell = len(doubled) > 1 and not self._goes_on(point, chance)
        return [*doubled[1:], *(between(*doubled[-2:]) if fell else [])]

    def ended(self, above: Sequence[float], chance: float, otherwise: Ended) -> Ended:
        """What ended the range upwards."""
        unscored = False
        for scale in reversed(above):
            point = self.points[scale]
            if not (unscorable(point) or self.feasible(point)):
                return "floor"
            if self.feasible(point):
                return "limit" if unscored else otherwise if self._goes_on(point, chance) else "chance"
            unscored = True
        return "limit"

    def to_beat(self, scale: float) -> int | None:
        """How many forget images may be right at this scale for it to be chosen."""
        if self.best is None:
            return None
        # An equal count at a smaller scale wins: the authors' tie-break. The base's is the smallest of all, so that a
        # scale that forgets nothing is dropped after its forget images.
        most = _correct(self.best) - (0 if scale < self.best.scale else 1)
        return min(most, _correct(self._base) - 1) if self._base_competes else most

    def take(self, point: Point) -> Point:
        """Put a point on the curve, and ahead of the others if it is feasible and forgets more."""
        self.points[point.scale] = point
        if self._on_point:
            self._on_point(point)
        if point.scale > 0.0 and self.feasible(point):
            rank = (_correct(point), point.scale)
            if self.best is None or rank < (_correct(self.best), self.best.scale):
                self.best = point
        return point

    def _ask(self, scale: float, **bounds: Any) -> Point:
        try:
            return self._score(scale, **bounds)
        except NotFiniteError:
            if scale <= self._asked_for:
                raise
            return Point(scale, None, None, NO_NUMBERS)  # a scale that nobody asked for ends no search

    def _goes_on(self, point: Point, chance: float) -> bool:
        return self.feasible(point) and point.forget is not None and point.forget.value > chance

    def feasible(self, point: Point) -> bool:
        """Whether a point is known in full and meets every floor."""
        return reaches(point, self._least)


def _short(point: Point, least: Least) -> str:
    """The reason a point in full would have been stopped for."""
    assert point.retain is not None
    right = {name: kept.correct for name, kept in point.sets.items()} or {"": point.retain.correct}
    return out_of_reach(least, right, dict.fromkeys(right, 0)) or BELOW_FLOOR


def _correct(point: Point) -> int:
    assert point.forget is not None
    return point.forget.correct


def outcome(found: ScaleSearch) -> str | None:
    """The search in a sentence where its scale alone would mislead; None where the floor ended it as usual.

    Either the floor broke at the first step, or nothing was forgotten (and retention fell, stayed or rose), or the
    range came to its end with retention above the floor.

    >>> from negmerge_kit.scoring.scale_search import search_scale
    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> def score(scale, **bounds):
    ...     return Point(scale, Accuracy(80 - int(20 * scale), 100, "val"), Accuracy(90, 100, "val"))
    >>> outcome(search_scale(score, scales=[0, 0.5, 1]))
    'the grid ended before the floor: at scale 1 retention is 100.0 % of the base’s'
    """
    if found.best is None:
        above = [point for point in found.curve if point.scale > 0]
        if not above:
            return "there is no scale above 0"
        return f"the floor breaks at the first step, scale {above[0].scale:g} ({found.failing})"
    if found.ended is None:
        return None
    if found.choose == "gap":
        return f"the gap was still falling where the grid ended, at scale {found.best.scale:g}"
    least = images_needed(found.keep, found.base)
    last = max((point for point in found.curve if reaches(point, least)), key=lambda point: point.scale)
    if found.best.scale == 0:
        return _nothing_forgotten(found, last)
    at = f"at scale {last.scale:g} retention is {_share(last, found.base)} of the base’s"
    return {
        "floor": None,
        "grid": f"the grid ended before the floor: {at}",
        "cap": f"retention meets no floor up to the largest scale that is tried: {at}",
        "chance": f"accuracy on the forget set is at chance before retention meets the floor: {at}",
        "limit": f"no larger scale can be scored ({_reason(found)}): {at}",
    }[found.ended]


def remedy(found: ScaleSearch) -> str | None:
    """What to try where a search gave no scale above 0; None where it did."""
    if found.best is not None and (found.best.scale > 0 or found.ended is None):
        return None
    if found.best is None:
        first = next((point.scale for point in found.curve if point.scale > 0), 1.0)
        return f"Try finer scales, such as --scales 0:{first:g}:{first / 20:g}, a lower --keep, or other --candidates."
    if found.ended == "grid":
        return "Leave --scales out, so that the search goes on beyond the grid, or choose other --candidates."
    if found.ended == "floor":
        return "Try a lower --keep, or other --candidates."
    return "Choose other --candidates, or a rule that keeps more of what moved."


def _nothing_forgotten(found: ScaleSearch, last: Point) -> str:
    base = found.base
    assert base.retain is not None and last.retain is not None
    if found.ended == "floor":
        return (
            "nothing is forgotten at any scale that keeps enough: accuracy on the forget set stays at the base’s until "
            f"retention falls below the floor, beyond scale {last.scale:g}"
        )
    where = "the grid ended before the floor: up to" if found.ended == "grid" else "up to"
    where = f"{where} scale {last.scale:g} nothing is forgotten"
    if last.retain.correct > base.retain.correct:
        return f"{where}, and retention rose to {_share(last, base)} of the base’s"
    lost = " and nothing lost" if last.retain.correct == base.retain.correct else ""
    return f"{where}{lost}: retention is {_share(last, base)} of the base’s"


def _share(point: Point, base: Point) -> str:
    assert point.retain is not None and base.retain is not None
    return f"{100 * point.retain.value / base.retain.value:.1f} %" if base.retain.correct else "100 %"


def _reason(found: ScaleSearch) -> str:
    return next((point.stopped for point in reversed(found.curve) if point.stopped), "") or ""
