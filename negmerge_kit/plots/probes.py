"""An audit as figures: every probe's numbers in a row with base, chance and floor, and relearning step by step."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negmerge_kit.audits.audit import Audit
from negmerge_kit.audits.probe import ARROWS, LEFTOVER, Probe
from negmerge_kit.plots.style import FORGET, INK, MUTED, RETAIN, percent_ticks, sheet, style

MARKS = {"base": "D", "unlearned": "o", "retrained": "s", "shuffled": "v"}
"""One marker for each model; the unlearned one is filled, in the colour of its side."""


def audit_figure(audit: Audit) -> Figure:
    """All probes that have numbers, a row each: values with 95 % intervals, a tick for chance, how much is left."""
    probes = [probe for probe in audit.probes if "unlearned" in probe.measurements]
    names = {who for probe in probes for who in probe.measurements}
    with style():
        figure, (axes,) = sheet(audit.headline, (7.6, 1.5 + 0.3 * max(1, len(probes))))
        for row, probe in enumerate(probes):
            _row(axes, row, probe)
        for who, mark in MARKS.items():
            if who in names:
                axes.plot(
                    [],
                    [],
                    mark,
                    color=INK,
                    markersize=5,
                    markerfacecolor=INK if who == "unlearned" else "white",
                    label=who,
                )
        axes.plot([], [], "|", color=INK, markersize=9, label="chance")
        axes.set(xlim=(0, 1), ylim=(len(probes) - 0.5, -0.5))
        axes.set_yticks(range(len(probes)), [probe.name + ARROWS[probe.good] for probe in probes])
        axes.set_xlabel(
            "share, 95 % intervals; orange: forget images, blue: kept images; arrow: good direction; n in the rows"
        )
        axes.xaxis.set_major_formatter(percent_ticks())
        axes.grid(False)
        axes.grid(True, axis="x")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names) + 1, borderaxespad=0.1)
    return figure


def relearning_figure(audit: Audit) -> Figure:
    """Accuracy on the forget set against fine-tuning steps, a panel for each number of images."""
    probes = sorted(
        (probe for probe in audit.probes if "most_steps" in probe.details), key=lambda probe: probe.details["images"]
    )
    with style():
        figure, panels = sheet(
            relearning_finding(probes), (2.75 * max(1, len(probes)) + 0.5, 3.1), max(1, len(probes)), sharey=True
        )
        for axes, probe in zip(panels, probes, strict=False):
            _relearning(axes, probe)
        if probes:
            figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        panels[0].set_ylabel("accuracy on forget test images")
        panels[0].yaxis.set_major_formatter(percent_ticks())
    return figure


def relearning_finding(probes: Sequence[Probe]) -> str:
    """Sentence on what relearning showed."""
    probes = sorted(probes, key=lambda probe: probe.details["images"])
    back = {probe.details["images"]: probe.details["unlearned"]["steps"] for probe in probes}
    reached = [f"{steps} steps on {images} images" for images, steps in back.items() if steps is not None]
    if reached:
        return f"The base's accuracy on the forget set is back after {', '.join(reached)}"
    if not probes:
        return "Relearning was not asked"
    return f"The base's accuracy on the forget set is not back within {probes[0].details['most_steps']} steps"


def _row(axes: Axes, row: int, probe: Probe) -> None:
    kept = probe.name.startswith("control") or probe.name.endswith("retain")
    side = RETAIN if kept else FORGET
    for who, mark in MARKS.items():
        reading = probe.measurements.get(who)
        if reading is None:
            continue
        colour = side if who == "unlearned" else MUTED
        axes.errorbar(
            [reading.value],
            [row],
            xerr=([reading.value - reading.low], [reading.high - reading.value]),
            fmt=mark,
            color=colour,
            markersize=5.5,
            elinewidth=1.1,
            gid=f"{who}-{row}",
            clip_on=False,
            markerfacecolor=colour if who == "unlearned" else "white",
        )
    if probe.chance is not None:
        axes.plot([probe.chance], [row], "|", color=INK, markersize=9, gid=f"chance-{row}", clip_on=False)
    n, left = f"n = {probe.measurements['unlearned'].n:,}", probe.left
    verdict = f"{n}; {100 * max(0.0, left.value):.0f} % of the way up" if left else n
    axes.annotate(
        verdict,
        (1, row),
        (8, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=INK if probe.verdict == LEFTOVER else MUTED,
    )


def _relearning(axes: Axes, probe: Probe) -> None:
    goal = probe.measurements["base"]
    axes.axhspan(goal.low, goal.high, color=MUTED, alpha=0.14, linewidth=0)
    axes.axhline(goal.value, color=MUTED, linewidth=1, linestyle=(0, (1, 1.6)), gid="base", label="base, 95 %")
    if probe.chance is not None:
        axes.axhline(probe.chance, color=INK, linewidth=1, linestyle=(0, (4, 2.5)), gid="chance", label="chance")
    for who, colour in (("unlearned", FORGET), ("retrained", MUTED), ("shuffled", MUTED)):
        if who in probe.details:
            curve = probe.details[who]["curve"]
            reading = probe.measurements[who]
            axes.plot(
                [look["step"] for look in curve],
                [look["accuracy"] for look in curve],
                MARKS[who] + "-",
                color=colour,
                markersize=3.5,
                linewidth=1.2,
                gid=who,
                label=who,
            )
            axes.errorbar(
                [curve[-1]["step"]],
                [reading.value],
                yerr=([reading.value - reading.low], [reading.high - reading.value]),
                color=colour,
                elinewidth=1.1,
            )
    axes.set(title=f"{probe.details['images']} images", xlabel=f"fine-tuning steps; n = {goal.n:,}", ylim=(0, 1))
