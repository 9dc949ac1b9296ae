"""Pick candidates by their recipes: a tick box each, and buttons for all, none and the best three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from negmerge_kit.plots.style import percent
from negmerge_kit.pools.pool import Candidate, Pool
from negmerge_kit.training.recipe import recipe_line


class CandidatePicker:
    """Tick boxes with each candidate's recipe and what it forgets alone; `value` is the ids, in the pool's order.

    It behaves as an ipywidget with a `value`: set it, or observe it; one change of several boxes is one change.
    """

    def __init__(self, pool: Pool) -> None:
        self.boxes = {
            entry.id: widgets.Checkbox(
                True,
                description=candidate_line(entry),
                indent=False,
                layout=widgets.Layout(width="32em", height="24px"),
            )
            for entry in pool.only(pool.distinct).entries
        }
        self.buttons = {
            "all": widgets.Button(description="all", tooltip="tick every candidate"),
            "none": widgets.Button(description="none", tooltip="tick no candidate"),
            "best 3": widgets.Button(description="best 3", tooltip="tick the three that forget most alone"),
        }
        best = best_alone(pool, 3)
        for name, ids in (("all", list(self.boxes)), ("none", []), ("best 3", best)):
            self.buttons[name].layout.width = "5em"
            self.buttons[name].on_click(lambda _, ids=ids: self._set(ids))
        head = widgets.HTML("<b>candidates</b>: recipe, and what each leaves alone (validation)")
        self.box = widgets.VBox([head, widgets.HBox(list(self.buttons.values())), *self.boxes.values()])
        self._handlers: list[Callable[[Any], None]] = []
        self._held = False
        for box in self.boxes.values():
            box.observe(self._ticked, names="value")

    @property
    def value(self) -> tuple[str, ...]:
        """The ids of the ticked candidates."""
        return tuple(id for id, box in self.boxes.items() if box.value)

    @value.setter
    def value(self, ids: tuple[str, ...] | list[str]) -> None:
        self._set(list(ids))

    def observe(self, handler: Callable[[Any], None], names: str = "value") -> None:
        """Call `handler` after each change."""
        self._handlers.append(handler)

    def _set(self, ids: list[str]) -> None:
        before = self.value
        self._held = True
        try:
            for id, box in self.boxes.items():
                box.value = id in ids
        finally:
            self._held = False
        if self.value != before:
            self._ticked(None)

    def _ticked(self, change: object) -> None:
        if not self._held:
            for handler in self._handlers:
                handler(change)


def candidate_line(entry: Candidate) -> str:
    """A candidate in a line: its recipe, and the forget accuracy it leaves alone at its own best scale.

    >>> scores = {"forget": {"value": 0.471}, "kept": 0.95}
    >>> entry = Candidate("a", "a.safetensors", "", {"lr": 1e-3, "epochs": 4}, scores)
    >>> candidate_line(entry).replace(chr(160), " ")
    'lr 1e-3 · 4 epochs · wd 0.1: forget 47 %'
    """
    found = (entry.scores or {}).get("forget")
    left = f"forget {percent(found['value'], 0)}" if found else "no scale keeps enough"
    return f"{recipe_line(entry.recipe)}: {left}"


def best_alone(pool: Pool, count: int) -> list[str]:
    """The ids of the candidates that forget most alone; those without a feasible scale come last."""

    def left(entry: Candidate) -> float:
        found = (entry.scores or {}).get("forget")
        return float(found["value"]) if found else 2.0

    return [entry.id for entry in sorted(pool.only(pool.distinct).entries, key=left)[:count]]
