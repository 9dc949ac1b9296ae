"""One style for every figure: colours that mean something, and a context that leaves no state behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

FORGET = "#d55e00"
"""Forget is orange everywhere: Okabe and Ito's vermillion, distinguishable from blue for colour-blind readers."""

RETAIN = "#0072b2"
"""Retain is blue everywhere."""

AGREE = "#7a74c4"
"""Agreement is neither: violet, light enough for a dark page and dark enough for a white one."""

INK = "#1b1f24"
MUTED = "#5b6470"
RULE = "#d5dae0"

_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0.0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    # Text stays text in SVG, and the same figure gives the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "negmerge",
}

_drawing = threading.RLock()


@contextmanager
def style() -> Iterator[None]:
    """The kit's settings for the length of the block; matplotlib's own are as before after it.

    The settings are the process's, so threads that draw take turns.
    """
    with _drawing, mpl.rc_context(_SETTINGS):
        yield


def placed(ours: float, values: Sequence[float]) -> str:
    """Rank of one of several values in words, the smallest first; in a tie the range of ranks.

    >>> placed(0.4, [0.3, 0.4, 0.4, 0.5]), placed(0.3, [0.3, 0.4])
    ('2nd to 3rd of 4', '1st of 2')
    """
    first, last = 1 + sum(value < ours for value in values), sum(value <= ours for value in values)
    return f"{ordinal(first)}{f' to {ordinal(last)}' if last > first else ''} of {len(values)}"


def ordinal(n: int) -> str:
    """Format a number as an ordinal.

    >>> ordinal(1), ordinal(12), ordinal(23)
    ('1st', '12th', '23rd')
    """
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def percent(share: float, digits: int = 1) -> str:
    """Format a share in [0, 1] as a percentage, with a no-break space.

    >>> percent(0.3472)
    '34.7\\xa0%'
    """
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def percent_ticks() -> PercentFormatter:
    """Labels for an axis of shares in [0, 1]: 50 % and not 0.5."""
    return PercentFormatter(1.0, decimals=0, symbol="\N{NO-BREAK SPACE}%")


def headline(figure: Figure, finding: str) -> None:
    """Write the finding as the figure's title, wrapped to its width."""
    width = int(12.4 * figure.get_figwidth())
    figure.suptitle(fill(finding, width), x=0.012, ha="left", fontsize=9.5, fontweight="bold")


def sheet(finding: str, size: tuple[float, float], columns: int = 1, **shared: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure of `size` inches whose title says the finding, and its axes in a row.

    Use it within `style()`, which a figure's parts read while they are made. `shared` goes to `Figure.subplots`.
    """
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    headline(figure, finding)
    return figure, list(figure.subplots(1, columns, squeeze=False, **shared)[0])
