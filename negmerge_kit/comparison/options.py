"""Options of a comparison of classifiers: how scales and rates are chosen, and how many shadow models attack."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from negmerge_kit.errors import ParameterError
from negmerge_kit.training.recipe import SEEDS
from negmerge_kit.types import Json

CHOOSE = ("floor", "gap")
"""Forget most with retention at its floor; or lie nearest to the retrained model, which an oracle has."""


@dataclass(frozen=True)
class ComparisonOptions:
    """Options of a comparison on a classifier's pool, in addition to its floor and its scales.

    Attributes:
        choose: one of CHOOSE, for the scales of rules and the rates of baselines alike, on validation.
        shadows: shadow models of the likelihood ratio attack; 0 leaves it out.
        seed: of the baselines, the retrained model and the shadow models.
        epochs: passes of every baseline, where not those of its preset: for a rehearsal.

    Raises:
        ParameterError: for another way to choose, a number of shadow models that cannot be halved, a seed that is
            negative or has more than 63 bits, or no epochs.
    """

    choose: str = "floor"
    shadows: int = 0
    seed: int = 0
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.choose not in CHOOSE:
            raise ParameterError(f"--choose is {self.choose!r}: choose {' or '.join(CHOOSE)}.")
        if self.shadows and (self.shadows < 4 or self.shadows % 2):
            raise ParameterError(
                f"{self.shadows} shadow models cannot be halved: give an even number, 4 at least, or 0."
            )
        if not 0 <= self.seed < SEEDS:
            raise ParameterError(f"seed {self.seed} is out of range: give a whole number from 0 to {SEEDS - 1}.")
        if self.epochs is not None and self.epochs < 1:
            raise ParameterError(f"{self.epochs} epochs train nothing: give at least 1.")

    def json(self) -> Json:
        """Plain values."""
        return asdict(self)


PLAIN = ComparisonOptions()
"""Chosen by the floor, without shadow models."""
