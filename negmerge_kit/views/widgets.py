"""Live controls for notebooks: ipywidgets over the same Workbench and the same figures as the app.

Sliders compute when they are let go, not while they are dragged; they work with the arrow keys.
With `interactive=False` each function returns the static figure, for a printed page.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import ipywidgets as widgets
from IPython.display import Image, display
from matplotlib.figure import Figure

from negmerge_kit.lab.recipe import Recipe
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.merging import chance, votes_needed
from negmerge_kit.scoring.scale import DEFAULT_SCALES, Point
from negmerge_kit.views.plots import agreement_by_layer, scale_curve

WIDE = widgets.Layout(width="28em")
LABELS = {"description_width": "9em"}
DPI = 96


def show(figure: Figure) -> None:
    """Display a figure in a notebook: a sharp picture on white, readable on light and dark themes."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=2 * DPI, facecolor="white")
    width = round(figure.get_figwidth() * DPI)
    display(Image(file.getvalue(), format="png", width=width, alt=figure_text(figure)))


def figure_text(figure: Figure) -> str:
    """What a figure says, for screen readers: its finding and its axis labels."""
    words = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        words += [axes.get_title(loc="left"), axes.get_title(), axes.get_xlabel()]
    return "; ".join(word for word in words if word)


def negation_explorer(bench: Workbench, *, keep: float = 0.95, interactive: bool = True) -> widgets.Widget | Figure:
    """One candidate negated alone: pick it, slide the scale, see forget and retain on the live subset.

    Returns a widget with the children `candidate` and `scale`, or its first figure.
    """
    scales = DEFAULT_SCALES[::2]
    curves: dict[str, list[Point]] = {}

    def figure(candidate: str, scale: float) -> Figure:
        choice = bench.choose([candidate])
        if candidate not in curves:
            curves[candidate] = [_live(bench, candidate, at) for at in scales]
        scores, base = bench.score(choice, scale, "live"), bench.base_scores("live")
        here = Point(scale, scores.forget, scores.retain)
        return scale_curve(curves[candidate], base=Point(0.0, base.forget, base.retain), keep=keep, best=here)

    names = {Recipe.from_json(entry.recipe).label: entry.id for entry in bench.pool.entries}
    if not interactive:
        return figure(bench.pool.ids[0], 0.5)
    controls = {
        "candidate": widgets.Dropdown(options=names, description="candidate", layout=WIDE, style=LABELS),
        "scale": widgets.FloatSlider(
            0.5, min=0.0, max=1.0, step=0.05, description="scale λ", continuous_update=False, layout=WIDE, style=LABELS
        ),
    }
    return _explorer(controls, figure)


def agreement_explorer(bench: Workbench, *, interactive: bool = True) -> widgets.Widget | Figure:
    """How many signs must agree: slide the votes, see what each layer keeps against chance.

    Returns a widget with the child `votes`, or its figure at unanimity.
    """
    layers, n = bench.agreement(), len(bench.pool.ids)

    def figure(votes: int) -> Figure:
        return agreement_by_layer(layers, votes=votes, chance=chance(n, votes / n))

    if not interactive:
        return figure(n)
    least = votes_needed(n, 0.5 + 1e-6)
    slider = widgets.IntSlider(
        n, min=least, max=n, description=f"votes of {n}", continuous_update=False, layout=WIDE, style=LABELS
    )
    return _explorer({"votes": slider}, figure)


def _live(bench: Workbench, candidate: str, scale: float) -> Point:
    scores = bench.score(bench.choose([candidate]), scale, "live")
    return Point(scale, scores.forget, scores.retain)


def _explorer(controls: dict[str, widgets.Widget], figure: Callable[..., Figure]) -> widgets.Widget:
    """Controls above one picture that is drawn anew when a control is let go; `.figure` is the last one drawn."""
    output = widgets.Output()
    box = widgets.VBox([*controls.values(), output])
    box.controls = controls

    def draw(_: object = None) -> None:
        box.figure = figure(**{name: control.value for name, control in controls.items()})
        output.clear_output(wait=True)
        with output:
            show(box.figure)

    for control in controls.values():
        control.observe(draw, names="value")
    draw()
    return box
