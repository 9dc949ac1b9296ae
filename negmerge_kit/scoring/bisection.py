"""Splitting the question: the largest feasible scale of a falling curve, and the smallest one that forgets as much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

from negmerge_kit.scoring.curve import NOT_BETTER, Point

SPLIT = 0.8
"""Where the open scales are split: a scale that keeps enough costs every retain image, one that does not only a few."""


class Look(Protocol):
    """Scores a scale until it is clear that more than `most` forget images are right."""

    def __call__(self, scale: float, *, most: int | None = None) -> Point:
        """The point at `scale`, in full or stopped."""


def bisect(scales: Sequence[float], look: Look, feasible: Callable[[Point], bool], base: Point) -> bool:
    """Look at scales that split the question, and tell whether the curve fell wherever it was looked at.

    Where forget and retain accuracy both fall as the scale grows, the largest feasible scale forgets most, and of
    those that forget as much the smallest is found by halving: some log(n) looks of n.

    Args:
        scales: the grid above 0, upwards.
        look: scores a scale and remembers its point.
        feasible: whether a point meets every floor.
        base: the point at scale 0, which is feasible.

    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> def look(scale, *, most=None):
    ...     looked.append(scale)
    ...     return Point(scale, Accuracy(9 - int(scale), 10, "val"), Accuracy(10 - int(scale), 10, "val"))
    >>> looked = []
    >>> bisect(range(1, 9), look, lambda point: point.retain.correct >= 5, look(0)), looked
    (True, [0, 7, 5, 6, 4])
    """
    seen: dict[int, Point] = {-1: base}
    low, high = -1, len(scales)
    while high - low > 1:
        middle = low + max(1, int(SPLIT * (high - low)))
        seen[middle] = look(scales[middle])
        if not falls(seen):
            return False
        low, high = (middle, high) if feasible(seen[middle]) else (low, middle)
    if low < 0:
        return True
    most = _correct(seen[low])
    below = max((k for k in seen if k < low and _correct(seen[k]) > most), default=-1)
    first = min(k for k in seen if 0 <= k <= low and _correct(seen[k]) == most)
    step = first - 1
    while first - below > 1:
        point = seen[step] = look(scales[step], most=most)
        if point.stopped == NOT_BETTER or (point.forget and point.forget.correct > most):
            below = step
        elif not feasible(seen[step]) or not falls(seen):
            return False
        else:
            first = step
        step = (below + first) // 2
    return True


def falls(seen: dict[int, Point]) -> bool:
    """Whether neither score rises from one known point to the next.

    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> falls({k: Point(k, Accuracy(right, 9, "val"), None, "x") for k, right in enumerate([8, 8, 5])})
    True
    """
    points = [seen[k] for k in sorted(seen)]
    for side in ("forget", "retain"):
        known = [score.correct for point in points if (score := getattr(point, side)) is not None]
        if any(after > before for before, after in pairwise(known)):
            return False
    return True


def _correct(point: Point) -> int:
    assert point.forget is not None
    return point.forget.correct
