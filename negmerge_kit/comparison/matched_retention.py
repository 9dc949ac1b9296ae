"""Forgetting at matched retention: the scale at which retention first meets its floor, read between two counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from negmerge_kit.errors import SplitError
from negmerge_kit.scoring.early_stopping import FARTHEST, onwards
from negmerge_kit.scoring.intervals import wilson
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.scoring.accuracy import Pair

NARROWEST = 1 / 128
"""Share of a step below which a bracket is not halved any more: several images may turn at one scale."""


@dataclass(frozen=True)
class FloorCrossing:
    """The scale where retention meets the floor, between the last scale above it and the first one below.

    Attributes:
        scale: interpolated between the two by their retain counts.
        above, below: (scale, retain images right) on both sides of the floor.
    """

    scale: float
    above: tuple[float, int]
    below: tuple[float, int]

    @property
    def part(self) -> float:
        """How far the crossing lies from `above` to `below`, in [0, 1]."""
        return (self.scale - self.above[0]) / (self.below[0] - self.above[0])

    def between(self, above: float, below: float) -> float:
        """A number known at both ends, at the crossing.

        >>> FloorCrossing(0.75, (0.5, 92), (1.0, 88)).between(40.0, 30.0)
        35.0
        """
        return above + self.part * (below - above)

    def json(self) -> Json:
        """The scale and its bracket."""
        ends = {"above": self.above, "below": self.below}
        return {"scale": self.scale} | {name: {"scale": at, "retain": n} for name, (at, n) in ends.items()}


def matched_retention_scale(
    retained: Callable[[float], int],
    keeps: Callable[[float], bool],
    *,
    floor: float,
    scales: Sequence[float],
    known: Sequence[float] = (),
    split: str = "val",
    farthest: float = FARTHEST,
) -> FloorCrossing | None:
    """Find where retention first falls below `floor`, at any scale; None if it never does.

    The scales are tried upwards, and beyond their end in steps that grow by half. Between the first one below the
    floor and the one before it the bracket is halved, at scales of `known` first, until the two counts are neighbours
    or it is a 128th of its width; then the scale is interpolated. Neither cap nor grid is left in the answer: rules are
    compared at equal retention, not at the nearest step above it. A dip below the floor that ends before the next
    scale tried is not noticed.

    Args:
        retained: how many retain images are right at a scale, in full.
        keeps: whether at least `floor` are; may stop early.
        floor: retain images to keep, need not be whole.
        scales: the first scales to try.
        known: scales that a search has decided: tried in a bracket before it is halved.

    Raises:
        SplitError: for the test split: scales are chosen on validation.
        ParameterError: if no scale above 0 is given.

    >>> right = lambda scale: 100 - int(20 * scale)
    >>> round(matched_retention_scale(right, lambda s: right(s) >= 94.5, floor=94.5, scales=[0.0, 0.2, 0.4]).scale, 3)
    0.275
    """
    if split == "test":
        raise SplitError("test images must not choose a scale: look for the crossing on validation.")
    low = 0.0
    for scale in onwards(scales, farthest, growth=0.5):
        if not keeps(scale):
            return _between(retained, keeps, floor, low, scale, known)
        low = scale
    return None


def _between(
    retained: Callable[[float], int],
    keeps: Callable[[float], bool],
    floor: float,
    low: float,
    high: float,
    known: Sequence[float],
) -> FloorCrossing:
    """Halve the bracket; what lies below the floor is counted in full only where it may be the bracket's end."""
    narrow = (high - low) * NARROWEST
    for scale in sorted(scale for scale in known if low < scale < high):
        if not keeps(scale):
            high = scale
            break
        low = scale
    while high - low > narrow and not (retained(low) - 1 < floor and retained(low) - retained(high) <= 1):
        middle = (low + high) / 2
        if keeps(middle):
            low = middle
        else:
            high = middle
    above, below = retained(low), retained(high)
    return FloorCrossing(low + (high - low) * (above - floor) / (above - below), (low, above), (high, below))


FLOORS = (0.93, 0.94, 0.95, 0.96, 0.97)
"""Shares of the base's test retention at which forgetting is read off and averaged."""

STEP = 1.1
"""How far apart the scales are that are measured on test, as a factor."""


@dataclass(frozen=True)
class AtTestRetention:
    """Accuracy on the forget set where test retention crosses each of FLOORS, between measured scales.

    Attributes:
        floors: the floors that are crossed; `forget`: accuracy on the forget set at each, on test.
        n: test images of the forget set.
        scales: what was measured.
    """

    floors: tuple[float, ...]
    forget: tuple[float, ...]
    n: int
    scales: tuple[float, ...]

    @property
    def value(self) -> float:
        """The mean over the floors."""
        return sum(self.forget) / len(self.forget)

    def json(self) -> Json:
        """The mean as a score object, with the floors that it is over; the interval takes the scales as given."""
        low, high = wilson(round(self.value * self.n), self.n)
        return {
            "forget": {"value": self.value, "n": self.n, "low": low, "high": high, "split": "test"},
            "by_floor": [{"keep": keep, "forget": share} for keep, share in zip(self.floors, self.forget, strict=True)],
            "scales": list(self.scales),
        }

    @classmethod
    def from_json(cls, values: Json) -> AtTestRetention:
        """Back from what `json` gave."""
        floors, forget = ([item[name] for item in values["by_floor"]] for name in ("keep", "forget"))
        return cls(tuple(floors), tuple(forget), values["forget"]["n"], tuple(values["scales"]))


def at_test_retention(
    measure: Callable[[float], Pair], base: Pair, start: float, *, limit: float = FARTHEST
) -> AtTestRetention | None:
    """Walk a test curve around `start` until it spans FLOORS, and read forgetting off between its measured scales.

    Scales that were matched on validation keep different shares on test, and accuracy on the forget set follows what
    they keep. Here every rule is read at the same test retention. Averaging over floors takes off some of the noise of
    single images. None where the curve does not cross all floors before `limit`.

    Args:
        measure: both sides on test at a scale; base: the same at scale 0.
        start: the scale from which to walk, such as the crossing on validation.

    >>> from negmerge_kit.scoring.accuracy import Pair
    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> def measure(scale):
    ...     return Pair(Accuracy(800 - int(500 * scale), 1000, "test"), Accuracy(1000 - int(100 * scale), 1000, "test"))
    >>> round(at_test_retention(measure, measure(0.0), 0.6).value, 3)
    0.548
    """
    floors = [keep * base.retain.value for keep in FLOORS]
    known = {0.0: base}

    def kept(scale: float) -> float:
        if scale not in known:
            known[scale] = measure(scale)
        return known[scale].retain.value

    up = down = start
    while kept(up) >= floors[0]:
        if up >= limit:
            return None
        up = min(limit, up * STEP)
    while kept(down) < floors[-1] and down > start / 8:  # below that the base's own point will do
        down /= STEP
    curve = [known[scale] for scale in sorted(known)]
    forget = []
    for floor in floors:
        above, below = next((a, b) for a, b in pairwise(curve) if b.retain.value < floor)  # the first one that falls
        part = (above.retain.value - floor) / (above.retain.value - below.retain.value)
        forget.append(above.forget.value + part * (below.forget.value - above.forget.value))
    return AtTestRetention(FLOORS, tuple(forget), base.forget.n, tuple(sorted(known)))
