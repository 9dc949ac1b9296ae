"""The rule menu and its dials, drawn from RULES: a new rule brings its own."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from negmerge_kit.merging.rule import Parameter
from negmerge_kit.merging.rules import RULES
from negmerge_kit.notebook.explorer import LABELS

WIDE = widgets.Layout(width="27em")


class RuleDials:
    """A menu of the rules and the chosen rule's dials; `value` is (rule, params). Controls are marked in the menu."""

    def __init__(self, rule: str = "negmerge") -> None:
        menu = [(entry.title, name) for name, entry in RULES.items()]
        self.menu = widgets.Dropdown(options=menu, value=rule, description="rule", style=LABELS, layout=WIDE)
        self.dials = {
            (entry.name, parameter.name): dial(parameter) for entry in RULES.values() for parameter in entry.parameters
        }
        self._about = widgets.HTML()
        self._place = widgets.VBox()
        self.box = widgets.VBox([self.menu, self._about, self._place])
        self._handlers: list[Callable[[Any], None]] = []
        self.menu.observe(self._chosen, names="value")
        for control in self.dials.values():
            control.observe(self._notify, names="value")
        self._lay_out()

    @property
    def value(self) -> tuple[str, dict[str, Any]]:
        """The rule's name and the dials' present parameters."""
        rule = self.menu.value
        return rule, {name: control.value for (owner, name), control in self.dials.items() if owner == rule}

    @value.setter
    def value(self, chosen: tuple[str, dict[str, Any]]) -> None:
        rule, params = chosen
        handlers, self._handlers = self._handlers, []
        try:
            self.menu.value = rule
            for name, value in RULES[rule].resolve(params).items():
                self.dials[rule, name].value = value
        finally:
            self._handlers = handlers
        self._notify(None)

    def observe(self, handler: Callable[[Any], None], names: str = "value") -> None:
        """Call `handler` after each change."""
        self._handlers.append(handler)

    def _chosen(self, change: object) -> None:
        self._lay_out()
        self._notify(change)

    def _lay_out(self) -> None:
        entry = RULES[self.menu.value]
        paper = f' <a href="{entry.paper}" target="_blank">paper</a>' if entry.paper else ""
        about = escape(f"{entry.explains} {entry.caution}".strip())
        self._about.value = f'<p style="max-width:34em;line-height:1.4">{about}{paper}</p>'
        self._place.children = tuple(self.dials[entry.name, parameter.name] for parameter in entry.parameters)

    def _notify(self, change: object) -> None:
        for handler in self._handlers:
            handler(change)


def dial(parameter: Parameter) -> Any:
    """The control of one parameter: a slider within its range, a menu of choices, or a number."""
    common = {"description": parameter.title, "tooltip": parameter.explains, "style": LABELS, "layout": WIDE}
    if parameter.kind == "choice":
        return widgets.Dropdown(options=list(parameter.choices), value=parameter.default, **common)
    whole = parameter.kind == "int"
    if parameter.low is None or parameter.high is None:
        kind = widgets.IntText if whole else widgets.FloatText
        return kind(parameter.default, continuous_update=False, **common)
    step = parameter.step or (1 if whole else round((parameter.high - parameter.low) / 100, 6))
    low = parameter.low + step if parameter.low_open else parameter.low
    kind = widgets.IntSlider if whole else widgets.FloatSlider
    return kind(parameter.default, min=low, max=parameter.high, step=step, continuous_update=False, **common)
