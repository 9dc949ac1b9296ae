"""Rules against each other: what each forgets at equal retention, and the frontier that its scale draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from negmerge_kit.comparison.compare import REFERENCE, Comparison
from negmerge_kit.comparison.row import Row
from negmerge_kit.errors import ParameterError
from negmerge_kit.plots.scale_curve import gaps
from negmerge_kit.plots.style import AGREE, FORGET, INK, MUTED, RETAIN, percent, placed, style
from negmerge_kit.scoring.paired_bootstrap import Resampled
from negmerge_kit.scoring.scale_search import Point

NAMED = {"negmerge": (AGREE, "solid"), "uniform": (INK, (0, (5, 2))), "random-mask": (MUTED, (0, (1, 1.5)))}
"""Rules whose frontier is drawn in front, with colour and dashes; the rest are thin and grey."""


def rule_frontier(comparisons: Sequence[Comparison], resampled: Mapping[str, Resampled] | None = None) -> Figure:
    """Forget and retain accuracy of every rule on test, and its frontier on the live subset of validation.

    Filled marks: at the scale where validation retention first meets its floor. Hollow marks: the paper's protocol.
    One pool shows Wilson's 95 % intervals; several show a point a pool and their range, because pools are what varies.

    Args:
        comparisons: of one or more pools, at one floor.
        resampled: of a single pool, what `resample` found, for the title.

    Raises:
        ParameterError: if nothing is compared.
    """
    if not comparisons or not comparisons[0].rows:
        raise ParameterError("there is no row to draw: compare at least one rule.")
    first = comparisons[0]
    order = sorted(
        dict.fromkeys(row.method.name for comparison in comparisons for row in comparison.rows),
        key=lambda name: -_middle([row.matched.test.forget.value for row in _rows(comparisons, name) if row.matched]),
    )
    with style():
        height = 1.6 + 0.25 * len(order)
        figure = Figure(figsize=(10.4, height))
        bottom, top = 0.62 / height, 1 - 0.72 / height
        forget = figure.add_axes((0.205, bottom, 0.25, top - bottom))
        retain = figure.add_axes((0.48, bottom, 0.13, top - bottom), sharey=forget)
        curves = figure.add_axes((0.69, bottom, 0.3, top - bottom))
        for axes, side, colour in ((forget, "forget", FORGET), (retain, "retain", RETAIN)):
            _marks(axes, comparisons, order, side, colour)
        forget.set_yticks(range(len(order)), [_rows(comparisons, name)[0].method.title for name in order])
        for label, name in zip(forget.get_yticklabels(), order, strict=True):
            label.set_fontweight("bold" if name == REFERENCE else "normal")
        retain.tick_params(labelleft=False)
        forget.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=3,
            borderaxespad=0.2,
            handletextpad=0.3,
            columnspacing=1.0,
            fontsize=8,
        )
        _frontiers(curves, first, many=len(comparisons) > 1)
        figure.text(
            0.012, 0.985, fill(frontier_finding(comparisons, resampled), 112), va="top", fontsize=9.5, fontweight="bold"
        )
    return figure


def frontier_finding(comparisons: Sequence[Comparison], resampled: Mapping[str, Resampled] | None = None) -> str:
    """Sentence on how NegMerge compares, as plain about a loss as about a win."""
    keep, pools = comparisons[0].keep, len(comparisons)
    matched = {
        name: [row.matched.test.forget.value for row in _rows(comparisons, name) if row.matched]
        for name in dict.fromkeys(row.method.name for comparison in comparisons for row in comparison.rows)
    }
    scored = {name: values for name, values in matched.items() if values}
    if REFERENCE not in scored or len(scored) < 2:
        return f"{len(scored)} rules at {percent(keep, 0)} of the base's retention"
    title = {row.method.name: row.method.title for comparison in comparisons for row in comparison.rows}
    rank = placed(_middle(scored[REFERENCE]), [_middle(values) for values in scored.values()])
    best = min((name for name in scored if name != REFERENCE), key=lambda name: _middle(scored[name]))
    ours, theirs = (percent(_middle(scored[name])) for name in (REFERENCE, best))
    where = "At equal retention" + (f", median of {pools} pools" if pools > 1 else "")
    rest = f"of the rest {title[best]} does best, {theirs}"
    text = f"{where}, NegMerge forgets to {ours}, {rank}; {rest}"
    if resampled and best in resampled and REFERENCE in resampled:
        effect = resampled[best].differences["matched forget"]
        apart = "apart" if effect.low > 0 or effect.high < 0 else "not distinguishable"
        return f"{text} ({apart}: {100 * effect.low:+.1f} to {100 * effect.high:+.1f} points)"
    (low, high), (other_low, other_high) = (_reach(comparisons, name) for name in (REFERENCE, best))
    meet = "overlap" if low <= other_high and other_low <= high else "do not overlap"
    return f"{text} (their {'ranges' if pools > 1 else 'intervals'} {meet})"


def _marks(axes: Axes, comparisons: Sequence[Comparison], order: Sequence[str], side: str, colour: str) -> None:
    many = len(comparisons) > 1
    for place, name in enumerate(order):
        rows = _rows(comparisons, name)
        matched = [getattr(row.matched.test, side) for row in rows if row.matched]
        protocol = [getattr(row.test, side) for row in rows if row.test]
        label = None if place else "where retention meets the floor"
        for scores, shift, filled in ((matched, 0.0, True), (protocol, -0.3, False)):
            if not scores:
                continue
            low, high = _extent([score.value for score in scores]) if many else scores[0].interval
            axes.plot(
                [low, high],
                [place + shift] * 2,
                color=colour,
                linewidth=1.6 if filled else 0.8,
                alpha=0.9 if filled else 0.6,
            )
            axes.plot(
                [score.value for score in scores],
                [place + shift] * len(scores),
                "o",
                color=colour,
                linestyle="none",
                markersize=5 if filled else 3.5,
                markerfacecolor=colour if filled else "white",
                gid=f"{side}-{'matched' if filled else 'protocol'}-{name}",
                zorder=3,
                label=label if filled else None if place else "paper's protocol",
            )
    n = getattr(comparisons[0].base["test"], side).n
    what = f"range of {len(comparisons)} pools" if many else "95 % intervals"
    if side == "forget":
        bases = [comparison.base["test"].forget.value for comparison in comparisons]
        axes.axvline(_middle(bases), color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)), gid="base", label="base")
        axes.set_xlabel(f"forget accuracy, test (n = {n:,}; {what})\nlower is better")
    else:
        floors = [comparison.keep * comparison.base["test"].retain.value for comparison in comparisons]
        axes.axvline(_middle(floors), color=RETAIN, linewidth=0.9, linestyle=(0, (1, 1.6)), gid="floor")
        axes.set_xlabel(f"retain, test (n = {n:,})\ndotted: {percent(comparisons[0].keep, 0)} of base")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\N{NO-BREAK SPACE}%"))
    axes.xaxis.set_major_locator(MaxNLocator(6 if side == "forget" else 3, steps=[1, 2, 5, 10]))
    axes.grid(True, axis="x")
    axes.set_ylim(-0.8, len(order) - 0.4)


def _frontiers(axes: Axes, comparison: Comparison, *, many: bool) -> None:
    """Each rule's measured scales from the base down, on the live subset; a line joins only close neighbours."""
    live = "live" in comparison.base and any(row.frontier for row in comparison.rows)
    base, where = (comparison.base["live"], "live subset") if live else (comparison.base["val"], "validation")
    floor = comparison.keep * base.retain.value
    for row in sorted(comparison.rows, key=lambda row: row.method.name in NAMED):
        known = [Point(0.0, base.forget, base.retain), *(row.frontier if live else row.curve)]
        # Steps are shares of the way to the row's own floor: a short delta's are wide, and no gap.
        points = gaps(known, unit=max(point.scale for point in known) if live else 1.0)
        xs = [p.retain.value if p.retain else nan for p in points]
        ys = [p.forget.value if p.forget else nan for p in points]
        colour, dashes = NAMED.get(row.method.name, (MUTED, "solid"))
        named = row.method.name in NAMED
        axes.plot(
            xs,
            ys,
            color=colour,
            linestyle=dashes,
            linewidth=1.8 if named else 0.7,
            alpha=1 if named else 0.4,
            marker="o",
            markersize=2.6 if named else 1.2,
            label=row.method.title if named else None,
            gid=f"frontier-{row.method.name}",
        )
    axes.axvline(floor, color=RETAIN, linewidth=0.9, linestyle=(0, (1, 1.6)), gid="frontier-floor")
    axes.plot([base.retain.value], [base.forget.value], "s", color=INK, markersize=4)
    axes.annotate(
        "base",
        (base.retain.value, base.forget.value),
        (-6, -3),
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
        ha="right",
    )
    axes.set(xlim=(floor - 0.4 * (base.retain.value - floor), base.retain.value + 0.1 * (base.retain.value - floor)))
    axes.set_xlabel(
        f"retain (n = {base.retain.n:,}), {where}{', first pool' if many else ''}\nthe scale grows to the left"
    )
    axes.set_ylabel(f"forget (n = {base.forget.n:,}),\n{where}", labelpad=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\N{NO-BREAK SPACE}%"))
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.02, 1.0),
        ncols=3,
        borderaxespad=0.2,
        handlelength=2.0,
        handletextpad=0.4,
        columnspacing=1.0,
        fontsize=7.5,
    )


def _rows(comparisons: Sequence[Comparison], name: str) -> list[Row]:
    return [row for comparison in comparisons for row in comparison.rows if row.method.name == name]


def _middle(values: Sequence[float]) -> float:
    """The median; rows without a value come last."""
    ordered = sorted(values)
    if not ordered:
        return 2.0
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _reach(comparisons: Sequence[Comparison], name: str) -> tuple[float, float]:
    """Span of a row's matched forget accuracy: its interval in one pool, the range of several."""
    scores = [row.matched.test.forget for row in _rows(comparisons, name) if row.matched]
    return scores[0].interval if len(comparisons) == 1 else _extent([score.value for score in scores])


def _extent(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
