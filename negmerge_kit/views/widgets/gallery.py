"""Before and after: what the model says of real images, as the scale moves."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from negmerge_kit.lab.delta_cache import Choice
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.views.pictures import answered, before_after
from negmerge_kit.views.plots import LARGEST_SCALE
from negmerge_kit.views.widgets.explorer import Drawn, Explorer, slider


def before_after_explorer(
    bench: Workbench, choice: Choice | None = None, *, scale: float = 0.7, each: int = 6, interactive: bool = True
) -> Explorer | Figure:
    """Test images that the base gets right with the model's answers at `scale`, and counts; or its first figure.

    Args:
        choice: what is subtracted; by default NegMerge of all candidates.
        scale: where the control `scale` stands at first.
        each: images a side.
    """
    choice = choice or bench.choose()

    def figure(scale: float) -> Figure:
        return before_after(*answered(bench, choice, scale, each=each))

    if not interactive:
        return figure(scale)
    controls: dict[str, Any] = {"scale": slider("scale λ", scale, high=LARGEST_SCALE)}
    return Explorer(controls, lambda: Drawn(figure(controls["scale"].value)))
