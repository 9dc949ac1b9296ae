"""Sensitivity to hyperparameters: figure 1 of the paper, a family a panel, and one setting a panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negmerge_kit.plots.style import FORGET, INK, MUTED, RETAIN, percent, percent_ticks, sheet, style
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.evaluation import Scores

MARKS = ("D", "s", "^", "v", "P")


@dataclass(frozen=True)
class Negated:
    """A candidate's recipe and its scores when it is negated alone at its own best scale."""

    recipe: Recipe
    scores: Scores


@dataclass(frozen=True)
class Spread:
    """One pool's candidates each alone, its base, and merges by label, all scored on one split."""

    base: Scores
    alone: tuple[Negated, ...]
    merged: Mapping[str, Scores]

    @property
    def range(self) -> tuple[float, float]:
        """Forget accuracy that the luckiest and the unluckiest candidate leave."""
        values = [one.scores.forget.value for one in self.alone]
        return min(values), max(values)


SETTINGS: Mapping[str, tuple[str, Callable[[Recipe], str]]] = {
    "lr": ("learning rate", lambda recipe: f"{recipe.lr:.0e}".replace("e-0", "e-")),
    "epochs": ("epochs", lambda recipe: str(recipe.epochs)),
    "weight_decay": ("weight decay", lambda recipe: f"{recipe.weight_decay:g}"),
    "augment": ("augmentation", lambda recipe: _augmentation(recipe.augment)),
}
"""The settings that a sensitivity figure can be drawn over: their titles, and a recipe's value in words."""


def sensitivity(families: Mapping[str, Spread], *, keep: float) -> Figure:
    """Forget against retain accuracy of every candidate negated alone, and of the merges, a panel a family.

    This is figure 1 of arXiv:2410.05583: the same base and images, other hyperparameters. Down and right is better.
    """
    with style():
        figure, panels = sheet(sensitivity_finding(families), (3.5 * len(families) + 0.4, 3.8), len(families))
        for axes, (name, spread) in zip(panels, families.items(), strict=True):
            _plane(axes, spread, keep)
            n, split = spread.base.forget.n, spread.base.forget.split
            axes.set_title(f"{name}: {len(spread.alone)} alone ({split}, n = {n:,})")
        panels[0].set_ylabel("forget accuracy; bars: 95 % intervals")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), handletextpad=0.3)
    return figure


def sensitivity_by_setting(families: Mapping[str, Spread], settings: Sequence[str] = tuple(SETTINGS)) -> Figure:
    """Forget accuracy that each candidate leaves alone, over one hyperparameter a panel; other settings vary too.

    Raises:
        KeyError: for a setting that SETTINGS does not list.
    """
    with style():
        finding = setting_finding(families, settings[0])
        figure, panels = sheet(finding, (2.2 * len(settings) + 0.8, 3.1), len(settings), sharey=True)
        for axes, setting in zip(panels, settings, strict=True):
            title, words = SETTINGS[setting]
            recipes = [one.recipe for spread in families.values() for one in spread.alone]
            values = sorted({(getattr(recipe, setting), words(recipe)) for recipe in recipes})
            places = {text: place for place, text in enumerate(dict.fromkeys(text for _, text in values))}
            for shift, ((name, spread), mark) in enumerate(zip(families.items(), MARKS, strict=False)):
                across = 0.16 * (shift - (len(families) - 1) / 2)
                x = [places[words(one.recipe)] + across for one in spread.alone]
                y = [one.scores.forget.value for one in spread.alone]
                axes.plot(
                    x,
                    y,
                    mark,
                    color=FORGET,
                    alpha=0.75,
                    markersize=5,
                    gid=name,
                    label=f"{name} ({spread.base.forget.split}, n = {spread.base.forget.n})",
                    markerfacecolor=FORGET if shift == 0 else "white",
                )
            axes.set_xticks(range(len(places)), list(places))
            axes.set(xlim=(-0.6, len(places) - 0.4), ylim=(0, 1), xlabel=title)
        panels[0].set_ylabel("forget accuracy left")
        panels[0].yaxis.set_major_formatter(percent_ticks())
        panels[0].legend(loc="lower left", handletextpad=0.2)
    return figure


def setting_finding(families: Mapping[str, Spread], setting: str) -> str:
    """Sentence on how far candidates that share one setting still lie apart."""
    title, words = SETTINGS[setting]
    gaps = {}
    for name, spread in families.items():
        for value in {words(one.recipe) for one in spread.alone}:
            left = [one.scores.forget.value for one in spread.alone if words(one.recipe) == value]
            gaps[name, value] = max(left) - min(left)
    (name, value), gap = max(gaps.items(), key=lambda item: item[1])
    return f"With one {title} ({value}, {name}), what candidates leave still differs by {100 * gap:.1f} points"


def sensitivity_finding(families: Mapping[str, Spread]) -> str:
    """Sentence on how far the luckiest and the unluckiest candidate lie apart."""
    parts = []
    for name, spread in families.items():
        low, high = spread.range
        parts.append(f"{name} {percent(low)} to {percent(high)}")
    return f"What one candidate leaves depends on its hyperparameters: {'; '.join(parts)}"


def _plane(axes: Axes, spread: Spread, keep: float) -> None:
    axes.axvline(keep * spread.base.retain.value, color=RETAIN, linewidth=0.9, linestyle=(0, (1, 1.6)), gid="floor")
    groups = [("base", [spread.base], "*", MUTED), ("alone", [one.scores for one in spread.alone], "o", FORGET)]
    groups += [(name, [scores], mark, INK) for (name, scores), mark in zip(spread.merged.items(), MARKS, strict=False)]
    for gid, points, mark, colour in groups:
        x, y = [p.retain.value for p in points], [p.forget.value for p in points]
        bars = [
            [
                [v - s.interval[0] for v, s in zip(values, scored, strict=True)],
                [s.interval[1] - v for v, s in zip(values, scored, strict=True)],
            ]
            for values, scored in ((x, [p.retain for p in points]), (y, [p.forget for p in points]))
        ]
        axes.errorbar(
            x,
            y,
            xerr=bars[0],
            yerr=bars[1],
            fmt=mark,
            color=colour,
            markersize=9 if mark == "*" else 5.5,
            elinewidth=0.8,
            alpha=0.85,
            label=gid,
            gid=gid,
            zorder=3 if colour == FORGET else 4,
            markerfacecolor=colour if mark != "s" else "white",
        )
    n = spread.base.retain.n
    values = [score.forget.interval for score in (spread.base, *(one.scores for one in spread.alone))]
    low, high = min(low for low, _ in values), max(high for _, high in values)
    axes.set(ylim=(max(0.0, low - 0.06), min(1.0, high + 0.04)))
    axes.set(xlabel=f"retain accuracy (n = {n:,}); dotted: floor {percent(keep, 0)}")
    axes.xaxis.set_major_formatter(percent_ticks())
    axes.yaxis.set_major_formatter(percent_ticks())
    axes.grid(True, axis="both")


def _augmentation(text: str) -> str:
    return text.removesuffix("-mstd0.5").removeprefix("rand-")
