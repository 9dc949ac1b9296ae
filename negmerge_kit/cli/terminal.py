"""What is printed moves no cursor and sets no title, whatever a stranger's file called its tensors and classes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

# Controls but tab and line feed, marks that turn the direction of writing, and halves of characters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""The text with control characters written out; tabs and line ends stay.

    >>> escaped("a\x1b[2Jb\r\n")
    'a\\x1b[2Jb\\x0d\n'
    """
    return _CONTROLS.sub(
        lambda found: rf"\x{ord(found[0]):02x}" if ord(found[0]) < 256 else rf"\u{ord(found[0]):04x}", text
    )


class Plain:
    """A stream that escapes what is written; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; a carriage return at its beginning is a progress bar's."""
        start = text[:1] if text[:1] == "\r" else ""
        return self._stream.write(start + escaped(text[len(start) :]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def raw(stream: TextIO) -> TextIO:
    """The stream itself, for what moves the cursor; escape the text that goes with it."""
    return stream._stream if isinstance(stream, Plain) else stream


@contextmanager
def plain_terminal() -> Iterator[None]:
    """Escape all that is printed while the block runs: tables, errors, logs, warnings and tracebacks."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(cast(TextIO, Plain(sys.stdout))))
        stack.enter_context(redirect_stderr(cast(TextIO, Plain(sys.stderr))))
        yield
