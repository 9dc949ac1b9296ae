"""Figures as pure functions from results to `matplotlib.figure.Figure`: no pyplot, nothing kept between calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import nan
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from negmerge_kit.merging.agreement import LayerAgreement
from negmerge_kit.models.layers import layer_of, reading_order
from negmerge_kit.plots.style import AGREE, FORGET, INK, MUTED, RETAIN, percent, percent_ticks, style
from negmerge_kit.scoring.scale_search import Point

LARGEST_SCALE = 1.5
"""Right end of the scale axis, and of the app's slider, where no scale lies beyond it."""

_ENDS = (LARGEST_SCALE, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0)

MOST_SCALE = _ENDS[-1]
"""Right end of the longest axis; no search goes farther."""

GAP = 0.2
"""Measured scales that lie farther apart are not joined by a line; on a longer axis as much farther."""

CURVE_AREA = (0.105, 0.14, 0.875, 0.76)
"""Left, bottom, width and height of the untitled curve's axes within the figure: the app lays its marker over it."""


_IN_BLOCK = re.compile(r"^(text )?b(\d+) ")


def reach(*scales: float) -> float:
    """The right end of an axis that shows these scales: LARGEST_SCALE, or the next end with room beyond the largest.

    >>> reach(0.85), reach(8.4), reach(32.0)
    (1.5, 12.0, 40.0)
    """
    largest = max(scales, default=0.0)
    return next((end for end in _ENDS if largest <= (end if end == LARGEST_SCALE else 0.9 * end)), MOST_SCALE)


def scale_curve(
    points: Sequence[Point],
    *,
    base: Point,
    keep: float,
    best: Point | None = None,
    here: Point | None = None,
    behind: Sequence[Point] = (),
    titled: bool = True,
    end: float | None = None,
    note: str = "",
) -> Figure:
    """Forget and retain accuracy against the scale, with 95 % bands and the retention floor.

    Every measured scale is marked. A line joins neighbours only where nothing between them was left out (see `gaps`).

    Args:
        points: the scored scales, in any order; at those that early stopping dropped the lines have a gap.
        base: scale 0, which sets the floor at keep times its retention.
        keep: share of the base's retention to keep.
        best: the chosen point, marked.
        here: the point at a slider's position, marked with its intervals and named in the title.
        behind: a second series on other images, drawn thin behind (live numbers behind the whole validation split).
        end: right end of the scale axis; by default as far as the points reach.
        note: what is still missing, in a corner.
        titled: False leaves the finding out, for a page that prints `curve_finding` itself.
    """
    shown = [p for p in (*points, *behind, best, here) if p is not None and (p.forget or p.retain)]
    end = reach(*(point.scale for point in shown)) if end is None else end
    with style():
        figure = Figure(figsize=(4.6, 3.15))
        left, bottom, width, height = CURVE_AREA
        axes = figure.add_axes((left, bottom, width, height - 0.08 * titled))
        unit = end / LARGEST_SCALE
        draw_series(axes, [point for point in behind if point.scale <= end], thin=True, unit=unit)
        draw_series(axes, [base, *(point for point in points if point.scale <= end)], unit=unit)
        if base.retain is not None:
            floor = keep * base.retain.value
            axes.axhline(floor, color=RETAIN, linewidth=0.9, linestyle=(0, (1, 1.6)), gid="floor")
            axes.annotate(
                f"floor: {percent(keep, 0)} of the base",
                (end, floor),
                (0, 2),
                textcoords="offset points",
                color=MUTED,
                fontsize=8,
                ha="right",
                va="bottom",
            )
        if best is not None and best.forget is not None and best.retain is not None:
            values = [best.forget.value, best.retain.value]
            axes.plot([best.scale] * 2, values, "D", color=INK, markersize=5.5, zorder=5, gid="best", label="best")
        if here is not None and here.forget is not None and here.retain is not None:
            axes.axvline(here.scale, color=MUTED, linewidth=0.8, gid="here")
            for name, score, colour in (("forget", here.forget, FORGET), ("retain", here.retain, RETAIN)):
                low, high = score.interval
                axes.errorbar(
                    [here.scale],
                    [score.value],
                    yerr=[[score.value - low], [high - score.value]],
                    fmt="o",
                    color=colour,
                    markeredgecolor=INK,
                    markersize=7,
                    zorder=6,
                    gid=f"{name}-here",
                )
        bands = "accuracy on validation with 95 % bands"
        if count := max((_count(point) for point in behind), default=0):
            bands = f"validation, 95 % bands; thin: live subset, n = {count:,}"
        axes.set(xlim=(0, end), ylim=(0, 1), xlabel=f"scale λ; {bands}")
        if note:
            axes.annotate(
                note,
                (0.99, 0.02),
                xycoords="axes fraction",
                color=MUTED,
                fontsize=8,
                ha="right",
                va="bottom",
                gid="note",
            )
        axes.yaxis.set_major_formatter(percent_ticks())
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.1, 1.0),
            ncols=3,
            borderaxespad=0.2,
            columnspacing=1.0,
            handlelength=1.7,
            handletextpad=0.5,
        )
        if titled:
            _title(figure, curve_finding(points, base=base, keep=keep, best=here or best), 72)
    return figure


def curve_finding(points: Sequence[Point], *, base: Point, keep: float, best: Point | None = None) -> str:
    """Sentence on what the curve shows: the title of `scale_curve` and its text for screen readers."""
    if base.forget is None or base.retain is None:
        return "Nothing is scored yet"
    was = percent(base.forget.value)
    if best is not None and best.forget is not None and best.retain is not None:
        kept = percent(best.retain.value / base.retain.value)
        return f"Scale {best.scale:g}: forget {was} → {percent(best.forget.value)}, retain keeps {kept}"
    full = sorted((p for p in points if p.forget and p.retain and p.scale > 0), key=lambda point: point.scale)
    if not full:
        return f"The base alone: forget {was}, retain {percent(base.retain.value)}"
    above = [p.scale for p in full if p.retain and p.retain.value >= keep * base.retain.value]
    if not above:
        return f"No scale drawn here keeps {percent(keep, 0)} of retain"
    last = full[-1]
    assert last.forget is not None
    return f"Forget {was} → {percent(last.forget.value)} at scale {last.scale:g}; floor held to {max(above):g}"


def agreement_by_layer(
    layers: Sequence[LayerAgreement], *, votes: int, chance: float, upright: bool = True, titled: bool = True
) -> Figure:
    """Share of moved elements on which at least `votes` signs agree, by layer, over the chance line.

    Args:
        layers: agreement by tensor, as `sign_agreement` gives it; tensors of one layer are added up.
        votes: how many candidates must share a sign.
        chance: the share that independent signs would reach, see `negmerge_kit.merging.signs.chance`.
        upright: False draws bars from left to right, for narrow pages.
        titled: False leaves the finding out, for a page that prints `agreement_finding` itself.
    """
    shares = agreement_shares(layers, votes)
    names, values = list(shares), list(shares.values())
    top = max([chance, *values], default=1.0) * 1.12
    with style():
        line: dict[str, Any] = {"color": INK, "linewidth": 1.2, "linestyle": (0, (4, 2.5)), "gid": "chance"}
        line["label"] = f"chance {percent(chance)}"
        values_axis: Axis
        if upright:
            figure = Figure(figsize=(10.4, 2.9))
            axes = figure.add_axes((0.043, 0.16, 0.952, 0.73))
            axes.bar(names, values, color=AGREE, width=0.72)
            axes.axhline(chance, **line)
            axes.set(ylim=(0, min(1.0, top)), xlim=(-0.6, len(names) - 0.4))
            _group_labels(axes, names)
            values_axis = axes.yaxis
        else:
            height = (0.95 if titled else 0.6) + 0.2 * len(names)
            figure = Figure(figsize=(3.6, height))
            axes = figure.add_axes((0.17, 0.32 / height, 0.79, 0.2 * len(names) / height))
            axes.barh(names, values, color=AGREE, height=0.72)
            axes.axvline(chance, **line)
            axes.set(xlim=(0, min(1.0, top)), ylim=(len(names) - 0.4, -0.6))
            axes.grid(False)
            axes.grid(True, axis="x")
            values_axis = axes.xaxis
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1, handlelength=2.2)
        values_axis.set_major_formatter(percent_ticks())
        axes.tick_params(length=0)
        if titled:
            _title(figure, agreement_finding(layers, votes=votes, chance=chance), 140 if upright else 50)
    return figure


def agreement_shares(layers: Sequence[LayerAgreement], votes: int) -> dict[str, float]:
    """Share of moved elements with at least `votes` equal signs, by layer label, in the order of the network."""
    by_name = {layer.name: layer for layer in layers}
    sums: dict[str, list[int]] = {}
    for name in reading_order(by_name):
        total = sums.setdefault(layer_of(name), [0, 0])
        total[0] += by_name[name].moved
        total[1] += sum(by_name[name].histogram[votes:])
    return {label: agreeing / moved for label, (moved, agreeing) in sums.items() if moved}


def agreement_finding(layers: Sequence[LayerAgreement], *, votes: int, chance: float) -> str:
    """Sentence on what the bars show."""
    moved = sum(layer.moved for layer in layers)
    if not moved:
        return "No element moved"
    candidates = len(layers[0].histogram) - 1
    share = sum(sum(layer.histogram[votes:]) for layer in layers) / moved
    if candidates == 1:
        return f"One candidate agrees with itself on all {moved:,} moved elements"
    who = f"All {candidates}" if votes == candidates else f"At least {votes} of {candidates}"
    ratio = share / chance if chance else 0.0
    times = f", {ratio:.{0 if ratio >= 10 else 1}f} times chance" if ratio > 1 else ""
    return f"{who} signs agree on {percent(share)} of the {moved:,} moved elements{times}"


def _group_labels(axes: Axes, names: Sequence[str]) -> None:
    """Label each bar by its kind, and each block once below its bars."""
    blocks = [name.rpartition(" ")[0] if _IN_BLOCK.match(name) else "" for name in names]
    axes.set_xticks(
        range(len(names)),
        [
            name.rpartition(" ")[2] if block else name.replace(" ", "\n")
            for name, block in zip(names, blocks, strict=True)
        ],
        fontsize=8,
    )
    for block in dict.fromkeys(filter(None, blocks)):
        first, count = blocks.index(block), blocks.count(block)
        axes.annotate(
            _IN_BLOCK.sub(r"\1block \2", f"{block} "),
            (first + (count - 1) / 2, 0),
            (0, -17),
            ha="center",
            va="top",
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
        )


def _title(figure: Figure, finding: str, width: int) -> None:
    figure.text(0.012, 0.985, fill(finding, width), va="top", fontsize=9.5, fontweight="bold")


def gaps(points: Sequence[Point], *, unit: float = 1.0) -> list[Point]:
    """The points upwards, each scale once, with an empty one wherever the line through them must be broken.

    It is where a scale between two neighbours was looked at and given up, and where they are farther apart than GAP, a
    share of `unit` or, beyond it, of the scale.

    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> measured = [Point(s, Accuracy(1, 2, "val"), Accuracy(1, 2, "val")) for s in (0.0, 0.05, 0.85)]
    >>> [point.forget is not None for point in gaps(measured)]
    [True, True, False, True]
    """
    unique = {point.scale: point for point in points}
    joined: list[Point] = []
    for scale in sorted(unique):
        if joined and joined[-1].forget and scale - joined[-1].scale > GAP * max(unit, joined[-1].scale) + 1e-9:
            joined.append(Point((joined[-1].scale + scale) / 2, None, None))
        joined.append(unique[scale])
    return joined


def draw_series(axes: Axes, points: Sequence[Point], *, thin: bool = False, unit: float = 1.0) -> None:
    """Draw marks, and line and band between neighbours, of forget and retain over the points scored in full.

    A mark that no line reaches has its 95 % interval as a bar.
    """
    if len(points) < 2 and thin:
        return
    ordered = gaps(points, unit=unit)
    for name, colour, dashes in (("retain", RETAIN, (0, (4, 1.6))), ("forget", FORGET, "solid")):
        scores = [point.retain if name == "retain" else point.forget for point in ordered]
        if not any(scores):
            continue
        # A value that is no number breaks the line, and has no mark.
        scales = [point.scale if score else nan for point, score in zip(ordered, scores, strict=True)]
        values = [score.value if score else nan for score in scores]
        if thin:
            axes.plot(
                scales,
                values,
                color=colour,
                linestyle=dashes,
                linewidth=0.9,
                alpha=0.5,
                marker="o",
                markersize=1.8,
                gid=f"{name}-behind",
            )
            continue
        low, high = zip(*(score.interval if score else (nan, nan) for score in scores), strict=True)
        axes.fill_between(scales, low, high, color=colour, alpha=0.14, linewidth=0)
        round_it = zip([None, *scores[:-1]], scores, [*scores[1:], None], strict=True)
        alone = [k for k, (before, score, after) in enumerate(round_it) if score and not (before or after)]
        axes.vlines(
            [scales[k] for k in alone],
            [low[k] for k in alone],
            [high[k] for k in alone],
            color=colour,
            linewidth=1.2,
            alpha=0.5,
        )
        axes.plot(
            scales,
            values,
            color=colour,
            linestyle=dashes,
            marker="o",
            markersize=3,
            gid=name,
            clip_on=False,
            label=f"{name} (n = {max(score.n for score in scores if score):,})",
        )


def _count(point: Point) -> int:
    return max((score.n for score in (point.forget, point.retain) if score), default=0)
