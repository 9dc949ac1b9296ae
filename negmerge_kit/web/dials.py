"""One dial for each parameter of each rule, drawn from RULES: a new rule brings its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.rule import Parameter, Rule
from negmerge_kit.merging.rules import RULES

DIALS: tuple[tuple[str, str], ...] = tuple(
    (rule.name, parameter.name) for rule in RULES.values() for parameter in rule.parameters
)
"""(rule, parameter) of each dial, in the order in which the page sends their values."""


def dial(rule: Rule, parameter: Parameter) -> gr.components.FormComponent:
    """The control for one parameter: a slider within its range, or a choice, with its sentence and the rule's paper."""
    info = f"{parameter.explains} [Paper]({rule.paper})" if rule.paper else parameter.explains
    told = {"label": parameter.title, "info": info, "value": parameter.default, "interactive": True}
    if parameter.kind == "choice":
        choices = list(parameter.choices)
        return gr.Radio(choices, elem_classes="nm-choice", **told) if len(choices) < 6 else gr.Dropdown(choices, **told)
    if parameter.low is None or parameter.high is None:
        return gr.Number(precision=0 if parameter.kind == "int" else None, **told)
    step = parameter.step or (1 if parameter.kind == "int" else round((parameter.high - parameter.low) / 100, 6))
    low = parameter.low + step if parameter.low_open else parameter.low
    return gr.Slider(low, parameter.high, step=step, buttons=[], **told)


def params_of(rule: str, values: Sequence[Any]) -> dict[str, Any]:
    """The rule's own parameters out of the values of all dials.

    Raises:
        ParameterError: if a value is missing or too many were sent.
    """
    if len(values) != len(DIALS):
        raise ParameterError(f"{len(values)} dial values came for {len(DIALS)} dials: reload the page.")
    return {parameter: value for (owner, parameter), value in zip(DIALS, values, strict=True) if owner == rule}


def explanation(rule: str) -> str:
    """The rule's sentence with a link to its paper, as Markdown; nothing for a rule that there is not."""
    entry = RULES.get(rule)
    if entry is None:
        return ""
    link = f" [paper]({entry.paper})" if entry.paper else ""
    return f"{entry.explains}{link}"
