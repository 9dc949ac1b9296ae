"""Result of a probe: a question, numbers with their intervals, the floor they are compared with, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import inf

from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.intervals import paired_difference
from negmerge_kit.scoring.share_left import Leftover, share_left
from negmerge_kit.types import Json

LEFTOVER, NONE, OPEN = "leftover", "none", "open"
"""Verdicts: knowledge is left; no more than the floor shows; undecided, which a retrained model would settle."""

LOWER, HIGHER = "lower", "higher"
"""Which way a probe's number is good."""
ARROWS = {LOWER: " ↓", HIGHER: " ↑", None: ""}
"""The good direction, behind a probe's name."""

FLOORS = {
    "retrained": "the retrained model",
    "shuffled": "shuffled weights",
    "never seen": "images it never saw",
    "chance": "chance",
}
"""References without knowledge of the forget set, in words, the best first."""

WORDS = {LEFTOVER: "knowledge is left", OPEN: "undecided without a retrained model"}
UNPLACED = WORDS | {NONE: "at the level of the floor"}

MARGIN = 0.05
"""How far below the base still counts as the base's own, at 95 % confidence: few images prove nothing either way."""


@dataclass(frozen=True)
class Measurement:
    """One model's number on `n` images of a split, with its 95 % interval.

    >>> Measurement.of(Accuracy(9, 10, "test")).json()["value"]
    0.9
    """

    value: float
    low: float
    high: float
    n: int
    split: str

    @classmethod
    def of(cls, accuracy: Accuracy) -> Measurement:
        """A share of images, with Wilson's interval."""
        return cls(accuracy.value, *accuracy.interval, accuracy.n, accuracy.split)

    @classmethod
    def share(cls, hits: Tensor, split: str) -> Measurement:
        """The share of true entries, with Wilson's interval.

        Raises:
            ParameterError: for no images.
        """
        if not len(hits):
            raise ParameterError(f"there is no image to probe on split {split}: give a set that has some.")
        return cls.of(Accuracy(int(hits.sum()), len(hits), split))

    @property
    def span(self) -> tuple[float, float, float]:
        """(value, low, high)."""
        return self.value, self.low, self.high

    def json(self) -> Json:
        """The score object of the JSON contract."""
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high, "split": self.split}


@dataclass(frozen=True)
class Probe:
    """One probe and the measurement of each model under audit.

    Attributes:
        name: of the probe, e.g. "linear probe".
        asks: the question in one sentence.
        measurements: each model's number: base, unlearned, and retrained and shuffled where they were asked.
        chance: what a model that knows nothing would show; None where there is no such number.
        verdict: LEFTOVER, NONE, OPEN, or None where the probe describes and does not judge.
        undefined: why there is no number, in a sentence.
        details: more numbers, as plain values.
        good: LOWER or HIGHER where one way is good.
        floor: what shows no knowledge, a key of FLOORS, and its number; None for a probe that cannot say how much is
            left.
        known: (value, low, high) of the base for that floor, where not its measurement.
    """

    name: str
    asks: str
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    chance: float | None = None
    verdict: str | None = None
    undefined: str | None = None
    details: Json = field(default_factory=dict)
    good: str | None = None
    floor: tuple[str, float] | None = None
    known: tuple[float, float, float] | None = None

    @property
    def left(self) -> Leftover | None:
        """Position of the unlearned model between the floor, 0, and the base, 1 (see `share_left`)."""
        if self.floor is None or not {"base", "unlearned"} <= self.measurements.keys():
            return None
        known = self.known or self.measurements["base"].span
        return share_left(self.measurements["unlearned"].span, floor=self.floor[1], base=known)

    @property
    def says(self) -> str:
        """The verdict in words; empty where the probe only describes."""
        return verdict_words(self.json())

    def json(self) -> Json:
        """`{"name", "asks", "base", "unlearned", "chance", "retrained", …}` of the JSON contract."""
        numbers = {who: found.json() for who, found in self.measurements.items()}
        return {
            "name": self.name,
            "asks": self.asks,
            "base": numbers.get("base"),
            "unlearned": numbers.get("unlearned"),
            "chance": self.chance,
            "retrained": numbers.get("retrained"),
            "shuffled": numbers.get("shuffled"),
            "verdict": self.verdict,
            "undefined": self.undefined,
            "details": self.details,
            "good": self.good,
            "left": self.left
            and asdict(self.left) | {"floor": self.floor and self.floor[0], "at": self.floor and self.floor[1]},
        }


def change(before: Tensor, after: Tensor) -> tuple[float, float]:
    """95 % interval of accuracy after minus before, from which of the same images were right."""
    before, after = before.bool(), after.bool()
    return paired_difference(int((before & ~after).sum()), int((~before & after).sum()), len(before))


def alarms_first(probes: Iterable[Probe]) -> list[Probe]:
    """Probes by how much is left for sure, the low end of their interval, most first; the others after, as they came.

    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> def probe(name, right):
    ...     read = {who: Measurement.of(Accuracy(n, 100, "test")) for who, n in (("base", 90), ("unlearned", right))}
    ...     return Probe(name, "?", read, 0.1, floor=("chance", 0.1))
    >>> [found.name for found in alarms_first([Probe("control", "?"), probe("prompts", 40), probe("linear", 70)])]
    ['linear', 'prompts', 'control']
    """
    probes = list(probes)
    ranked = {probe.name: probe.left for probe in probes if probe.left is not None}
    return sorted(probes, key=lambda probe: -ranked[probe.name].low if probe.name in ranked else inf)


def verdict_words(probe: Json) -> str:
    """A probe's verdict in words, from its JSON: its position between floor and base, and what follows.

    >>> left = {"value": 0.706, "low": 0.64, "high": 0.77, "floor": "shuffled", "at": 0.44}
    >>> verdict_words({"verdict": "open", "left": left})
    '71 % (64 to 77) of the way from shuffled weights, 44.0 %, to the base; undecided without a retrained model'
    >>> verdict_words({"verdict": "none", "left": left | {"low": -0.1}})
    'at the level of shuffled weights, 44.0 %'
    """
    verdict, left = probe.get("verdict"), probe.get("left")
    if (probe.get("details") or {}).get("knows_the_base") is False:
        return "this attack does not know the base's own images from unseen ones: nothing follows from it"
    if left is None:
        return UNPLACED.get(verdict or "", "")
    floor = f"{FLOORS.get(left['floor'], left['floor'])}, {100 * left['at']:.1f} %"
    if verdict == NONE or left["low"] <= 0:
        where = f"at the level of {floor}"
        return where if verdict in (NONE, None) else f"{where}; {WORDS[verdict]}"
    span = f"{100 * left['value']:.0f} % ({100 * left['low']:.0f} to {100 * left['high']:.0f})"
    where = f"{span} of the way from {floor}, to the base"
    return f"{where}; {WORDS[verdict]}" if verdict else where


def judge(hits: Mapping[str, Tensor], chance: float | None = None) -> str:
    """Verdict of a probe by paired intervals: whether the unlearned model still knows the forget set.

    With a model retrained without the set, knowledge is left where the unlearned model shows more than that one.
    Without, it is left where the unlearned model falls short of the base by less than MARGIN for sure, and no more than
    the floor is shown where it does no better than shuffled weights do or, where these were not asked, than chance; in
    between it is undecided, because features that were never taught the set may serve it too.

    >>> from torch import arange
    >>> knows, guesses = arange(200) % 10 > 0, arange(200) % 10 == 0
    >>> judge({"base": knows, "unlearned": knows, "shuffled": guesses})
    'leftover'
    >>> judge({"base": knows, "unlearned": knows, "retrained": knows})
    'none'
    >>> judge({"base": knows, "unlearned": arange(200) % 2 == 0}, chance=0.1)
    'open'
    """
    base, unlearned = hits["base"], hits["unlearned"]
    if "retrained" in hits:
        return LEFTOVER if change(hits["retrained"], unlearned)[0] > 0 else NONE

    def beats_floor(found: Tensor) -> bool:
        if "shuffled" in hits:
            return change(hits["shuffled"], found)[0] > 0
        assert chance is not None
        return Measurement.share(found, "test").low > chance

    if not beats_floor(base):
        return OPEN  # the base shows nothing here either
    if change(base, unlearned)[0] > -MARGIN:
        return LEFTOVER
    return OPEN if beats_floor(unlearned) else NONE
