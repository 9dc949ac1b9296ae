"""The curve of a scale search: one point a scale, in full or given up as soon as its counts decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from negmerge_kit.errors import ParameterError
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
