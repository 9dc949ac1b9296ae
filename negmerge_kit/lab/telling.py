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
