"""What a merge rule is: a paper's formula with its dials, described well enough to draw a menu from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.deltas import Deltas

Settings: TypeAlias = Mapping[str, Any]
"""A rule's parameters with every default filled in."""


@dataclass(frozen=True)
class Stream:
    """What a survey reads: called, it gives one more pass; the chunks of one tensor come in order.

    `elements` is their number in one pass, `wide` tells that a tensor is float64.
    """

    chunks: Callable[[], Iterator[Deltas]]
    elements: int
    candidates: int
    wide: bool = False

    def __call__(self) -> Iterator[Deltas]:
        """One more pass over every chunk."""
        return self.chunks()


@dataclass(frozen=True)
class Parameter:
    """One dial of a rule: what it is called, what it does, what values it takes.

    Raises ParameterError from `check` when a value is of the wrong kind or out of range; the message gives the range.

    Attributes:
        unrecorded: what a record means that was written before the dial existed; None: its default.
        tries: values that a comparison searches on validation, unless it is given one; empty: its default alone.

    >>> Parameter("density", "Density", "Share of elements kept.", 0.2, "float", low=0.0, high=1.0).check("0.5")
    0.5
    """

    name: str
    title: str
    explains: str
    default: float | int | str
    kind: Literal["float", "int", "choice"]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    low_open: bool = False
    unrecorded: str | None = None
    tries: tuple[float, ...] = ()

    def check(self, value: object) -> float | int | str:
        """The value in this parameter's kind, or ParameterError with the range."""
        if self.kind == "choice":
            if value not in self.choices:
                raise ParameterError(f"{self.name} is {value!r}: choose one of {', '.join(self.choices)}.")
            return str(value)
        number = self._number(value)
        below = self.low is not None and (number <= self.low if self.low_open else number < self.low)
        if below or (self.high is not None and number > self.high):
            raise ParameterError(f"{self.name} is {number:g}: give a number {self.range}.")
        return int(number) if self.kind == "int" else float(number)

    def _number(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ParameterError(f"{self.name} is {value!r}: give a number {self.range}.")
        try:
            number = float(value)
        except (ValueError, OverflowError):  # an integer may be too long for a float
            raise ParameterError(f"{self.name} is {value!r}: give a number {self.range}.") from None
        if not math.isfinite(number) or (self.kind == "int" and number != int(number)):
            raise ParameterError(f"{self.name} is {number:g}: give a {self._noun} {self.range}.")
        return number

    @property
    def _noun(self) -> str:
        return "whole number" if self.kind == "int" else "number"

    @property
    def range(self) -> str:
        """The range in words, for messages and help texts."""
        words = []
        if self.low is not None:
            words.append(f"above {self.low:g}" if self.low_open else f"of at least {self.low:g}")
        if self.high is not None:
            words.append(f"at most {self.high:g}")
        return " and ".join(words) if words else "that is finite"


@dataclass(frozen=True)
class Rule:
    """How the candidates' task vectors become one delta, with what a menu needs to present it.

    `combine(deltas, settings, survey)` maps one chunk to its merged delta and is pure: the same elements give the same
    bits whatever the chunk. `survey(stream, settings)` may read the model before it (whole-model thresholds);
    `measure(tensor, settings)` may read one tensor before it is merged; `quota` and `finish` serve the controls that
    keep as many elements of each tensor as another rule does. `caution` says what to know before its row is believed.
    """

    name: str
    title: str
    paper: str
    explains: str
    parameters: tuple[Parameter, ...]
    combine: Callable[[Deltas, Settings, Any], Tensor]
    survey: Callable[[Stream, Settings], Any] | None = None
    measure: Callable[[Stream, Settings], Any] | None = None
    quota: Callable[[Deltas, Settings], Tensor] | None = None
    finish: Callable[[Tensor, int, str, Settings], Tensor] | None = None
    control: bool = False
    caution: str = ""

    def resolve(self, params: Mapping[str, object]) -> dict[str, Any]:
        """Every parameter with its default filled in and its value checked.

        Raises ParameterError for a name that the rule does not have, or a value out of range.

        >>> from negmerge_kit.merging.rules import RULES
        >>> RULES["negmerge"].resolve({"agreement": 0.75})
        {'agreement': 0.75, 'average': 'mean', 'over': 'agreeing'}
        """
        return resolve(f"the rule {self.name}", self.parameters, params)

    def recorded(self, params: Mapping[str, object]) -> dict[str, Any]:
        """The parameters of a record: dials that were added since it was written are at what was done before them.

        >>> from negmerge_kit.merging.rules import RULES
        >>> RULES["ties"].recorded({"density": 0.2}), RULES["ties"].resolve({})["trim_over"]
        ({'density': 0.2, 'trim_over': 'all'}, 'moved')
        """
        before = {item.name: item.unrecorded for item in self.parameters if item.unrecorded is not None}
        return self.resolve(before | dict(params))


def resolve(owner: str, parameters: Sequence[Parameter], params: Mapping[str, object]) -> dict[str, Any]:
    """Every parameter with its default filled in and its value checked; `owner` names whose they are in messages.

    Raises ParameterError for a name that is not among them, or a value out of range.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in params:
        if name not in known:
            has = ", ".join(known) if known else "no parameters"
            raise ParameterError(f"{owner} has no parameter {name!r}: it has {has}.")
    return {name: parameter.check(params.get(name, parameter.default)) for name, parameter in known.items()}
