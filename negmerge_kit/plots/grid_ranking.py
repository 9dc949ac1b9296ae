"""The grid of scales as a decision: its step and its cap choose the scale, and with it the ranking."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from negmerge_kit.plots.style import FORGET, percent_ticks, sheet, style
from negmerge_kit.scoring.scale_search import Point

MARKS = ("D", "s", "^", "o", "v", "P")


def grid_ranking(chosen: Mapping[str, Mapping[str, Point | None]], *, finding: str) -> Figure:
    """Forget accuracy at the scale that each grid chooses, for each rule, with 95 % intervals.

    Args:
        chosen: by grid, then by rule: the chosen point on one split; None where no scale of that grid is feasible.
        finding: what the figure shows, for its title.
    """
    rules = list(dict.fromkeys(rule for by_rule in chosen.values() for rule in by_rule))
    with style():
        figure, (axes,) = sheet(finding, (1.25 * len(chosen) + 1.9, 3.2))
        n = split = None
        for place, (rule, mark) in enumerate(zip(rules, MARKS, strict=False)):
            shift = 0.17 * (place - (len(rules) - 1) / 2)
            spots = [
                (column + shift, point.forget, point.scale)
                for column, by_rule in enumerate(chosen.values())
                if (point := by_rule.get(rule)) and point.forget
            ]
            if not spots:
                continue
            n, split = spots[0][1].n, spots[0][1].split
            values = [score.value for _, score, _ in spots]
            low = [score.value - score.interval[0] for _, score, _ in spots]
            high = [score.interval[1] - score.value for _, score, _ in spots]
            axes.errorbar(
                [x for x, _, _ in spots],
                values,
                yerr=(low, high),
                fmt=mark,
                color=FORGET,
                markersize=5.5,
                markerfacecolor="white" if place % 2 else FORGET,
                elinewidth=0.9,
                label=rule,
                gid=rule,
            )
            for x, score, scale in spots:
                axes.annotate(
                    f"{scale:g}",
                    (x, score.interval[0]),
                    (0, -3),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    fontsize=7,
                )
        axes.set_xticks(range(len(chosen)), list(chosen))
        axes.set(xlim=(-0.6, len(chosen) - 0.4), xlabel="grid of scales; small numbers: the scale it chose")
        axes.set_ylabel(f"forget accuracy ({split}, n = {n})" if n else "forget accuracy")
        axes.yaxis.set_major_formatter(percent_ticks())
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(rules))
    return figure
