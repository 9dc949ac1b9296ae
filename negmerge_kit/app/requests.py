"""Requests that the page numbers as it sends them, and which of their answers a later one makes void.

Requests of one page can overtake each other: a first merge takes a second, the move after it a tenth. An answer that a
later request has overtaken is left out, and work for a choice that a visitor has left ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from negmerge_kit.app.recent import Recent
from negmerge_kit.errors import NegmergeError

MOST = 512
LAST = 1 << 53
"""The largest number that a page's script counts to."""


def numbers(values: int) -> str:
    """JavaScript that puts the request's number before so many values."""
    return f"(number, ...values) => [++negmerge.sent, ...values.slice(0, {values})]"


def session(request: gr.Request) -> str:
    """Which page of which visitor asks."""
    return str(request.session_hash)


class _Anything:
    """What a visitor of whom nothing is known may want."""


@dataclass
class _Visitor:
    wants: object = _Anything
    chose: int = 0
    asked: int = 0


class RequestTracker:
    """The latest request and choice of each visitor, over all pools; the longest silent are forgotten first.

    >>> tracker = RequestTracker()
    >>> tracker.chose("me", "a")
    >>> tracker.is_at("me", "a"), tracker.is_at("me", "b"), tracker.is_at("unknown", "b")
    (True, False, True)
    """

    def __init__(self) -> None:
        self._known: Recent[str, _Visitor] = Recent(MOST)
        self._turn = threading.Lock()

    def asked(self, visitor: str, number: object, *, chooses: bool) -> None:
        """Take in that the visitor's page sent a request of this number, for another choice or within the one it had.

        >>> tracker = RequestTracker()
        >>> tracker.asked("me", 2, chooses=True)
        >>> tracker.overtaken("me", 1), tracker.overtaken("me", 2), tracker.overtaken("me", 1, by_choice=True)
        (True, False, True)
        """
        with self._turn:
            known = self._of(visitor)
            known.asked = max(known.asked, _counted(number))
            if chooses:
                known.chose = max(known.chose, _counted(number))

    def overtaken(self, visitor: str, number: object, *, by_choice: bool = False) -> bool:
        """Whether a later request of that page, or a later choice, has arrived; one without a number never is."""
        with self._turn:
            known = self._of(visitor)
            return 0 < _counted(number) < (known.chose if by_choice else known.asked)

    def chose(self, visitor: str, what: object, number: object = 0) -> None:
        """Take in that this visitor now wants this, unless a later choice has arrived; None is nothing at all."""
        with self._turn:
            known = self._of(visitor)
            if not 0 < _counted(number) < known.chose:
                known.wants = what

    def turned(self, visitor: str, what: object, number: object) -> None:
        """Take in a choice where it is the request of this number that makes it: `asked` and `chose` in one.

        >>> tracker = RequestTracker()
        >>> tracker.turned("me", "b", 2)
        >>> tracker.turned("me", "a", 1)
        >>> tracker.is_at("me", "b"), tracker.overtaken("me", 1)
        (True, True)
        """
        self.asked(visitor, number, chooses=True)
        self.chose(visitor, what, number)

    def is_at(self, visitor: str, what: object) -> bool:
        """Whether that is what this visitor wants, as far as anybody knows."""
        with self._turn:
            wants = self._of(visitor).wants
            return wants is _Anything or wants == what

    def unless_overtaken(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function after a request's number, its answer left out where a later choice of that page has arrived."""

        def call(request: gr.Request, number: Any, *values: Any) -> Any:
            answer = function(*values)
            return gr.skip() if self.overtaken(session(request), number, by_choice=True) else answer

        return call

    def _of(self, visitor: str) -> _Visitor:
        return self._known.setdefault(visitor, _Visitor)


class PageSubject(NamedTuple):
    """What a page of each visitor's is about, so that what was worked out for something else is not shown on it.

    Attributes:
        of: says what a page with these values is about.
        tracker: of this page; None where nothing valid is chosen.
    """

    of: Callable[..., object]
    tracker: RequestTracker

    def turn(self, request: gr.Request, number: Any, *values: Any) -> tuple[bool, Callable[[], bool]]:
        """Take in what the page is about now: (whether it was before, what says later if it still is)."""
        visitor = session(request)
        try:
            what = self.of(*values)
        except NegmergeError:
            what = None
        before = self.tracker.is_at(visitor, what)
        self.tracker.turned(visitor, what, number)
        return before, lambda: self.tracker.is_at(visitor, what)


def _counted(number: object) -> int:
    """The number of a request; 0 for what is none, which scripts may send."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= LAST:
        return 0
    return int(number)
