"""A classifier's table as a figure: what each row knows of the images to forget, what an attacker sees, how far off."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from negmerge_kit.errors import ParameterError
from negmerge_kit.lab.comparison.comparison import REFERENCE, Comparison
from negmerge_kit.lab.comparison.entrants import RETRAIN
from negmerge_kit.views.style import AGREE, FORGET, MUTED, RETAIN, style

PANELS = {
    "forget": ("forgotten images right", FORGET),
    "unseen": ("unseen images right", RETAIN),
    "mia": ("called non-members", MUTED),
    "gap": ("gap to retraining", AGREE),
}
"""Metrics that are drawn, with a panel's title and colour."""


def standings_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Every row on test in four panels: a point a pool, Wilson's 95 % interval where there is one pool.

    The retrained model's value is the line in each panel: nearest to it is best.

    Raises:
        ParameterError: if no row has metrics.
    """
    order = [row.entrant.name for row in comparisons[0].rows if row.standing][::-1] if comparisons else []
    if not order:
        raise ParameterError("no row has metrics to draw: compare on a standard classifier's pool.")
    titles = {row.entrant.name: row.entrant.title for row in comparisons[0].rows}
    with style():
        height = 1.3 + 0.22 * len(order)
        figure = Figure(figsize=(10.4, height))
        first: Axes | None = None
        for place, (metric, (title, colour)) in enumerate(PANELS.items()):
            axes = figure.add_axes((0.2 + 0.2 * place, 0.45 / height, 0.175, 1 - 0.85 / height), sharey=first)
            _panel(axes, comparisons, order, metric, colour)
            axes.set_title(title)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
            axes.tick_params(labelleft=first is None)
            first = first or axes
        assert first is not None
        first.set_yticks(range(len(order)), [titles[name] for name in order])
        for label, name in zip(first.get_yticklabels(), order, strict=True):
            label.set_fontweight("bold" if name in (REFERENCE, RETRAIN) else "normal")
    return figure


def _panel(axes: Axes, comparisons: Sequence[Comparison], order: Sequence[str], metric: str, colour: str) -> None:
    for place, name in enumerate(order):
        scores = [
            row.standing.scores[metric]
            for comparison in comparisons
            for row in comparison.rows
            if row.entrant.name == name and row.standing and row.standing.scores[metric]["value"] is not None
        ]
        if not scores:
            continue
        values = [score["value"] for score in scores]
        low, high = min(values), max(values)
        if len(scores) == 1 and scores[0]["low"] is not None:
            low, high = scores[0]["low"], scores[0]["high"]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=4.5 if name == REFERENCE else 3.5)
        if name == RETRAIN:
            axes.axvline(sum(values) / len(values), color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
