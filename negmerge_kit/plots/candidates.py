"""Spread of the candidates when each is negated alone: the paper's sensitivity figure."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from negmerge_kit.plots.style import FORGET, MUTED, RETAIN, percent, percent_ticks, style
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.unlearning.evaluation import Scores


def candidate_spread(
    alone: Mapping[str, Scores], *, base: Scores, merged: Mapping[str, Scores] | None = None
) -> Figure:
    """Forget and retain accuracy of every candidate negated alone, and of merges below them, with 95 % intervals.

    This is figure 1 of arXiv:2410.05583 for one pool: the same base and data, other hyperparameters.

    Args:
        alone: a label for each candidate and its scores, all on one split.
        base: the base's scores on that split, drawn as lines.
        merged: merges to show below them, by label.
    """
    merged = merged or {}
    rows = [*alone.items(), *merged.items()]
    with style():
        figure = Figure(figsize=(7.2, 1.3 + 0.3 * len(rows)))
        height = figure.get_figheight()
        axes = figure.add_axes((0.3, 0.55 / height, 0.67, 1 - 1.15 / height))
        for score, colour, name in ((base.retain, RETAIN, "retain"), (base.forget, FORGET, "forget")):
            axes.axvline(score.value, color=colour, linewidth=1, linestyle=(0, (1, 1.6)), gid=f"base-{name}")
        for name, colour, marker in (("forget", FORGET, "o"), ("retain", RETAIN, "s")):
            points: list[Accuracy] = [getattr(scores, name) for _, scores in rows]
            values = [point.value for point in points]
            low = [point.value - point.interval[0] for point in points]
            high = [point.interval[1] - point.value for point in points]
            axes.errorbar(
                values,
                range(len(rows)),
                xerr=(low, high),
                fmt=marker,
                color=colour,
                markersize=6,
                elinewidth=1.1,
                label=f"{name} (n = {points[0].n:,})",
                gid=name,
            )
        if merged:
            axes.axhline(len(alone) - 0.5, color=MUTED, linewidth=0.8)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
        axes.set_xlabel(f"accuracy ({base.forget.split}, 95 % intervals); dotted: the base")
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.xaxis.set_major_formatter(percent_ticks())
        axes.grid(False)
        axes.grid(True, axis="x")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
        figure.text(0.012, 1 - 0.28 / height, spread_finding(alone), fontweight="bold", fontsize=9.5)
    return figure


def spread_finding(alone: Mapping[str, Scores]) -> str:
    """Sentence on what the figure shows.

    >>> from negmerge_kit.scoring import Accuracy
    >>> def scores(forget): return Scores(Accuracy(forget, 100, "test"), Accuracy(90, 100, "test"), {})
    >>> spread_finding({"a": scores(60), "b": scores(40)}).replace(chr(160), " ")
    'Alone, the luckiest candidate leaves 40.0 %, the unluckiest 60.0 %'
    """
    forgets = [scores.forget.value for scores in alone.values()]
    if len(forgets) < 2:
        return "One candidate: nothing to compare yet"
    return f"Alone, the luckiest candidate leaves {percent(min(forgets))}, the unluckiest {percent(max(forgets))}"
