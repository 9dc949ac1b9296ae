"""Every merge rule, one file a paper; menus, CLI flags and docs are drawn from these entries."""

from __future__ import annotations

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.rule import Rule
from negmerge_kit.merging.rules.negmerge import NEGMERGE
from negmerge_kit.merging.rules.uniform import UNIFORM

RULES: dict[str, Rule] = {
    "negmerge": NEGMERGE,
    "uniform": UNIFORM,
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
