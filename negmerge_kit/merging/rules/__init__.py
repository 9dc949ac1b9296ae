"""Every merge rule, one file a paper; menus, CLI flags and docs are drawn from these entries."""

from __future__ import annotations

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.rule import Rule
from negmerge_kit.merging.rules.breadcrumbs import BREADCRUMBS
from negmerge_kit.merging.rules.consensus_mask import CONSENSUS_MASK
from negmerge_kit.merging.rules.controls import CONFLICT, RANDOM_MASK, TOP_MAGNITUDE
from negmerge_kit.merging.rules.dare import DARE
from negmerge_kit.merging.rules.emr import EMR
from negmerge_kit.merging.rules.magmax import MAGMAX
from negmerge_kit.merging.rules.median import MEDIAN
from negmerge_kit.merging.rules.negmerge import NEGMERGE
from negmerge_kit.merging.rules.normalised import NORMALISED
from negmerge_kit.merging.rules.task_arithmetic import TASK_ARITHMETIC
from negmerge_kit.merging.rules.ties import TIES
from negmerge_kit.merging.rules.uniform import UNIFORM

RULES: dict[str, Rule] = {
    "negmerge": NEGMERGE,
    "uniform": UNIFORM,
    "task-arithmetic": TASK_ARITHMETIC,
    "ties": TIES,
    "magmax": MAGMAX,
    "dare": DARE,
    "breadcrumbs": BREADCRUMBS,
    "consensus-mask": CONSENSUS_MASK,
    "emr": EMR,
    "conflict": CONFLICT,
    "median": MEDIAN,
    "normalised": NORMALISED,
    "random-mask": RANDOM_MASK,
    "top-magnitude": TOP_MAGNITUDE,
}


def find_rule(name: str) -> Rule:
    """The rule of that name; ParameterError lists the names when there is none.

    >>> find_rule("uniform").title
    'Uniform average'
    """
    if name not in RULES:
        raise ParameterError(f"there is no rule {name!r}: choose one of {', '.join(RULES)}.")
    return RULES[name]


__all__ = ["RULES", "find_rule"]
