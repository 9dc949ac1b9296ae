"""Fair lock for a shared model: threads in order of arrival, background work after foreground work."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

PATIENCE = 3
"""Foreground turns after which the background gets one, so that a job never starves."""

_mine = threading.local()


@contextmanager
def background_priority() -> Iterator[None]:
    """Within the block this thread waits for foreground threads, and yields to them where it is asked to."""
    before = getattr(_mine, "background", False)
    _mine.background = True
    try:
        yield
    finally:
        _mine.background = before


@dataclass(eq=False)
class _Waiter:
    thread: int = field(default_factory=threading.get_ident)
    called: threading.Event = field(default_factory=threading.Event)


class FairLock:
    """Re-entrant lock with first-come order: `threading.RLock` may let one thread acquire it again while others wait.

    A thread inside `background_priority()` waits until no foreground thread does, or until `PATIENCE` of them had
    their turn, and releases the lock to them in `yield_to_foreground()`.

    >>> turn = FairLock()
    >>> with turn, turn:
    ...     turn.yield_to_foreground()
    False
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._soon: deque[_Waiter] = deque()
        self._later: deque[_Waiter] = deque()
        self._owner: int | None = None
        self._depth = 0
        self._foreground_turns = 0

    def __enter__(self) -> FairLock:
        self._take(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            with self._guard:
                self._call_next()

    def yield_to_foreground(self) -> bool:
        """Yield to all waiting foreground threads; return whether there were any, so that changes can be restored.

        Does nothing unless this thread has the turn and is in the background.
        """
        with self._guard:
            mine = self._owner == threading.get_ident() and getattr(_mine, "background", False)
            if not (mine and self._soon):
                return False
            depth, self._depth = self._depth, 0
            self._call_next()
        self._take(depth)
        return True

    def _take(self, depth: int) -> None:
        me = _Waiter()
        with self._guard:
            if self._owner == me.thread:
                self._depth += depth
                return
            if self._owner is None:
                self._owner, self._depth = me.thread, depth
                return
            line = self._later if getattr(_mine, "background", False) else self._soon
            line.append(me)
        try:
            me.called.wait()
        except BaseException:  # Ctrl-C while waiting: the place in line goes, or the turn that has come meanwhile
            with self._guard:
                if me.called.is_set():
                    self._call_next()
                else:
                    line.remove(me)
            raise
        self._depth = depth

    def _call_next(self) -> None:
        """Give the lock to the next waiter, which owns it from now on, so that no other thread can take it."""
        late = self._later and (not self._soon or self._foreground_turns >= PATIENCE)
        line = self._later if late else self._soon
        self._foreground_turns = 0 if late else self._foreground_turns + 1
        self._owner = line[0].thread if line else None
        if line:
            line.popleft().called.set()
