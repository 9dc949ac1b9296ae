"""A classifier's table as a figure: what each row knows of the images to forget, what an attacker sees, how far off."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from negmerge_kit.comparison.compare import REFERENCE, Comparison
from negmerge_kit.comparison.methods import RETRAIN, RETRAIN_AGAIN
from negmerge_kit.errors import ParameterError
from negmerge_kit.plots.style import AGREE, FORGET, MUTED, RETAIN, placed, sheet, style
from negmerge_kit.types import Json

PANELS = {
    "forget": ("forgotten images right", FORGET),
    "unseen": ("unseen images right", RETAIN),
    "mia": ("called non-members", MUTED),
    "gap": ("gap to retraining", AGREE),
}
"""Metrics that are drawn, with a panel's title and colour."""


def standings_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Every row on test in four panels: a point a pool, Wilson's 95 % interval where there is one pool.

    The retrained model's value is the line in each panel: nearest to it is best. In the gap's panel another line is the
    noise floor, the gap of another retrained model.

    Raises:
        ParameterError: if no row has metrics.
    """
    order = [row.method.name for row in comparisons[0].rows if row.metrics][::-1] if comparisons else []
    if not order:
        raise ParameterError("no row has metrics to draw: compare on a standard classifier's pool.")
    titles = {row.method.name: row.method.title for row in comparisons[0].rows}
    with style():
        figure, panels = sheet(
            standings_finding(comparisons), (10.4, 1.7 + 0.22 * len(order)), len(PANELS), sharey=True
        )
        for axes, (metric, (title, colour)) in zip(panels, PANELS.items(), strict=True):
            _panel(axes, comparisons, order, metric, colour)
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}")
            axes.margins(x=0.08)
        panels[0].set_yticks(range(len(order)), [titles[name] for name in order])
        for label, name in zip(panels[0].get_yticklabels(), order, strict=True):
            label.set_fontweight("bold" if name in (REFERENCE, RETRAIN) else "normal")
    return figure


def standings_finding(comparisons: Sequence[Comparison]) -> str:
    """Sentence on how near NegMerge comes to the retrained model, as plain about a loss as about a win."""
    gaps: dict[str, float] = {}
    for name in (row.method.name for row in comparisons[0].rows if row.method.name not in (RETRAIN, RETRAIN_AGAIN)):
        values = [score["value"] for score in _scores(comparisons, name, "gap")]
        if values:
            gaps[name] = median(values)
    ours = gaps.pop(REFERENCE, None)
    if ours is None or not gaps:
        return "Nearest to the retrained model is best"
    several = len(comparisons) > 1
    pools = f", median of {len(comparisons)} pools" if several else ""
    nearest = min(gaps, key=lambda name: gaps[name])
    title = next(row.method.title for row in comparisons[0].rows if row.method.name == nearest)
    rank = placed(ours, [ours, *gaps.values()])
    noise = [one.noise_floor for one in comparisons if one.noise_floor is not None]
    apart = f"; two retrained models are {100 * median(noise):.2f} apart" if noise else ""
    one = "" if several else " (one pool, no interval)"
    return (
        f"NegMerge is {100 * ours:.2f} points from the retrained model{pools}, {rank}; "
        f"of the rest {title} is nearest, {100 * gaps[nearest]:.2f}{apart}{one}"
    )


def _scores(comparisons: Sequence[Comparison], name: str, metric: str) -> list[Json]:
    """The row's score objects that hold a value, one a pool at most."""
    rows = [row for comparison in comparisons for row in comparison.rows if row.method.name == name and row.metrics]
    scores = [row.metrics.scores[metric] for row in rows if row.metrics and metric in row.metrics.scores]
    return [score for score in scores if score["value"] is not None]


def _panel(axes: Axes, comparisons: Sequence[Comparison], order: Sequence[str], metric: str, colour: str) -> None:
    asked: set[int] = set()
    for place, name in enumerate(order):
        scores = _scores(comparisons, name, metric)
        if not scores:
            continue
        values = [score["value"] for score in scores]
        asked |= {score["n"] for score in scores if score["low"] is not None}
        low, high = min(values), max(values)
        if len(scores) == 1 and scores[0]["low"] is not None:
            low, high = scores[0]["low"], scores[0]["high"]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
        axes.plot(
            values,
            [place] * len(values),
            "o",
            color=colour,
            markersize=4.5 if name == REFERENCE else 3.5,
            gid=f"{metric}-{name}",
        )
        if name == RETRAIN or (name == RETRAIN_AGAIN and metric == "gap"):  # the reference, and the noise floor
            axes.axvline(
                sum(values) / len(values),
                color=MUTED,
                linewidth=0.8,
                linestyle=(0, (4, 2)),
                zorder=0,
                gid=f"{metric}-line" if name == RETRAIN else "noise-floor",
            )
    spread = f"range of {len(comparisons)} pools" if len(comparisons) > 1 else "95 % intervals"
    n = " or ".join(f"{count:,}" for count in sorted(asked))
    axes.set_xlabel(f"%, test (n = {n})\n{spread}" if asked else "points, test\nlower is better")
