"""Trials of a rate search: score and cost of each, and the chosen one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from negmerge_kit.types import Json


@dataclass(frozen=True)
class Trial:
    """One rate that was tried.

    Attributes:
        score: on validation, smaller is better; None where it diverged.
        seconds: of the unlearning and of its scoring on validation, as a scale search is charged.
        status: "ok", or "diverged": never chosen.
        reason: why it diverged.
    """

    rate: float
    score: float | None
    seconds: float
    steps: int
    status: str = "ok"
    reason: str | None = None


@dataclass(frozen=True)
class ChosenRate:
    """The outcome of a search: the chosen rate, and what every try cost.

    Attributes:
        dial: what the rate is: a learning rate, or influence's alpha.
        scored_by: what the score is, in the caller's words.
        chosen: the trial with the smallest score; of several, the one with the smallest rate.
        trials: all of them, by rate.
    """

    baseline: str
    dial: str
    epochs: int
    seed: int
    params: Mapping[str, object]
    scored_by: str
    chosen: Trial
    trials: tuple[Trial, ...]

    @property
    def seconds(self) -> float:
        """What the search is charged: the time of every trial, the diverged ones too."""
        return sum(trial.seconds for trial in self.trials)

    def json(self) -> Json:
        """Plain values for a log or a table."""
        return {**asdict(self), "trials": [asdict(trial) for trial in self.trials], "seconds": self.seconds}


STATE = "unfinished.safetensors"
"""How the state files of trials end, from which a trial that was stopped goes on; they go when it is done."""
