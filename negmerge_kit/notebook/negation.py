"""One candidate negated alone: pick it, slide the scale."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from negmerge_kit.notebook.explorer import LABELS, Drawn, Explorer, slider
from negmerge_kit.notebook.measured import live_curve, live_point
from negmerge_kit.notebook.picker import candidate_line
from negmerge_kit.plots.scale_curve import LARGEST_SCALE, scale_curve
from negmerge_kit.scoring.scale_search import KEEP
from negmerge_kit.unlearning.workbench import Workbench


def negation_explorer(bench: Workbench, *, keep: float = KEEP, interactive: bool = True) -> Explorer | Figure:
    """One candidate negated alone on the live subset: controls `candidate` and `scale`; or its first figure."""

    def figure(candidate: str, scale: float) -> Figure:
        choice = bench.choose([candidate])
        here, base = live_point(bench, choice, scale), live_point(bench, None, 0.0)
        return scale_curve(live_curve(bench, choice), base=base, keep=keep, here=here)

    if not interactive:
        return figure(bench.pool.ids[0], 0.5)
    controls: dict[str, Any] = {
        "candidate": widgets.Dropdown(
            options=[(candidate_line(entry), entry.id) for entry in bench.pool.entries],
            description="candidate",
            style=LABELS,
            layout=widgets.Layout(width="34em"),
        ),
        "scale": slider("scale λ", 0.5, high=LARGEST_SCALE),
    }
    return Explorer(controls, lambda: Drawn(figure(controls["candidate"].value, controls["scale"].value)))
