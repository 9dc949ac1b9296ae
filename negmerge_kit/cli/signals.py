"""Stopping a verb: SIGTERM ends it as Ctrl-C does, with the same tidy-up and one sentence, within five seconds."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import NoReturn

STOPPED = "stopped; what was finished is kept."
GRACE = 4.0
"""Seconds that a process has for its tidy-up, from the first signal on; after that it ends wherever it is."""


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Raise what Ctrl-C raises, and remember by which signal."""
    raise KeyboardInterrupt(number)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Exit code as shells count it: 130 after Ctrl-C, 143 after SIGTERM.

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


class Ending:
    """Ending of this process on a signal: one sentence, in time, and without finalizing the interpreter.

    A thread that is within torch when the interpreter goes down would abort the process, and threads that compute
    would be waited for.

    Args:
        verb: what the sentence names.
    """

    def __init__(self, verb: str) -> None:
        self._verb, self._code, self._said = verb, 0, threading.Lock()

    def watch(self) -> None:
        """Start: from now on SIGINT and SIGTERM end the process within `GRACE`, whatever it is doing."""
        atexit.register(self._leave)  # before all others, so that it runs after them
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        # Written to by the signal itself: Python's own handlers wait until the main thread returns from what it calls,
        # which may be a whole backward pass.
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        # What ends a forked loader's worker does not end this process.
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=self._await, args=(receiver, sender), name="ending", daemon=True).start()

    def say(self, code: int) -> int:
        """Print the sentence, once; returns `code`."""
        if self._said.acquire(blocking=False):
            self._code = code
            # A terminal shows ^C in the line that the cursor is in.
            print(f"{chr(10) if sys.stderr.isatty() else ''}negmerge {self._verb}: {STOPPED}", file=sys.stderr)
        return code

    def _await(self, receiver: socket.socket, sender: socket.socket) -> None:
        with sender:  # held as long as signals are written into it
            number = 0
            while number not in (signal.SIGINT, signal.SIGTERM):
                number = receiver.recv(1)[0]
            time.sleep(GRACE)
            self.say(128 + number)
            self._leave()

    def _leave(self) -> None:
        if self._code:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(self._code)
