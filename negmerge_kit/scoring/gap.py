"""The gap to a model retrained without the images to forget, and the scale that makes it smallest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.scoring.early_stopping import Point, Scales, scale_grid
from negmerge_kit.scoring.scale_search import Ended, ScaleSearch

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


def nearest_scale(
    score: Callable[[float], Point], *, scales: Scales = None, on_point: Callable[[Point], None] | None = None
) -> ScaleSearch:
    """The scale whose model lies nearest to the retrained one; the smallest of equals. Every scale is scored in full.

    An oracle: it needs the retrained model, which makes unlearning needless. It shows how near a rule could come,
    and is what the published classifier tables report.

    Args:
        score: the point of a scale on validation, with its gap.
        scales: None for the paper's grid, and nothing beyond it: there is no floor to go on to.

    Raises:
        SplitError: for the test split; a scale is chosen on validation.
        ParameterError: for no scale, one that is no finite number of 0 or more, or a point without a gap.

    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> def score(scale):
    ...     return Point(scale, Accuracy(9, 10, "val"), Accuracy(9, 10, "val"), gap=abs(scale - 0.5))
    >>> nearest_scale(score).best.scale
    0.5
    """
    grid = scale_grid(scales)
    base, best, curve = score(0.0), None, []
    if base.forget is not None and base.forget.split == "test":
        raise SplitError("test images must not choose a scale: look for the smallest gap on validation.")
    for scale in grid:
        point = score(scale) if scale else base
        if point.gap is None:
            raise ParameterError("a scale was scored without its gap: measure it with the retrained model.")
        curve.append(point)
        if on_point:
            on_point(point)
        if best is None or best.gap is None or point.gap < best.gap:
            best = point
    ended: Ended | None = "grid" if best is curve[-1] else None
    return ScaleSearch(0.0, base, best, tuple(curve), "exhaustive", choose="gap", ended=ended)
