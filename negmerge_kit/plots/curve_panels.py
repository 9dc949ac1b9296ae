"""Curves side by side on one scale axis: parts of a merge, or validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from negmerge_kit.plots.scale_curve import draw_series
from negmerge_kit.plots.style import INK, RETAIN, percent, percent_ticks, sheet, style
from negmerge_kit.scoring.scale_search import Point


@dataclass(frozen=True)
class Curve:
    """Scores over the scale, with the base they are compared with and, where there is one, the chosen point."""

    base: Point
    points: Sequence[Point]
    best: Point | None = None


def curve_panels(curves: Mapping[str, Curve], *, keep: float, finding: str) -> Figure:
    """Forget and retain accuracy against the scale, a panel a curve, on shared axes with floors and 95 % bands.

    Args:
        curves: by title, in order.
        keep: share of each panel's own base retention that sets its floor.
        finding: what they show together, for the title; the caller compares, so the caller says it.
    """
    with style():
        figure, panels = sheet(finding, (2.75 * len(curves) + 0.5, 3.1), len(curves), sharey=True)
        for axes, (title, curve) in zip(panels, curves.items(), strict=True):
            draw_series(axes, [curve.base, *curve.points])
            if curve.base.retain is not None:
                axes.axhline(
                    keep * curve.base.retain.value,
                    color=RETAIN,
                    linewidth=0.9,
                    linestyle=(0, (1, 1.6)),
                    gid="floor",
                    label=f"floor, {percent(keep, 0)}",
                )
            best = curve.best
            if best is not None and best.forget is not None and best.retain is not None:
                axes.plot(
                    [best.scale] * 2,
                    [best.forget.value, best.retain.value],
                    "D",
                    color=INK,
                    markersize=5,
                    gid="best",
                    zorder=5,
                )
            axes.set_title(title)
            axes.set(xlabel="scale λ", xlim=(0, None), ylim=(0, 1))
            axes.legend(loc="lower left", handlelength=1.6)
        panels[0].yaxis.set_major_formatter(percent_ticks())
        panels[0].set_ylabel("accuracy, 95 % bands")
    return figure
