"""The kit's errors as gradio's: one sentence for the caller, no traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError
from negmerge_kit.web.fragments import brief


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with errors of the kit as messages on the page, or in a script's answer."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except NegmergeError as error:
            raise gr.Error(brief(str(error)), print_exception=False) from error

    return call


def told_on_the_way(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`told` for handlers that answer several times."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except NegmergeError as error:
            raise gr.Error(brief(str(error)), print_exception=False) from error

    return call
