"""Told to stop: SIGTERM ends a verb as Ctrl-C does, with the same tidy-up and one sentence."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn

STOPPED = "stopped; what was finished is kept."


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Raise what Ctrl-C raises, and remember by which signal."""
    raise KeyboardInterrupt(number)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """130 after Ctrl-C, 143 after SIGTERM, as shells count.

    >>> exit_code(KeyboardInterrupt()), exit_code(KeyboardInterrupt(signal.SIGTERM))
    (130, 143)
    """
    return 128 + int(interrupt.args[0] if interrupt.args else signal.SIGINT)


@contextmanager
def heeding(*numbers: int, by: Callable[[int, FrameType | None], NoReturn] = stop) -> Iterator[None]:
    """Answer these signals in this process while the block runs; only a main thread can, another leaves them alone."""
    ours = os.getpid()

    def answer(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:
            by(number, frame)
        signal.signal(number, signal.SIG_DFL)  # a forked loader's worker has nothing to tidy up
        os.kill(os.getpid(), number)

    with ExitStack() as restored:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                before = signal.signal(number, answer)
                # What was not Python's own handler cannot be put back.
                restored.callback(signal.signal, number, signal.SIG_DFL if before is None else before)
        yield
