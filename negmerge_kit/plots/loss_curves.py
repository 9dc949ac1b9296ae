"""Training losses of candidates: one line each, finished ones drawn behind the one that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from negmerge_kit.plots.style import FORGET, INK, MUTED, sheet, style


@dataclass(frozen=True)
class LossCurve:
    """Training losses of one candidate.

    Attributes:
        label: its recipe in a line.
        losses: one for each step, `first` being the number of the first (a resumed run does not begin at 1).
        total: steps of the whole run.
    """

    label: str
    losses: tuple[float, ...]
    total: int
    first: int = 1

    @property
    def done(self) -> bool:
        """Whether it has come to its last step."""
        return self.first + len(self.losses) > self.total


def loss_finding(curves: Sequence[LossCurve]) -> str:
    """Line on what the figure shows.

    >>> loss_finding([LossCurve("lr 1e-3", (2.0, 1.0), 2), LossCurve("lr 2e-3", (2.5,), 4)])
    'Loss on the forget images: lr 2e-3 at 2.5 after step 1 of 4, one candidate trained before it'
    >>> loss_finding([])
    'No step has been taken yet'
    """
    seen = [curve for curve in curves if curve.losses]
    if not seen:
        return "No step has been taken yet"
    last, done = seen[-1], len(seen) - 1
    before = {0: "", 1: ", one candidate trained before it"}.get(done, f", {done} candidates trained before it")
    step = last.first + len(last.losses) - 1
    return f"Loss on the forget images: {last.label} at {last.losses[-1]:.2g} after step {step} of {last.total}{before}"


def loss_curves(curves: Sequence[LossCurve]) -> Figure:
    """Loss against the share of the run that is done, so that short and long runs lie over one another.

    The last curve is drawn in the colour of what is forgotten, the others behind it; each step's loss is shown, on a
    logarithmic axis.
    """
    with style():
        figure, (axes,) = sheet(loss_finding(curves), (5.2, 2.5))
        seen = [curve for curve in curves if curve.losses]
        for curve in seen:
            last = curve is seen[-1]
            steps = [100 * (curve.first + k) / curve.total for k in range(len(curve.losses))]
            axes.plot(
                steps,
                [max(loss, 1e-6) for loss in curve.losses],
                color=FORGET if last else MUTED,
                linewidth=1.6 if last else 0.8,
                alpha=1.0 if last else 0.55,
                zorder=3 if last else 2,
                marker="o" if len(steps) == 1 else "",
                markersize=3,
            )
        if seen:
            axes.set_yscale("log")
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the run")
        axes.set_ylabel("training loss")
        axes.minorticks_off()
        axes.tick_params(colors=INK, labelcolor=MUTED)
    return figure
