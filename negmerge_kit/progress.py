"""How far a piece of work is, as everything that takes long reports it; a callback may end the work by an exception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Progress:
    """What is done now, and how far it is.

    Attributes:
        message: the current action.
        fraction: of the whole work done, in [0, 1]; by default step / total, and None where nothing is counted.
        step: which step of `total`.
        loss: of a training step.

    >>> Progress("step", step=1, total=4).fraction, Progress("scoring", 0.9, 3, 21).fraction
    (0.25, 0.9)
    """

    message: str = ""
    fraction: float | None = None
    step: int = 0
    total: int = 0
    loss: float | None = None

    def __post_init__(self) -> None:
        """Take the fraction from the steps where it is not given."""
        if self.fraction is None and self.total:
            object.__setattr__(self, "fraction", self.step / self.total)


ProgressFn: TypeAlias = Callable[[Progress], None]
"""Progress callback; whatever it raises ends the work."""


def no_progress(progress: Progress) -> None:
    """Ignore all progress: the default callback."""
