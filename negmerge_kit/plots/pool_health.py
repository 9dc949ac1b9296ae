"""Health of a pool: each candidate's length against its direction, odd ones named."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator

from negmerge_kit.merging.health import AWAY, LONG, Health
from negmerge_kit.plots.style import AGREE, INK, MUTED, headline, style

TICKS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def pool_health(names: Sequence[str], rows: Sequence[Health]) -> Figure:
    """Norm of each delta over the median, and its cosine with the mean of the others; odd candidates are numbered.

    Dashed lines are the bounds beyond which a candidate is called odd. One that cannot be compared, because it did not
    move or holds NaN, is in the list beneath only.

    Args:
        names: a label for each candidate.
        rows: their health, in the same order (see `negmerge_kit.merging.health`).
    """
    odd = [(name, row) for name, row in zip(names, rows, strict=True) if row.is_odd]
    numbers = {id(row): number for number, (_, row) in enumerate(odd, 1)}
    notes = [f"{number}  {row.reasons(name)}" for number, (name, row) in enumerate(odd, 1)]
    beneath = [line for note in notes for line in wrap(note, 92, subsequent_indent="    ")]
    with style():
        figure = Figure(
            figsize=(7.0, 3.4 + 0.17 * len(beneath)), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
        )
        headline(figure, health_finding(rows))
        axes = figure.add_subplot()
        points = [(x, y, row) for row in rows if (x := row.times_median) is not None and (y := row.cosine) is not None]
        for kind, marker, colour in ((False, "o", AGREE), (True, "D", INK)):
            chosen = [(x, y) for x, y, row in points if row.is_odd == kind]
            axes.plot(
                [x for x, _ in chosen],
                [y for _, y in chosen],
                marker,
                color=colour,
                markersize=6,
                gid="odd" if kind else "candidates",
            )
        for x, y, row in points:
            if row.is_odd:
                axes.annotate(f"{numbers[id(row)]}", (x, y), (7, -3), textcoords="offset points")
        bound: dict[str, Any] = {"color": MUTED, "linewidth": 1.0, "linestyle": (0, (4, 2.5))}
        axes.axvline(LONG, gid="long", **bound)
        axes.axhline(AWAY, gid="away", **bound)
        axes.set_xscale("log")
        span = [x for x, _, _ in points] or [1.0]
        axes.set_xlim(min(0.3, *span, 1.0) / 1.25, max(4.0, *span, 1.0) * 1.25)
        axes.set_ylim(min(-0.05, *(y - 0.1 for _, y, _ in points), 0.0), 1.02)
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylabel("cosine with the mean of the others")
        axes.set_xlabel("\n".join(["norm of the delta, over the median", *beneath]), loc="left", linespacing=1.4)
    return figure


def health_finding(rows: Sequence[Health]) -> str:
    """Sentence on what the figure shows.

    >>> health_finding([Health(1.0, 0.5, 0.7), Health(3.0, 1.5, 0.6)])
    'None of 2 candidates is odd: 0.5 to 1.5 times the median norm, cosine 0.60 to 0.70'
    """
    odd = sum(row.is_odd for row in rows)
    if odd:
        return f"{odd} of {len(rows)} candidates {'is' if odd == 1 else 'are'} odd"
    times = [row.times_median for row in rows if row.times_median is not None]
    cosines = [row.cosine for row in rows if row.cosine is not None]
    if not times:
        return "One candidate: nothing to compare"
    return (
        f"None of {len(rows)} candidates is odd: {min(times):.1f} to {max(times):.1f} times the median norm, cosine "
        f"{min(cosines):.2f} to {max(cosines):.2f}"
    )
