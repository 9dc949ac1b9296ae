"""Effect of a step along a part of the merged delta: accuracy lost per unit of distance in weight space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from negmerge_kit.errors import ParameterError
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scoring.intervals import paired_difference
from negmerge_kit.types import Json
from negmerge_kit.unlearning.delta_cache import Merged
from negmerge_kit.unlearning.workbench import Workbench

PARTS = {
    "consensus": ("negmerge", "the mean where all signs agree"),
    "conflict": ("conflict", "the mean where they do not"),
    "mean": ("uniform", "both together"),
    "random mask": ("random-mask", "the mean on as many elements as the consensus, drawn at random"),
}
"""Part, the rule that gives it, and what it is."""
STEPS = (0.25, 0.5, 0.75, 1.0)
"""Distances, as shares of the length of the candidates' mean."""


@dataclass(frozen=True)
class Change:
    """Accuracy after a step minus the base's on the same `n` images, with its paired 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    split: str

    @classmethod
    def between(cls, before: torch.Tensor, after: torch.Tensor, split: str) -> Change:
        """From which images were right before and after."""
        lost, gained = int((before & ~after).sum()), int((~before & after).sum())
        low, high = paired_difference(lost, gained, len(before))
        return cls((gained - lost) / len(before), low, high, len(before), split)

    def json(self, distance: float) -> Json:
        """The change, and what it comes to for one unit of distance."""
        return {
            "value": self.value,
            "n": self.n,
            "low": self.low,
            "high": self.high,
            "split": self.split,
            "per_unit": self.value / distance,
        }


@dataclass(frozen=True)
class Step:
    """One step of a part: how far in weight space, at which scale, and what it changed on either side."""

    distance: float
    scale: float
    forget: Change
    retain: Change


@dataclass(frozen=True)
class Direction:
    """One part of the candidates' mean: its length, how many elements it holds, and the steps taken along it."""

    part: str
    explains: str
    length: float
    kept: int
    steps: tuple[Step, ...]

    def json(self) -> Json:
        """Plain values."""
        return {
            "part": self.part,
            "explains": self.explains,
            "length": self.length,
            "kept": self.kept,
            "steps": [
                {
                    "distance": step.distance,
                    "scale": step.scale,
                    "forget": step.forget.json(step.distance),
                    "retain": step.retain.json(step.distance),
                }
                for step in self.steps
            ],
        }


def step_along(
    bench: Workbench,
    ids: Sequence[str] | None = None,
    *,
    shares: Sequence[float] = STEPS,
    split: str = "val",
    on_step: ProgressFn = no_progress,
) -> list[Direction]:
    """Subtract every part of PARTS at the same distances |λ δ| and compare the answers with the base's, image by image.

    Equal distances, not equal scales: parts differ in length, and a longer step changes more whatever its direction.
    A part with no element (one candidate has no conflict) takes no step.

    Args:
        ids: candidates; None takes all.
        shares: distances as shares of the length of the candidates' mean, above 0.

    Raises:
        ParameterError: for a share that is not above 0, or candidates that did not move.
    """
    if wrong := [share for share in shares if not share > 0]:
        raise ParameterError(f"a step of {wrong[0]} of the mean's length leads nowhere: give shares above 0.")
    whole = _length(bench.merged(bench.choose(ids, rule="uniform")))
    if not whole:
        raise ParameterError("the candidates did not move from the base: there is no direction to step along.")
    base = bench.scorer.answers(None, 0.0, split)
    found, taken = [], 0
    for part, (rule, explains) in PARTS.items():
        choice = bench.choose(ids, rule=rule)
        merged = bench.merged(choice)
        length, steps = _length(merged), []
        for distance in (share * whole for share in shares if length):
            after = bench.scorer.answers(choice, distance / length, split)
            steps.append(
                Step(
                    distance,
                    distance / length,
                    Change.between(base.forget, after.forget, split),
                    Change.between(base.retain, after.retain, split),
                )
            )
            taken += 1
            on_step(Progress(part, step=taken, total=len(PARTS) * len(shares)))
        found.append(Direction(part, explains, length, merged.counts.kept, tuple(steps)))
    return found


def _length(merged: Merged) -> float:
    """Euclidean length of the merged delta over all its tensors."""
    squares = [float(torch.linalg.vector_norm(tensor.float())) ** 2 for tensor in merged.delta.values()]
    return float(sum(squares) ** 0.5)
