"""The gap to a model retrained without the images to forget, and the scale that makes it smallest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.scoring.grid import DEFAULT_SCALES, check_scale

GAP_OVER = ("retain", "forget", "unseen", "mia")
"""The metrics whose distances to the retrained model's are averaged."""


def average_gap(values: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """Mean |x - retrained x| over accuracy on remaining, forgotten and unseen images, and the membership attack.

    The "Avg. Gap" of SalUn (arXiv:2310.12508) and NegMerge (arXiv:2410.05583), as a fraction.

    Raises:
        ParameterError: if one of GAP_OVER is missing on either side; measure both models alike.

    >>> salun = {"retain": 0.9962, "forget": 0.9715, "unseen": 0.9393, "mia": 0.1439}
    >>> round(average_gap(salun, {"retain": 1.0, "forget": 0.9476, "unseen": 0.9426, "mia": 0.1288}), 4)
    0.0115
    """
    if missing := [name for name in GAP_OVER if name not in values or name not in retrained]:
        raise ParameterError(f"a gap needs {', '.join(missing)} of both models: measure them alike.")
    return sum(abs(values[name] - retrained[name]) for name in GAP_OVER) / len(GAP_OVER)


@dataclass(frozen=True)
class GapPoint:
    """One scale: the four numbers, and their mean distance to the retrained model's."""

    scale: float
    gap: float
    values: Mapping[str, float] = field(compare=False)


@dataclass(frozen=True)
class GapSearch:
    """The scale nearest to the retrained model, and the whole curve."""

    best: GapPoint
    curve: tuple[GapPoint, ...] = field(repr=False)


def nearest_scale(
    measure: Callable[[float], Mapping[str, float]],
    retrained: Mapping[str, float],
    *,
    split: str,
    scales: Sequence[float] = DEFAULT_SCALES,
    on_point: Callable[[GapPoint], None] = lambda point: None,
) -> GapSearch:
    """The scale whose model lies nearest to the retrained one; the smallest of equals.

    An oracle: whoever has the retrained model needs no other. It tells how far a rule could come, and is what the
    published classifier tables report.

    Args:
        measure: the numbers of GAP_OVER at a scale, on `split`.
        retrained: the retrained model's, on the same split.

    Raises:
        SplitError: for the test split; a scale is chosen on validation.
        ParameterError: for no scale, or one that is no finite number of 0 or more.

    >>> reference = dict.fromkeys(GAP_OVER, 0.5)
    >>> nearest_scale(lambda scale: dict.fromkeys(GAP_OVER, scale), reference, split="val").best.scale
    0.5
    """
    if split == "test":
        raise SplitError("test images must not choose a scale: look for the smallest gap on validation.")
    grid = sorted({check_scale(scale) for scale in scales})
    if not grid:
        raise ParameterError("no scale to try: give at least one, such as 0:1:0.05.")
    curve = []
    for scale in grid:
        values = measure(scale)
        curve.append(GapPoint(scale, average_gap(values, retrained), dict(values)))
        on_point(curve[-1])
    return GapSearch(min(curve, key=lambda point: (point.gap, point.scale)), tuple(curve))
