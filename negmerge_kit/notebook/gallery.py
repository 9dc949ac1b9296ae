"""Before and after: the model's answers on real images, as the scale moves."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from negmerge_kit.notebook.explorer import Drawn, Explorer, slider
from negmerge_kit.plots.before_after import answered, before_after
from negmerge_kit.plots.scale_curve import LARGEST_SCALE
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench


def before_after_explorer(
    bench: Workbench, choice: Choice | None = None, *, scale: float = 0.7, each: int = 6, interactive: bool = True
) -> Explorer | Figure:
    """Test images that the base gets right with the model's answers at `scale`, and counts; or its first figure.

    Args:
        choice: what is subtracted; by default NegMerge of all candidates.
        scale: first value of the control `scale`.
        each: images a side.
    """
    choice = choice or bench.choose()

    def figure(scale: float) -> Figure:
        return before_after(*answered(bench, choice, scale, each=each))

    if not interactive:
        return figure(scale)
    controls: dict[str, Any] = {"scale": slider("scale λ", scale, high=LARGEST_SCALE)}
    return Explorer(controls, lambda: Drawn(figure(controls["scale"].value)))
