"""Requests that the page numbers as it sends them, and answers that a later choice makes void."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from negmerge_kit.errors import NegmergeError
from negmerge_kit.web.visitors import Visitors


def numbers(values: int) -> str:
    """JavaScript that puts the request's number before so many values."""
    return f"(number, ...values) => [++negmerge.sent, ...values.slice(0, {values})]"


def session(request: gr.Request) -> str:
    """Which page of which visitor asks."""
    return str(request.session_hash)


def unless_overtaken(visitors: Visitors, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function after a request's number, its answer left out where a later choice of that page has arrived."""

    def call(request: gr.Request, number: Any, *values: Any) -> Any:
        answer = function(*values)
        return gr.skip() if visitors.overtaken(session(request), number, by_choice=True) else answer

    return call


class Standing(NamedTuple):
    """What a page of each visitor's is about, so that what was worked out for something else is not shown on it.

    Attributes:
        of: says what a page with these values is about.
        visitors: of this page; None where nothing valid stands.
    """

    of: Callable[..., object]
    visitors: Visitors

    def turn(self, request: gr.Request, number: Any, *values: Any) -> tuple[bool, Callable[[], bool]]:
        """Take in what the page is about now: (whether it was before, what tells later whether it still is)."""
        visitor = session(request)
        try:
            what = self.of(*values)
        except NegmergeError:
            what = None
        before = self.visitors.stands_at(visitor, what)
        self.visitors.turned(visitor, what, number)
        return before, lambda: self.visitors.stands_at(visitor, what)
