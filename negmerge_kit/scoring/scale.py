"""Which scale forgets most while retention stays above its floor: the authors' rule, and its search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from math import ceil, isfinite
from typing import Protocol

from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.types import Json

DEFAULT_SCALES = tuple(step / 20 for step in range(21))
"""0, 0.05 ... 1: the 21 points of the paper's code."""

KEEP = 0.95
"""Share of the base's retention that the paper's protocol keeps."""

BELOW_FLOOR = "retention cannot reach the floor"
NOT_BETTER = "forgets less than a scale already found"


@dataclass(frozen=True)
class Point:
    """One scale on the curve; a score that early stopping made needless is None, with the reason in `stopped`."""

    scale: float
    forget: Accuracy | None
    retain: Accuracy | None
    stopped: str | None = None

    def json(self) -> Json:
        """The entry of `curve` in the JSON contract."""
        return {
            "scale": self.scale,
            "forget": self.forget.json() if self.forget else None,
            "retain": self.retain.json() if self.retain else None,
            "stopped": self.stopped,
        }


class Score(Protocol):
    """Scores one scale; it may stop as soon as the counts prove that the scale cannot be chosen.

    `retain_at_least` is the number of retain images that must be right, `forget_at_most` the number
    of forget images that may be right. A scorer that ignores both is slower, and just as correct.
    """

    def __call__(
        self, scale: float, *, forget_at_most: int | None = None, retain_at_least: int | None = None
    ) -> Point:
        """The point at `scale`, in full or stopped."""


@dataclass(frozen=True)
class ScaleSearch:
    """The outcome of a scale search: the chosen point, the base it is held against, and the whole curve."""

    keep: float
    base: Point
    best: Point | None
    curve: tuple[Point, ...] = field(repr=False)

    @property
    def status(self) -> str:
        """`ok`, or `infeasible` when no scale above 0 keeps enough."""
        return "ok" if self.best else "infeasible"

    @property
    def floor(self) -> float:
        """The retention floor as an accuracy: keep times the measured base."""
        assert self.base.retain is not None
        return self.keep * self.base.retain.value


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
    scales: Sequence[float] = DEFAULT_SCALES,
    keep: float = KEEP,
    exhaustive: bool = False,
    on_point: Callable[[Point], None] | None = None,
) -> ScaleSearch:
    """Find the scale that forgets most on validation while retention stays at keep times the measured base.

    Scales are tried from the largest down, because the largest feasible one usually forgets most:
    the rest can then be dropped as soon as their counts prove that they cannot win. Dropping is
    exact, so the answer is that of `select_scale` on the whole curve (arXiv:2410.05583, section 4.1:
    21 scales, retention 95 %).

    Args:
        score: scores one scale, on validation.
        scales: the grid, each 0 or more.
        keep: share of the base's retain accuracy to keep, in (0, 1].
        exhaustive: score every scale in full, for the whole curve.
        on_point: called with each point as soon as it is known.

    Raises:
        SplitError: if the scores come from a test split; choose on validation.
        ParameterError: if keep or a scale is out of range.

    >>> def score(scale, *, forget_at_most=None, retain_at_least=None):
    ...     return Point(scale, Accuracy(80 - int(60 * scale), 100, "val"), Accuracy(90 - int(9 * scale), 100, "val"))
    >>> search_scale(score, scales=[0.0, 0.5, 1.0], keep=0.95).best.scale
    0.5
    """
    if not (isfinite(keep) and 0.0 < keep <= 1.0):
        raise ParameterError(f"keep is {keep}: give the share of retention to keep, above 0 and at most 1.")
    grid = sorted({check_scale(scale) for scale in scales})
    if not grid:
        raise ParameterError("no scale to try: give at least one, such as 0:1:0.05.")

    base = score(0.0)
    if base.forget is None or base.retain is None:
        raise ParameterError("the base was not scored in full: score scale 0 without stopping.")
    if base.retain.split == "test" or base.forget.split == "test":
        raise SplitError("test images must not choose a scale: search on validation, then score the chosen scale once.")
    least = _images_needed(keep, base.retain)

    points: dict[float, Point] = {}
    best: Point | None = None
    for scale in reversed(grid):
        if scale == 0.0:
            point = base
        elif exhaustive:
            point = score(scale)
        else:
            most = best.forget.correct if best and best.forget else None
            point = score(scale, forget_at_most=most, retain_at_least=least)
        points[scale] = point
        if on_point:
            on_point(point)
        # Going down, an equal count at a smaller scale wins: the authors' tie-break.
        if scale > 0.0 and _feasible(point, least) and (best is None or _correct(point) <= _correct(best)):
            best = point
    if best and 0.0 in points and _correct(base) <= _correct(best):
        best = base  # nothing was forgotten at any feasible scale
    return ScaleSearch(keep, base, best, tuple(points[scale] for scale in grid))


def check_scale(scale: float) -> float:
    """The scale itself if it is a finite number of 0 or more.

    Raises:
        ParameterError: otherwise; scales are subtracted, so a negative one would teach instead.

    >>> check_scale(0.7)
    0.7
    """
    if not (isfinite(scale) and scale >= 0):
        raise ParameterError(f"scale is {scale}: give a finite number of 0 or more (it is always subtracted).")
    return float(scale)


def parse_scales(text: str) -> list[float]:
    """Scales from `start:stop:step` (stop included) or a comma-separated list.

    Steps are decimal, so 0:1:0.05 holds 0.15 and not 0.15000000000000002.

    Raises:
        ParameterError: if the text is neither; write 0:1:0.05 or 0.5,0.7,0.9.

    >>> parse_scales("0:0.2:0.05")
    [0.0, 0.05, 0.1, 0.15, 0.2]
    >>> parse_scales("0.5,0.7")
    [0.5, 0.7]
    """
    try:
        if ":" not in text:
            return [check_scale(float(part)) for part in text.split(",")]
        start, stop, step = (Decimal(part) for part in text.split(":"))
        count = int((stop - start) / step) + 1
        if step <= 0 or not 1 <= count <= 10_001:
            raise ValueError(text)
    except (ValueError, ArithmeticError, InvalidOperation) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(
            f"scales '{text}' cannot be read: write START:STOP:STEP or a list such as 0.5,0.7."
        ) from None
    return [check_scale(float(start + step * index)) for index in range(count)]


def stop_early(
    forget: Iterator[tuple[int, int]],
    retain: Iterator[tuple[int, int]],
    *,
    forget_n: int,
    retain_n: int,
    forget_at_most: int | None,
    retain_at_least: int | None,
    scale: float,
    split: str,
) -> Point:
    """Count batch by batch and stop once the counts prove that this scale cannot be chosen.

    Args:
        forget, retain: iterators over (correct, images) of each batch; forget is read first, because
            it is the smaller set.
        forget_n, retain_n: how many images the whole sets hold.
        forget_at_most, retain_at_least: the bounds of `Score`; None asks for the whole set.

    >>> batches = iter([(9, 10), (9, 10)])
    >>> stop_early(batches, iter([]), forget_n=20, retain_n=5, forget_at_most=4, retain_at_least=None,
    ...            scale=0.1, split="val").stopped
    'forgets less than a scale already found'
    """
    correct = 0
    for hits, _ in forget:
        correct += hits
        if forget_at_most is not None and correct > forget_at_most:
            return Point(scale, None, None, NOT_BETTER)
    forgotten = Accuracy(correct, forget_n, split)
    kept = seen = 0
    for hits, images in retain:
        kept, seen = kept + hits, seen + images
        if retain_at_least is not None and kept + (retain_n - seen) < retain_at_least:
            return Point(scale, forgotten, None, BELOW_FLOOR)
    return Point(scale, forgotten, Accuracy(kept, retain_n, split))


def _images_needed(keep: float, base: Accuracy) -> int:
    """Smallest count whose share reaches keep times the base's share (the comparison that select_scale makes)."""
    floor = keep * base.value
    count = max(0, ceil(floor * base.n) - 1)
    while count / base.n < floor:
        count += 1
    return count


def _feasible(point: Point, least: int) -> bool:
    return point.stopped is None and point.retain is not None and point.retain.correct >= least


def _correct(point: Point) -> int:
    assert point.forget is not None
    return point.forget.correct
