"""How far a piece of work is, told to whoever waits for it; who listens may end it by an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Tell: TypeAlias = Callable[[str, float | None], None]
"""Told what is done now and which share of all is behind, None where nobody can say."""


def unheard(text: str, share: float | None) -> None:
    """For whoever waits without asking how far it is.

    >>> unheard("Counting", 0.5)
    """


def rule_of(title: str, done: int, total: int) -> str:
    """Which rule is under way, of how many; the last one says so.

    >>> rule_of("TIES-Merging", 0, 2), rule_of("MagMax", 1, 2)
    ('TIES-Merging, 1 of 2', 'MagMax, last rule')
    """
    return f"{title}, last rule" if done + 1 == total else f"{title}, {done + 1} of {total}"
