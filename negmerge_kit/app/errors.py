"""The kit's errors as gradio's: one sentence for the caller, no traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import gradio as gr

from negmerge_kit.app.templates import brief
from negmerge_kit.errors import NegmergeError


def as_gradio_error(function: Callable[..., Any]) -> Callable[..., Any]:
    """Convert `NegmergeError` to `gr.Error`, so the page shows the message without a traceback."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _converted():
            return function(*args, **kwargs)

    return call


def as_gradio_errors(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`as_gradio_error` for handlers that answer several times."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with _converted():
            yield from function(*args, **kwargs)

    return call


@contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except NegmergeError as error:
        raise gr.Error(brief(str(error)), print_exception=False) from error
