"""One dial for each parameter of each rule, drawn from RULES: a new rule brings its own; and one for buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.layout import BUFFERS
from negmerge_kit.merging.rule import Parameter, Rule
from negmerge_kit.merging.rules import RULES
from negmerge_kit.unlearning.live_model import RECALIBRATED_ON

DIALS: tuple[tuple[str, str], ...] = tuple(
    (rule.name, parameter.name) for rule in RULES.values() for parameter in rule.parameters
)
"""(rule, parameter) of each dial, in the order in which the page sends their values."""


def dial(rule: Rule, parameter: Parameter) -> gr.components.FormComponent:
    """The control for one parameter: a slider within its range, or a choice, with its sentence and the rule's paper."""
    info = f"{parameter.explains} [Paper]({rule.paper})" if rule.paper else parameter.explains
    shared = {"label": parameter.title, "info": info, "value": parameter.default, "interactive": True}
    if parameter.kind == "choice":
        choices = list(parameter.choices)
        return (
            gr.Radio(choices, elem_classes="nm-choice", **shared)
            if len(choices) < 6
            else gr.Dropdown(choices, **shared)
        )
    if parameter.low is None or parameter.high is None:
        return gr.Number(precision=0 if parameter.kind == "int" else None, **shared)
    step = parameter.step or (1 if parameter.kind == "int" else round((parameter.high - parameter.low) / 100, 6))
    low = parameter.low + step if parameter.low_open else parameter.low
    return gr.Slider(low, parameter.high, step=step, buttons=[], **shared)


def params_of(rule: str, values: Sequence[Any]) -> dict[str, Any]:
    """The rule's own parameters out of the values of all dials.

    Raises:
        ParameterError: if a value is missing or too many were sent.
    """
    if len(values) != len(DIALS) + 1:
        raise ParameterError(f"{len(values)} dial values came for {len(DIALS) + 1} dials: reload the page.")
    return {parameter: value for (owner, parameter), value in zip(DIALS, values[:-1], strict=True) if owner == rule}


STATISTICS = {
    "keep": "the base's",
    "merge": "merged as the weights are",
    "recalibrate": f"re-estimated on up to {RECALIBRATED_ON:,} remaining training images at every scale",
}
"""Policy for running statistics to where the means and variances come from."""


def statistics_dial(policies: Sequence[str], value: str) -> gr.Radio:
    """The dial for running statistics, which comes after all others; seen only where there is something to choose."""
    *others, last = (STATISTICS[policy] for policy in policies)
    said = f"{', '.join(others)} or {last}" if others else last
    return gr.Radio(
        list(policies),
        value=value,
        label="Running statistics",
        visible=len(policies) > 1,
        interactive=True,
        info=f"Means and variances of batch normalisation: {said}.",
        elem_id="nm-buffers",
        elem_classes="nm-choice",
    )


def buffers_of(value: object) -> str:
    """The policy for running statistics that a page or a script sent.

    Raises:
        ParameterError: for anything else.
    """
    if not isinstance(value, str) or value not in BUFFERS:
        raise ParameterError(f"buffers is {str(value)[:40]!r}: choose one of {', '.join(BUFFERS)}.")
    return value


def explanation(rule: str) -> str:
    """The rule's sentence with a link to its paper, as Markdown; nothing for a rule that there is not."""
    entry = RULES.get(rule) if isinstance(rule, str) else None  # a hidden handler is callable with anything
    if entry is None:
        return ""
    link = f" [paper]({entry.paper})" if entry.paper else ""
    return f"{entry.explains} {entry.caution}".strip() + link
