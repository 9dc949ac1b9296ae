"""Accuracy as counts, so that no number travels without its split, its n and its interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.scoring.intervals import wilson
from negmerge_kit.types import Json


@dataclass(frozen=True)
class Accuracy:
    """`correct` images out of `n` on the named split; the interval is Wilson's at 95 %.

    >>> score = Accuracy(correct=90, n=100, split="val")
    >>> score.value, score.json()["n"]
    (0.9, 100)
    """

    correct: int
    n: int
    split: str

    @property
    def value(self) -> float:
        """The share of correct answers, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, fractions in [0, 1]."""
        return wilson(self.correct, self.n)

    def for_choosing(self) -> Accuracy:
        """The same, where a scale or a rate is chosen by it.

        Raises:
            SplitError: if it was counted on test images.
        """
        if self.split == "test":
            raise SplitError("test images must not choose a scale or a rate: score on validation.")
        return self

    def json(self) -> Json:
        """The score object that every verb and endpoint prints: value, n, low, high, split."""
        low, high = self.interval
        return {"value": self.value, "n": self.n, "low": low, "high": high, "split": self.split}


def pool_accuracies(parts: Iterable[Accuracy]) -> Accuracy:
    """Add up the images of several sets: retention is pooled over images, not averaged over families.

    Raises:
        ParameterError: if there is no part or the splits differ; pool parts of one split.

    >>> pool_accuracies([Accuracy(8, 10, "val"), Accuracy(40, 90, "val")])
    Accuracy(correct=48, n=100, split='val')
    """
    parts = list(parts)
    splits = {part.split for part in parts}
    if len(splits) != 1:
        raise ParameterError(f"cannot pool accuracies of splits {sorted(splits)}: score one split at a time.")
    return Accuracy(sum(part.correct for part in parts), sum(part.n for part in parts), splits.pop())


@dataclass(frozen=True)
class Pair:
    """Forget accuracy and retain accuracy, pooled over its images, of one model on one split."""

    forget: Accuracy
    retain: Accuracy

    def json(self) -> Json:
        """`{"forget": score, "retain": score}`."""
        return {"forget": self.forget.json(), "retain": self.retain.json()}
