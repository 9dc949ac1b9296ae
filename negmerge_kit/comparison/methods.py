"""Methods of a comparison: merge rules with their parameters, searches and baselines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from negmerge_kit.baselines import BASELINES
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.merging.rules import RULES, find_rule

SEARCHES = {"single": "Best single candidate", "greedy": "Greedy selection"}
"""Methods that look for candidates as well as for a scale, and pay for it."""

BASE, RETRAIN, RETRAIN_AGAIN = "base", "retrain", "retrain-again"
"""The unchanged base, the first row of a classifier's table; the reference that all are compared with; and the
same from another seed: its gap to the other is the noise floor of all gaps."""

UNLEARNERS = (RETRAIN, RETRAIN_AGAIN, *(name for name in BASELINES if name != RETRAIN))
"""The baselines of a classifier's table, in its order."""

ALL = (
    "uniform",
    "negmerge",
    "negmerge:agreement=0.75",
    "negmerge:average=median",
    "negmerge:average=min",
    "negmerge:average=max",
    *(name for name in RULES if name not in ("negmerge", "uniform", "task-arithmetic")),
)
"""Every rule, and NegMerge at its dials; one candidate alone is the `single` search."""


@dataclass(frozen=True)
class Method:
    """One row of a comparison.

    Attributes:
        name: how it is asked for, e.g. `negmerge:agreement=0.75`, `greedy` or `salun`.
        rule: a rule of RULES, a search, a baseline of UNLEARNERS, or `base`.
        params: the parameters that were given; the rule fills in the rest.
    """

    name: str
    rule: str
    params: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """The row's name for readers.

        >>> find_method("negmerge:agreement=0.75").title
        'NegMerge, agreement 0.75'
        """
        if self.rule == BASE:
            return "Base"
        if self.rule == RETRAIN_AGAIN:
            return f"{BASELINES[RETRAIN].title}, another seed"
        if self.is_baseline:
            return BASELINES[self.rule].title
        title = SEARCHES[self.rule] if self.rule in SEARCHES else RULES[self.rule].title.partition(" (")[0]
        dials = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in self.params]
        return ", ".join([title, *dials])

    @property
    def settings(self) -> tuple[dict[str, Any], ...]:
        """What a row of a rule tries on validation, as parameters: several where a dial has `tries` and none is given.

        >>> [tried["lam"] for tried in find_method("consensus-mask").settings]
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
        >>> find_method("consensus-mask:lam=0.4").settings, find_method("ties").settings
        (({'lam': 0.4},), ({},))
        """
        given = dict(self.params)
        open_dials = [item for item in self._dials if item.tries and item.name not in given]
        values = product(*(item.tries for item in open_dials))
        return tuple(given | {item.name: v for item, v in zip(open_dials, row, strict=True)} for row in values)

    @property
    def note(self) -> str:
        """What to know before believing the row: what was searched for it, and what its defaults were made for.

        >>> find_method("ties").note
        'Density 0.2 was chosen for adding different tasks, not for negating one.'
        """
        given = dict(self.params)
        searched = [
            f"{item.title} ({item.name}) is the best on validation of {', '.join(f'{v:g}' for v in item.tries)}, at "
            "this row's cost."
            for item in self._dials
            if item.tries and item.name not in given
        ]
        return " ".join([*searched, RULES[self.rule].caution if self.rule in RULES else ""]).strip()

    @property
    def _dials(self) -> tuple[Parameter, ...]:
        return RULES[self.rule].parameters if self.rule in RULES else ()

    @property
    def is_baseline(self) -> bool:
        """Whether it unlearns the network itself, or is the base: it merges nothing and has no scale."""
        return self.rule in (BASE, RETRAIN_AGAIN) or self.rule in BASELINES

    @property
    def control(self) -> bool:
        """Whether the row is there to be beaten."""
        return self.rule in RULES and RULES[self.rule].control


def find_method(text: str) -> Method:
    """`RULE` or `RULE:NAME=VALUE:NAME=VALUE`, the search `single` or `greedy`, or a baseline of BASELINES.

    Raises:
        ParameterError: for a rule or parameter that does not exist, or a value out of range.

    >>> find_method("ties:density=0.1").params
    (('density', 0.1),)
    """
    rule, *dials = text.strip().split(":")
    plain = rule in SEARCHES or rule in BASELINES or rule in (BASE, RETRAIN_AGAIN)
    if plain and not dials:
        return Method(rule, rule)
    if plain or rule not in RULES:
        raise ParameterError(
            f"there is no rule {text.strip()!r}: choose among {', '.join([*SEARCHES, *RULES])}, "
            f"with dials as in negmerge:agreement=0.75, or, on a classifier's pool, {', '.join(UNLEARNERS)}."
        )
    given = {name: value for name, _, value in (dial.partition("=") for dial in dials)}
    resolved = find_rule(rule).resolve(given)
    return Method(text.strip(), rule, tuple((name, resolved[name]) for name in given))


def find_methods(rules: str = "all", searches: str = "all", *, classifier: bool = False) -> tuple[Method, ...]:
    """The rows of a comparison: searches first; `all` and `none` are understood, repeats are dropped.

    Args:
        searches: searches and, where the pool is a standard `classifier`'s, baselines: its rows begin with the base.

    Raises:
        ParameterError: for an unknown name, a baseline where there is no classifier, or if nothing is left to compare.

    >>> [method.name for method in find_methods("negmerge,uniform", "single")]
    ['single', 'negmerge', 'uniform']
    """
    every = (*UNLEARNERS, *SEARCHES) if classifier else tuple(SEARCHES)
    names = _names(searches, every) + _names(rules, ALL)
    methods = tuple(find_method(name) for name in dict.fromkeys(names))
    if not classifier and (wrong := next((method for method in methods if method.is_baseline), None)):
        raise ParameterError(
            f"{wrong.name} unlearns a standard classifier, and this pool's model is none: name "
            f"{' or '.join(SEARCHES)}, or compare a pool such as tiny-classifier."
        )
    if not methods:
        raise ParameterError("nothing to compare: name at least one rule or search.")
    return (find_method(BASE), *methods) if classifier else methods


def _names(text: str, every: tuple[str, ...]) -> list[str]:
    if text.strip() in ("all", "none", ""):
        return list(every) if text.strip() == "all" else []
    return [name.strip() for name in text.split(",") if name.strip()]
