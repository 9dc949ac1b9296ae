"""The curve of a scale search: one point a scale, in full or given up as soon as its counts decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from math import ceil, log2
from typing import Protocol, TypeAlias

from negmerge_kit.errors import ParameterError, check_scale
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.types import Json

BELOW_FLOOR = "retention cannot reach the floor"
NOT_BETTER = "forgets less than a scale already found"
NO_NUMBERS = "the model answers with NaN or infinity"
_OF_A_SET = " cannot reach its floor"

Least: TypeAlias = int | Mapping[str, int]
"""Retain images that must be right: of all sets together, or of each named set."""


@dataclass(frozen=True)
class Point:
    """One scale on the curve; a score that early stopping made needless is None, with the reason in `stopped`.

    Attributes:
        retain: accuracy pooled over the images of every retain set.
        sets: each retain set's own accuracy, where it was asked for.
        gap: mean distance to the retrained model, where a search looked for that.
    """

    scale: float
    forget: Accuracy | None
    retain: Accuracy | None
    stopped: str | None = None
    sets: Mapping[str, Accuracy] = field(default_factory=dict, compare=False, repr=False)
    gap: float | None = None

    def json(self, *, each: bool = False) -> Json:
        """The entry of `curve` in the JSON contract; `each` adds every retain set's own score."""
        told: Json = {
            "scale": self.scale,
            "forget": self.forget.json() if self.forget else None,
            "retain": self.retain.json() if self.retain else None,
            "stopped": self.stopped,
        }
        if self.gap is not None:
            told["gap"] = self.gap
        return told | ({"retain_sets": {name: kept.json() for name, kept in self.sets.items()}} if each else {})


class Score(Protocol):
    """Scores one scale; it may stop as soon as the counts prove that the scale cannot be chosen.

    `retain_at_least` is the number of retain images that must be right, of all sets or of each named one;
    `forget_at_most` the number of forget images that may be right. A scorer that ignores both is slower, and just as
    correct.
    """

    def __call__(
        self, scale: float, *, forget_at_most: int | None = None, retain_at_least: Least | None = None
    ) -> Point:
        """The point at `scale`, in full or stopped."""


def unscorable(point: Point) -> bool:
    """Whether a point was stopped for another reason than its counts: no number can be had there.

    >>> unscorable(Point(1.0, None, None, NO_NUMBERS)), unscorable(Point(1.0, None, None, BELOW_FLOOR))
    (True, False)
    """
    stopped = point.stopped
    counted = stopped is None or stopped in (BELOW_FLOOR, NOT_BETTER) or stopped.endswith(_OF_A_SET)
    return not counted


def out_of_reach(least: Least, right: Mapping[str, int], unseen: Mapping[str, int]) -> str | None:
    """Why the floor cannot be reached any more, were every unseen image right; None while it can.

    >>> out_of_reach({"shapes": 5}, {"shapes": 2, "letters": 0}, {"shapes": 2, "letters": 9})
    'retention of shapes cannot reach its floor'
    """
    if isinstance(least, int):
        return BELOW_FLOOR if sum(right.values()) + sum(unseen.values()) < least else None
    for name, needed in least.items():
        if name not in right:
            raise ParameterError(f"there is no retain set '{name}': choose among {', '.join(right)}.")
        if right[name] + unseen[name] < needed:
            return f"retention of {name}{_OF_A_SET}"
    return None


STEPS = 20
"""Steps of the paper's grid from 0 to 1, and of the search from one doubling to the next."""

DEFAULT_SCALES = tuple(step / STEPS for step in range(STEPS + 1))
"""0, 0.05 ... 1: the 21 points of the paper's code."""

FARTHEST = 32.0
"""Largest scale that is tried before retention is said never to fall."""

AUTO = "auto"
"""How the command line and the endpoints write the open-ended search."""

Scales: TypeAlias = Sequence[float] | None
"""The scales to try and no others; None is DEFAULT_SCALES, and on beyond them until retention falls to its floor."""


def scale_grid(scales: Scales) -> list[float]:
    """The scales upwards, each once; None is the paper's grid.

    Raises:
        ParameterError: for no scale, or one that is no finite number of 0 or more.

    >>> scale_grid([0.5, 0, 0.5])
    [0.0, 0.5]
    """
    grid = sorted({check_scale(scale) for scale in (DEFAULT_SCALES if scales is None else scales)})
    if not grid:
        raise ParameterError("no scale to try: give at least one, such as 0:1:0.05.")
    return grid


def onwards(scales: Sequence[float], farthest: float = FARTHEST, *, growth: float = 0.1) -> Iterator[float]:
    """The scales above 0 upwards, then on from the last one until `farthest`.

    Args:
        growth: least step beyond the last of `scales`, as a share of the scale reached; 1 doubles.

    Raises:
        ParameterError: if no scale is above 0.

    >>> [round(scale, 2) for scale in onwards([0.0, 0.5, 1.0], 2.5)]
    [0.5, 1.0, 1.5, 2.0, 2.5]
    """
    grid = sorted({scale for scale in scales if scale > 0})
    if not grid:
        raise ParameterError("no scale above 0 to try: give at least one, such as 0:1:0.05.")
    yield from grid
    step, scale = grid[-1] - (grid[-2] if len(grid) > 1 else 0.0), grid[-1]
    while scale < farthest:
        # Rounded, so that the same scale is the same number wherever it is asked for.
        scale = min(farthest, round(scale + max(step, growth * scale), 4))
        yield scale


def between(low: float, high: float) -> list[float]:
    """The scales strictly between two, in STEPS equal steps.

    From 1 to 2 that is the usual 0.05; from 8 to 16 it is 0.4. The step grows with the scale because a delta that is
    eight times shorter does at scale 8 what the longer one does at 1: the answer is as fine for either, and costs as
    many looks.

    >>> between(8.0, 16.0)[:3], len(between(8.0, 16.0))
    ([8.4, 8.8, 9.2], 19)
    """
    return [round(low + (high - low) * step / STEPS, 6) for step in range(1, STEPS)]


def looks(farthest: float) -> int:
    """How many scales an open-ended search looks at once it has come to `farthest`.

    The paper's grid and, beyond 1, each doubling and the steps within the last one.

    >>> looks(1.0), looks(2.0), looks(4.0)
    (21, 41, 42)
    """
    beyond = ceil(log2(farthest)) + STEPS - 1 if farthest > DEFAULT_SCALES[-1] else 0
    return len(DEFAULT_SCALES) + beyond


def parse_scales(text: str) -> list[float] | None:
    """Scales from `start:stop:step` (stop included) or a comma-separated list; `auto` is None, the open-ended search.

    Steps are decimal, so 0:1:0.05 holds 0.15 and not 0.15000000000000002.

    Raises:
        ParameterError: if the text is none of these; write 0:1:0.05 or 0.5,0.7,0.9.

    >>> parse_scales("0:0.2:0.05")
    [0.0, 0.05, 0.1, 0.15, 0.2]
    >>> parse_scales("0.5,0.7")
    [0.5, 0.7]
    """
    if text.strip() == AUTO:
        return None
    try:
        if ":" not in text:
            return [check_scale(float(part)) for part in text.split(",")]
        start, stop, step = (Decimal(part) for part in text.split(":"))
        if start > stop:
            raise ParameterError(f"scales '{text}' end before they start: write {stop}:{start}:{abs(step)}.")
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
