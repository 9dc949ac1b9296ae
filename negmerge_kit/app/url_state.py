"""The page's address holds its state: pool, candidates, rule, dials, scale, floor, tab; checked like any input."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from negmerge_kit.app.pages.rule_dials import DIALS
from negmerge_kit.errors import NegmergeError
from negmerge_kit.merging.layout import BUFFERS
from negmerge_kit.merging.rules import RULES
from negmerge_kit.scoring.scale_search import KEEP

RULE = "negmerge"
TABS = ("unlearn", "compare", "agreement", "finetune", "audit")
LONGEST = 200_000
LOWEST_KEEP = 0.8

READ, READ_TAB = "() => [++negmerge.sent, negmerge.asked]", "() => negmerge.arrive()"
"""Send the address as the page was called to the handlers that restore from it, the first with a number."""


@dataclass
class Address:
    """What an address asks for; what it leaves out, or says wrongly, is as a newcomer finds it."""

    pool: str
    candidates: list[str] | None = None
    rule: str = RULE
    params: dict[str, Any] = field(default_factory=dict)
    scale: float = 0.0
    keep: float = KEEP
    buffers: str = BUFFERS[0]
    tab: str = TABS[0]
    problems: list[str] = field(default_factory=list)

    def dials(self) -> list[Any]:
        """Every dial's value: the rule's own as asked for, all others at their defaults."""
        return [
            self.params.get(name, _default(owner, name)) if owner == self.rule else _default(owner, name)
            for owner, name in DIALS
        ]


def restored(
    query: object,
    pools: Sequence[str],
    ids_of: Callable[[str], Sequence[str]],
    largest: float,
    tabs: Sequence[str] = TABS,
    buffers_of: Callable[[str], Sequence[str]] = lambda pool: BUFFERS[:1],
) -> Address:
    """The state that a query string asks for; every part that cannot be is left out and named.

    Args:
        query: what comes after the address, with or without its question mark.
        pools: ids of those that are served; the first is shown where the address names none.
        ids_of: the candidates of a pool.
        largest: the end of the scale's slider.
        buffers_of: the policies for running statistics that a pool's model allows.

    >>> found = restored("?rule=ties&density=0.3&scale=0.4&tab=audit&keep=7", ["p"], lambda pool: ["a"], 1.5)
    >>> found.rule, found.params, found.scale, found.tab, found.keep, found.problems
    ('ties', {'density': 0.3}, 0.4, 'audit', 0.95, ["keep '7'"])
    """
    given: dict[str, str] = {}
    if isinstance(query, str) and len(query) <= LONGEST:
        pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True, errors="replace")
        given = {name: text for name, text in pairs if text or name == "candidates"}  # none ticked is an answer, too
    found = Address(pools[0])

    def among(name: str, there: Collection[str], default: str) -> str:
        if (text := given.get(name, default)) in there:
            return text
        found.problems.append(f"{name} {_short(text)}")
        return default

    def number(name: str, low: float, high: float, default: float) -> float:
        if (text := given.get(name)) is None:
            return default
        with suppress(ValueError):
            if low <= (value := float(text)) <= high:  # a NaN is not between the two either
                return value
        found.problems.append(f"{name} {_short(text)}")
        return default

    found.pool = among("pool", pools, found.pool)
    found.rule = among("rule", RULES, found.rule)
    for parameter in RULES[found.rule].parameters:
        if (text := given.get(parameter.name)) is not None:
            try:
                found.params[parameter.name] = parameter.check(text)
            except NegmergeError:
                found.problems.append(f"{parameter.name} {_short(text)}")
    found.scale = number("scale", 0.0, largest, found.scale)
    found.keep = number("keep", LOWEST_KEEP, 1.0, found.keep)
    if "buffers" in given:  # only then the pool must be opened
        found.buffers = among("buffers", buffers_of(found.pool), found.buffers)
    found.tab = among("tab", tabs, found.tab)
    if (named := given.get("candidates")) is not None:
        wanted, known = named.split(",") if named else [], ids_of(found.pool)
        found.candidates = [id for id in known if id in set(wanted)]
        if lost := len(set(wanted) - set(known)):
            found.problems.append(f"{lost} candidate{'s' if lost > 1 else ''} that this pool does not hold")
        if wanted and not found.candidates:
            found.candidates = None
    return found


def remember(pool: str) -> str:
    """JavaScript that writes [pool, candidates, rule, scale, keep, buffers, dials...] into the address.

    `pool` is the first one, which is not written.
    """
    dials = [[owner, name, _default(owner, name)] for owner, name in DIALS]
    known = json.dumps({"pool": pool, "rule": RULE, "keep": KEEP, "buffers": BUFFERS[0], "dials": dials})
    return f"(...values) => {{ negmerge.remember({known}, values); return []; }}"


def remember_tab(tab: str) -> str:
    """JavaScript that writes the tab into the address."""
    return f"() => {{ negmerge.rememberTab({json.dumps(tab)}, {json.dumps(TABS[0])}); return []; }}"


def _default(rule: str, name: str) -> Any:
    return next(parameter.default for parameter in RULES[rule].parameters if parameter.name == name)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
