"""Why signs: agreement over what cosines predict, zeros as candidates join, steps along parts, and diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from negmerge_kit.analysis.step_along import Direction
from negmerge_kit.analysis.why_signs import Why
from negmerge_kit.plots.style import AGREE, FORGET, INK, MUTED, RETAIN, RULE, headline, percent, percent_ticks, style

MARKERS = {"consensus": "o", "conflict": "s", "mean": "D", "random mask": "x"}
"""One marker for each part, filled or not, so that nothing hangs on colour alone."""


def why_figure(why: Why) -> Figure:
    """Findings of `why_signs` on one page: three panels, four where steps were taken.

    Intervals are drawn where there are any: paired ones at 95 % for steps. Ranges over subsets and halves are no
    intervals, because the subsets share candidates.
    """
    with style():
        figure = Figure(figsize=(9.2, 6.4), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        headline(figure, why_finding(why))
        grid = figure.add_gridspec(2, 6)
        _by_group(figure.add_subplot(grid[0, :]), why)
        _zeros(figure.add_subplot(grid[1, :2]), why)
        if why.directions and any(direction.steps for direction in why.directions):
            _steps(figure.add_subplot(grid[1, 2:4]), why.directions)
        _diversity(figure.add_subplot(grid[1, 4:]), why)
    return figure


def why_finding(why: Why) -> str:
    """Sentence on what the figure shows."""
    whole = why.whole
    return (
        f"All {len(why.candidates)} signs agree on {percent(whole.share)} of {whole.moved:,} moved elements; "
        f"cosines alone predict {percent(whole.expected.value)}, coins {percent(why.chance)}"
    )


def _by_group(axes: Axes, why: Why) -> None:
    rows = [*why.blocks, *why.kinds]
    names = [row.name.replace("outside the blocks", "outside").replace(" ", "\n", 1) for row in rows]
    axes.bar(range(len(rows)), [row.share for row in rows], color=AGREE, width=0.7, gid="agreement", label="measured")
    if any(row.decayed for row in rows):
        alone = [(row.decayed or 0) / row.moved for row in rows]
        axes.bar(range(len(rows)), alone, color=RULE, width=0.7, gid="decay", label="by decay alone")
    axes.plot(
        range(len(rows)),
        [row.expected.value for row in rows],
        "D",
        color=INK,
        markersize=4.5,
        gid="expected",
        label="from cosines",
    )
    axes.axhline(why.chance, **_coins(f"independent signs {percent(why.chance)}"))
    axes.axvline(len(why.blocks) - 0.5, color=MUTED, linewidth=0.8)
    axes.set_xticks(range(len(rows)), names)
    axes.set(title="Agreement by block and kind", ylabel="share of moved elements", ylim=(0, None))
    axes.yaxis.set_major_formatter(percent_ticks())
    axes.legend(loc="upper right", ncols=4, columnspacing=1.2, bbox_to_anchor=(1, 1.14), borderaxespad=0)


def _zeros(axes: Axes, why: Why) -> None:
    sizes = [size.n for size in why.zero_ratio]
    axes.fill_between(
        sizes,
        [size.least for size in why.zero_ratio],
        [size.most for size in why.zero_ratio],
        color=AGREE,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(
        sizes, [size.mean for size in why.zero_ratio], "o-", color=AGREE, markersize=4, gid="zeros", label="mean, range"
    )
    axes.plot(
        sizes,
        [size.expected for size in why.zero_ratio],
        "D",
        color=INK,
        markersize=4,
        gid="expected",
        label="from cosines",
    )
    axes.plot(sizes, [size.chance for size in why.zero_ratio], **_coins("independent"))
    axes.set(title="Zeros as candidates join", xlabel="candidates", ylabel="share of moved elements", ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(percent_ticks())
    axes.legend(loc="lower right", fontsize=7.5)


def _steps(axes: Axes, directions: Sequence[Direction]) -> None:
    shown = [direction for direction in directions if direction.steps]
    for side, colour in (("forget", FORGET), ("retain", RETAIN)):
        for direction in shown:
            changes = [getattr(step, side) for step in direction.steps]
            values = [change.value for change in changes]
            spread = ([c.value - c.low for c in changes], [c.high - c.value for c in changes])
            axes.errorbar(
                [step.distance for step in direction.steps],
                values,
                yerr=spread,
                color=colour,
                marker=MARKERS[direction.part],
                markersize=4.5,
                markerfacecolor="white",
                linewidth=1.1,
                elinewidth=0.8,
                gid=f"{side}-{direction.part}",
                label=direction.part if side == "forget" else None,
            )
    first = shown[0].steps[0]
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_title("Steps of equal length")
    axes.set_xlabel(
        f"distance in weight space; {first.forget.split}, 95 % intervals\norange: forget, n = {first.forget.n:,}; "
        f"blue: retain, n = {first.retain.n:,}"
    )
    axes.set_ylabel("change of accuracy, points")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f}" if value else "0")
    axes.legend(loc="lower left", fontsize=7.5)


def _diversity(axes: Axes, why: Why) -> None:
    rows: list[tuple[str, float, float, str]] = []
    if why.halves:
        overlaps = [half.overlap for half in why.halves]
        rows.append(
            (
                "two halves'\nconsensus",
                sum(overlaps) / len(overlaps),
                sum(half.chance for half in why.halves) / len(why.halves),
                f"shared, {len(overlaps)} halvings",
            )
        )
    rows += [
        (name.replace("_", "\n"), found.share, found.chance, f"p = {found.p:.3f}")
        for name, found in why.fields.items()
        if found
    ]
    axes.set_title("Stability and diversity")
    if not rows:
        axes.set_axis_off()
        axes.text(0, 0.9, "One candidate: nothing to compare", transform=axes.transAxes, color=MUTED, va="top")
        return
    for place, (_, value, lot, note) in enumerate(rows):
        axes.barh(place, value, color=AGREE, height=0.6, gid="share")
        axes.plot([lot, lot], [place - 0.36, place + 0.36], color=INK, linewidth=1.4, gid="lot")
        axes.annotate(note, (max(value, lot), place), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel="share; dark tick: at random")
    axes.xaxis.set_major_formatter(percent_ticks())
    axes.grid(False)
    axes.grid(True, axis="x")


def _coins(label: str) -> dict[str, Any]:
    return {"color": INK, "linewidth": 1.2, "linestyle": (0, (4, 2.5)), "gid": "chance", "label": label}
