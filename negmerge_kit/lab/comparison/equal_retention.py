"""Forgetting at equal retention on test: a description of a rule's test curve, by which nothing is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from negmerge_kit.scoring.grid import FARTHEST
from negmerge_kit.scoring.intervals import wilson
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.lab.comparison.rows import Pair

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

    >>> from negmerge_kit.lab.comparison.rows import Pair
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
