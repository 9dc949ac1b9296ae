"""docs/when.md and its figures, from the record that `benchmarks/uneven.py` wrote.

    python -m benchmarks.uneven_page [RECORD]

Every number of the page comes from the record; `tests/bench/test_when_page.py` holds the page to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.uneven import RECORD, REFERENCE
from negmerge_kit.comparison.methods import find_method
from negmerge_kit.plots.save import save_figure
from negmerge_kit.plots.style import AGREE, FORGET, INK, MUTED, RETAIN, headline, style
from negmerge_kit.types import Json

ROOT = Path(__file__).parents[1]
PAGE, FIGURES = ROOT / "docs" / "when.md", ROOT / "docs" / "when"

BY_SIGN = ("negmerge", "negmerge:average=min", "negmerge:agreement=0.75", "negmerge:agreement=0.75:average=min")
OTHERS = ("median", "normalised", "ties", "random-mask", "single")
DRAWN = {
    "negmerge": (AGREE, "o"),
    "negmerge:agreement=0.75": (FORGET, "s"),
    "median": (RETAIN, "D"),
    "normalised": (MUTED, "^"),
}
"""Rules in the first figure, with colour and marker."""

SHARES = {"8 clean": 0.0, "9 + 1 reckless": 0.1, "8 + 2 reckless": 0.2, "6 + 4 reckless": 0.4}
"""Cells of the second figure: about ten candidates, and how many of them were trained too hard."""


def points(value: float) -> str:
    """A share as points, with a true minus sign.

    >>> points(-0.0234), points(0.01)
    ('−2.3', '+1.0')
    """
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def title(rule: str) -> str:
    """The rule's name for readers."""
    return "Plain mean" if rule == REFERENCE else find_method(rule).title


class Record:
    """The record, by cell and rule."""

    def __init__(self, values: Json) -> None:
        self.values = values
        self.cells = [cell["cell"] for cell in values["cells"]]
        self._rows = {(cell["cell"], row["rule"]): row for cell in values["cells"] for row in cell["rules"]}

    def row(self, cell: str, rule: str) -> Json:
        """One rule in one cell."""
        row: Json = self._rows[cell, rule]
        return row

    def difference(self, cell: str, rule: str) -> str:
        """Points against the plain mean with their interval; bold where the interval leaves out 0."""
        found = self.row(cell, rule)["difference"]
        if found is None:
            missing = sum(curve is None for curve in self.row(cell, rule)["curves"])
            return f"no floor in {missing} of {self.values['pools']}"
        text = f"{points(found['value'])} ({points(found['low'])} to {points(found['high'])})"
        return f"**{text}**" if found["low"] > 0 or found["high"] < 0 else text

    def accuracy(self, cell: str, rule: str) -> str:
        """Forget accuracy in percent with its interval."""
        found = self.row(cell, rule)["forget"]
        if found is None:
            return "-"
        value, low, high = (f"{100 * found[name]:.1f}" for name in ("value", "low", "high"))
        return f"{value} ({low}-{high})"

    def table(self, rules: Sequence[str]) -> str:
        """Differences from the plain mean, a line a cell."""
        lines = [
            f"| candidates | {' | '.join(['plain mean, % left', *map(title, rules)])} |",
            "|---" * (len(rules) + 2) + "|",
        ]
        for cell in self.cells:
            cells = [self.accuracy(cell, REFERENCE), *(self.difference(cell, rule) for rule in rules)]
            lines.append(f"| {cell} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def kinds(self) -> str:
        """What the kinds of candidates are."""
        return "\n".join(f"- **{kind}**: {found['what']}." for kind, found in self.values["kinds"].items())


def forest(record: Record) -> Figure:
    """Differences from the plain mean, cell by cell."""
    with style():
        figure = Figure(figsize=(7.6, 8.2), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(record.cells))[::-1]
        for number, (rule, (colour, marker)) in enumerate(DRAWN.items()):
            found = [record.row(cell, rule)["difference"] for cell in record.cells]
            shown = [(place, value) for place, value in zip(places, found, strict=True) if value is not None]
            heights = [place + 0.3 - 0.2 * number for place, _ in shown]
            middle = [100 * value["value"] for _, value in shown]
            reach = [[100 * abs(value[end] - value["value"]) for _, value in shown] for end in ("low", "high")]
            axes.errorbar(
                middle, heights, xerr=reach, fmt=marker, color=colour, markersize=4, elinewidth=1, label=title(rule)
            )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(places, record.cells)
        axes.set_xlabel("points of forget accuracy against the plain mean at equal retention (left: forgets more)")
        axes.grid(axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
        return figure


def by_share(record: Record) -> Figure:
    """Forget accuracy by the share of candidates that were trained too hard."""
    with style():
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axes = figure.subplots()
        drawn: Mapping[str, tuple[str, str]] = {REFERENCE: (INK, "v"), **DRAWN}
        for number, (rule, (colour, marker)) in enumerate(drawn.items()):
            found = [record.row(cell, rule)["forget"] for cell in SHARES]
            shown = [(share, value) for share, value in zip(SHARES.values(), found, strict=True) if value is not None]
            reach = [[100 * abs(value[end] - value["value"]) for _, value in shown] for end in ("low", "high")]
            axes.errorbar(
                [100 * share + 0.5 * (number - 2) for share, _ in shown],
                [100 * value["value"] for _, value in shown],
                yerr=reach,
                color=colour,
                marker=marker,
                markersize=4,
                elinewidth=1,
                label=title(rule),
            )
        axes.set_xticks([100 * share for share in SHARES.values()])
        axes.set_xlabel("candidates trained too hard, % of 8 to 10")
        axes.set_ylabel("% of the forget set still right")
        figure.legend(loc="outside right center")
        n, pools = record.values["n"], record.values["pools"]
        headline(figure, f"Left at equal test retention, {pools} pools, n = {n['forget']} and {n['retain']:,}")
        return figure


def page(record: Record) -> str:
    """The page's text."""
    return TEMPLATE.read_text(encoding="utf-8").format(
        pools=record.values["pools"],
        forget=record.values["n"]["forget"],
        retain=f"{record.values['n']['retain']:,}",
        resamples=f"{record.values['resamples']:,}",
        kinds=record.kinds(),
        by_sign=record.table(BY_SIGN),
        others=record.table(OTHERS),
        clean_left=record.accuracy("8 clean", REFERENCE),
        median_left=record.accuracy("8 + 2 reckless", "median"),
        **{name: record.difference(cell, rule).strip("*") for name, (cell, rule) in QUOTED.items()},
    )


QUOTED: Mapping[str, tuple[str, str]] = {
    "clean_neg": ("8 clean", "negmerge"),
    "clean_median": ("8 clean", "median"),
    "clean16_neg": ("16 clean", "negmerge"),
    "clean30_neg": ("30 clean", "negmerge"),
    "clean_single": ("8 clean", "single"),
    "hard_neg": ("8 + 2 reckless", "negmerge"),
    "hard_vote": ("8 + 2 reckless", "negmerge:agreement=0.75"),
    "hard_vote_min": ("8 + 2 reckless", "negmerge:agreement=0.75:average=min"),
    "hard_median": ("8 + 2 reckless", "median"),
    "hard_normalised": ("8 + 2 reckless", "normalised"),
    "hard_single": ("8 + 2 reckless", "single"),
    "hard_ties": ("8 + 2 reckless", "ties"),
    "hard_mask": ("8 + 2 reckless", "random-mask"),
    "many_neg": ("24 + 6 reckless", "negmerge"),
    "many_median": ("24 + 6 reckless", "median"),
    "wrong_neg": ("8 + 2 wrong", "negmerge"),
    "wrong_median": ("8 + 2 wrong", "median"),
    "wrong_vote": ("8 + 2 wrong", "negmerge:agreement=0.75"),
    "wrong4_neg": ("6 + 4 wrong", "negmerge"),
    "wrong4_vote": ("6 + 4 wrong", "negmerge:agreement=0.75"),
    "wrong4_median": ("6 + 4 wrong", "median"),
    "timid_vote_min": ("4 + 4 timid", "negmerge:agreement=0.75:average=min"),
    "fixed_single": ("8 + 2 reckless, fixed order", "single"),
    "search_neg": ("4 + 2 reckless + 2 timid", "negmerge"),
    "search_median": ("4 + 2 reckless + 2 timid", "median"),
    "search_single": ("4 + 2 reckless + 2 timid", "single"),
    "fixed_neg": ("8 + 2 reckless, fixed order", "negmerge"),
    "fixed_vote": ("8 + 2 reckless, fixed order", "negmerge:agreement=0.75"),
    "fixed_median": ("8 + 2 reckless, fixed order", "median"),
}
"""Differences that the text quotes."""

TEMPLATE = Path(__file__).parent / "when.template.md"


def main() -> None:
    """Write the page and its figures."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD
    record = Record(json.loads(path.read_text(encoding="utf-8")))
    PAGE.write_text(page(record), encoding="utf-8")
    save_figure(forest(record), FIGURES / "by-cell.png")
    save_figure(by_share(record), FIGURES / "by-share.png")


if __name__ == "__main__":
    main()
