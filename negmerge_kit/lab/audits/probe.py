"""What every probe answers: a question, numbers with their intervals, what they are held against, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.intervals import paired_difference
from negmerge_kit.types import Json

LEFTOVER, NONE, OPEN = "leftover", "none", "open"
"""Verdicts: knowledge is left; the probe finds none; it cannot tell (a retrained model would)."""


MARGIN = 0.05
"""How far below the base still counts as the base's own, at 95 % confidence: few images prove nothing either way."""


@dataclass(frozen=True)
class Reading:
    """One model's number on `n` images of a split, with its 95 % interval.

    >>> Reading.of(Accuracy(9, 10, "test")).json()["value"]
    0.9
    """

    value: float
    low: float
    high: float
    n: int
    split: str

    @classmethod
    def of(cls, accuracy: Accuracy) -> Reading:
        """A share of images, with Wilson's interval."""
        return cls(accuracy.value, *accuracy.interval, accuracy.n, accuracy.split)

    @classmethod
    def share(cls, hits: Tensor, split: str) -> Reading:
        """The share of true entries, with Wilson's interval.

        Raises:
            ParameterError: for no images.
        """
        if not len(hits):
            raise ParameterError(f"there is no image to probe on split {split}: give a set that has some.")
        return cls.of(Accuracy(int(hits.sum()), len(hits), split))

    def json(self) -> Json:
        """The score object of the JSON contract."""
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high, "split": self.split}


@dataclass(frozen=True)
class Probe:
    """One question to the models under audit and their answers.

    Attributes:
        name: what the probe is called, e.g. "linear probe".
        asks: the question in one sentence.
        readings: each model's number: base, unlearned, and retrained and shuffled where they were asked.
        chance: what a model that knows nothing would show; None where there is no such number.
        verdict: LEFTOVER, NONE, OPEN, or None where the probe describes and does not judge.
        undefined: why there is no number, in a sentence.
        details: more numbers, as plain values.
    """

    name: str
    asks: str
    readings: Mapping[str, Reading] = field(default_factory=dict)
    chance: float | None = None
    verdict: str | None = None
    undefined: str | None = None
    details: Json = field(default_factory=dict)

    def json(self) -> Json:
        """`{"name", "asks", "base", "unlearned", "chance", "retrained", …}` of the JSON contract."""
        told = {who: found.json() for who, found in self.readings.items()}
        return {
            "name": self.name,
            "asks": self.asks,
            "base": told.get("base"),
            "unlearned": told.get("unlearned"),
            "chance": self.chance,
            "retrained": told.get("retrained"),
            "shuffled": told.get("shuffled"),
            "verdict": self.verdict,
            "undefined": self.undefined,
            "details": self.details,
        }


def change(before: Tensor, after: Tensor) -> tuple[float, float]:
    """95 % interval of accuracy after minus before, from which of the same images were right."""
    before, after = before.bool(), after.bool()
    return paired_difference(int((before & ~after).sum()), int((~before & after).sum()), len(before))


def judge(hits: Mapping[str, Tensor]) -> str:
    """Whether what the probe read off the unlearned model is knowledge of the forget set, by paired intervals.

    With a model retrained without the set, knowledge is left where the unlearned model shows more than that one.
    Without, it is left where the unlearned model falls short of the base by less than MARGIN for sure, and none is
    found where it shows no more than shuffled weights do; in between the probe cannot tell, because features that were
    never taught the set may serve it too.

    >>> from torch import arange
    >>> knows, guesses = arange(200) % 10 > 0, arange(200) % 10 == 0
    >>> judge({"base": knows, "unlearned": knows, "shuffled": guesses})
    'leftover'
    >>> judge({"base": knows, "unlearned": knows, "retrained": knows})
    'none'
    """
    base, unlearned = hits["base"], hits["unlearned"]
    if "retrained" in hits:
        return LEFTOVER if change(hits["retrained"], unlearned)[0] > 0 else NONE
    floor = hits["shuffled"]
    if change(floor, base)[0] <= 0:
        return OPEN  # the base shows nothing here either
    if change(base, unlearned)[0] > -MARGIN:
        return LEFTOVER
    return OPEN if change(floor, unlearned)[0] > 0 else NONE
