"""Paired bootstrap over images of what rules forget, in which every replicate chooses its scale again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring.scale_search import KEEP
from negmerge_kit.types import Json

Flags: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]

REPLICATES = 2000
NUMBERS = ("protocol forget", "protocol retain", "matched forget", "matched retain")
"""What is resampled: accuracy on test, at the protocol's scale and where validation first crosses the floor."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Which images one merged delta gets right at each scale; scale 0, the base, comes first.

    Args:
        forget, retain: validation, bool [scales, images].
        test_forget, test_retain: test, bool [scales, images].
        capped: how many of the scales, from the first, the protocol may choose among; None for all.

    Raises:
        ParameterError: if the arrays do not fit each other; score every split at the same scales.
    """

    forget: Flags
    retain: Flags
    test_forget: Flags
    test_retain: Flags
    capped: int | None = None

    def __post_init__(self) -> None:
        shapes = [array.shape for array in self.sides]
        if len({shape[0] for shape in shapes}) != 1 or any(len(s) != 2 or s[0] < 2 or not s[1] for s in shapes):
            raise ParameterError(f"curves of shapes {shapes} do not fit: give [scales, images], scale 0 and others.")

    @property
    def sides(self) -> tuple[Flags, Flags, Flags, Flags]:
        """Validation forget and retain, then test forget and retain."""
        return self.forget, self.retain, self.test_forget, self.test_retain


@dataclass(frozen=True)
class Effect:
    """A number on the images as they are, and the percentile interval over the replicates."""

    value: float
    low: float
    high: float

    def json(self) -> Json:
        """`{"value", "low", "high"}`."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Resampled:
    """One rule's numbers, and its differences to the reference on the same draws: by the names in `NUMBERS`.

    `infeasible` is the share of replicates in which no scale above 0 kept enough (the base then stands for the
    rule), `uncrossed` the share in which retention never fell below the floor (the last scale then does).
    """

    numbers: dict[str, Effect]
    differences: dict[str, Effect]
    infeasible: float
    uncrossed: float

    def json(self) -> Json:
        """Plain values."""
        return {
            "numbers": {name: effect.json() for name, effect in self.numbers.items()},
            "differences": {name: effect.json() for name, effect in self.differences.items()},
            "infeasible": self.infeasible,
            "uncrossed": self.uncrossed,
        }


def bootstrap(
    rules: Mapping[str, Sequence[Curve]],
    *,
    reference: str,
    keep: float = KEEP,
    replicates: int = REPLICATES,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Resampled]:
    """Resample the images of validation and of test, choose every scale again, and look at test.

    All rules see the same draws, so their differences are paired (Efron and Tibshirani 1993,
    https://doi.org/10.1201/9780429246593, chapters 8 and 13: percentile intervals). A replicate sets its floor at
    keep times its own base retention. It takes the scale that forgets most above it (`select_scale`), and beside it
    the place where retention first falls below it, interpolated between the two scales around. Drawing images is
    weighting them, so the counts of all replicates are one matrix product a split.

    Args:
        rules: each rule's curve; several curves are candidates among which validation chooses, by the protocol.
        reference: the rule that is subtracted.
        keep: share of the base's retention to keep, in (0, 1].

    Raises:
        ParameterError: for an unknown reference, or curves on other images than the first rule's.

    >>> right = np.array([[1, 1, 1, 1], [0, 1, 1, 0]], dtype=bool)
    >>> curve = Curve(right, np.ones((2, 9), bool), right, np.ones((2, 9), bool))
    >>> bootstrap({"a": [curve], "b": [curve]}, reference="a", replicates=50)["b"].differences["protocol forget"]
    Effect(value=0.0, low=0.0, high=0.0)
    """
    if reference not in rules:
        raise ParameterError(f"reference {reference!r} is not compared: choose among {', '.join(rules)}.")
    if not 0.0 < keep <= 1.0 or replicates < 1 or not 0.0 < confidence < 1.0:
        raise ParameterError("keep is in (0, 1], replicates at least 1, confidence between 0 and 1.")
    images = [side.shape[1] for side in next(iter(rules.values()))[0].sides]
    for name, curves in rules.items():
        if any([side.shape[1] for side in curve.sides] != images for curve in curves):
            raise ParameterError(f"{name} was scored on other images than the rest: score all rules on the same.")
    rng = np.random.default_rng(seed)
    weights = [draw(rng, n, replicates) for n in images]
    found = {name: _replay(curves, weights, keep) for name, curves in rules.items()}
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {
        name: Resampled(
            _effects(numbers, tails),
            _effects(numbers - found[reference][0], tails),
            float(infeasible[1:].mean()),
            float(uncrossed[1:].mean()),
        )
        for name, (numbers, infeasible, uncrossed) in found.items()
    }


def draw(rng: np.random.Generator, images: int, replicates: int) -> NDArray[np.float32]:
    """How often each image is drawn, float32 [1 + replicates, images]; the first row is the images as they are."""
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=replicates)
    return np.concatenate([np.ones((1, images)), drawn]).astype(np.float32)


def choose_scale(forget: Floats, retain: Floats, floor: Floats) -> tuple[Any, Flags]:
    """Per row: the first scale with the smallest forget count at or above the floor, and whether none above 0 was.

    >>> counts = np.array([[9.0, 5.0, 1.0]]), np.array([[9.0, 8.0, 5.0]])
    >>> choose_scale(*counts, np.array([7.0]))[0]
    array([1])
    """
    feasible = retain >= floor[:, None]
    none: Flags = np.logical_not(feasible[:, 1:].any(axis=1))
    return np.where(feasible, forget, np.inf).argmin(axis=1), none


def first_below(retain: Floats, floor: Floats) -> tuple[Floats, Flags]:
    """Per row: the place on the grid (1.25 is a quarter from the second to the third scale) where retention first
    falls below the floor, and whether it never does; then the place is the last scale.

    >>> first_below(np.array([[10.0, 8.0, 4.0]]), np.array([7.0]))[0]
    array([1.25])
    """
    below = retain < floor[:, None]
    uncrossed: Flags = np.logical_not(below.any(axis=1))
    after = np.where(uncrossed, retain.shape[1] - 1, np.maximum(below.argmax(axis=1), 1))
    rows = np.arange(len(retain))
    above, under = retain[rows, after - 1], retain[rows, after]
    fall = np.where(uncrossed, 1.0, above - under)
    part = np.where(uncrossed, 1.0, np.clip((above - floor) / np.where(fall > 0, fall, 1.0), 0.0, 1.0))
    return after - 1 + part, uncrossed


def _replay(curves: Sequence[Curve], weights: Sequence[Any], keep: float) -> tuple[Floats, Flags, Flags]:
    """The four numbers of every replicate, [1 + replicates, 4], and which were infeasible or uncrossed."""
    numbers: Floats | None = None
    best, infeasible, uncrossed = np.empty(0), np.empty(0, bool), np.empty(0, bool)
    rows = np.arange(len(weights[0]))
    for curve in curves:
        forget, retain, test_forget, test_retain = (
            (weight @ side.T.astype(np.float32)).astype(np.float64)
            for weight, side in zip(weights, curve.sides, strict=True)
        )
        # Counts are whole numbers: a hair is taken off, so that equality with the floor passes.
        floor = keep * retain[:, 0] - 1e-6
        chosen, none = choose_scale(forget[:, : curve.capped], retain[:, : curve.capped], floor)
        place, never = first_below(retain, floor)
        shares = test_forget / curve.test_forget.shape[1], test_retain / curve.test_retain.shape[1]
        mine = np.stack([shares[0][rows, chosen], shares[1][rows, chosen], *(_at(side, place) for side in shares)], 1)
        reached = forget[rows, chosen]
        if numbers is None:
            numbers, best, infeasible, uncrossed = mine, reached, none, never
            continue
        # Ties keep the earlier candidate; one that is infeasible loses to any that is not.
        better = (reached < best) & ~none | (infeasible & ~none)
        numbers = np.where(better[:, None], mine, numbers)
        best, uncrossed = np.where(better, reached, best), np.where(better, never, uncrossed)
        infeasible = infeasible & none
    if numbers is None:
        raise ParameterError("a rule without a curve cannot be resampled: give at least one.")
    return numbers, infeasible, uncrossed


def _at(values: Floats, place: Floats) -> Floats:
    """Values [rows, scales] at a place between two scales of each row."""
    before = np.minimum(place.astype(np.int64), values.shape[1] - 2)
    rows, part = np.arange(len(values)), place - before
    result: Floats = (1 - part) * values[rows, before] + part * values[rows, before + 1]
    return result


def _effects(numbers: Floats, tails: Sequence[float]) -> dict[str, Effect]:
    low, high = np.quantile(numbers[1:], tails, axis=0)
    return {
        name: Effect(float(numbers[0, column]), float(low[column]), float(high[column]))
        for column, name in enumerate(NUMBERS)
    }
