"""Duration of a verb as its user waits for it: from the start of its process, imports included."""

from __future__ import annotations

from time import monotonic

_began = monotonic()  # this module is imported before anything that takes time


def begin() -> None:
    """Restart the clock now: the process began for something else than this verb."""
    global _began
    _began = monotonic()


def elapsed() -> float:
    """Seconds since the verb's process began."""
    return monotonic() - _began
