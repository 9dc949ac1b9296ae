"""A worker process: the initializer that pins it to its cores and GPU, and one job after another."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.sweeps.malloc import keep_freed_memory

if TYPE_CHECKING:
    from negmerge_kit.progress import Progress
    from negmerge_kit.sweeps.job import Job, Outcome

GRACE = 2.0
"""Seconds that a job gets for its tidy-up once the driver has hung up; a process that has to stop has four in all."""
SAY_EVERY = 0.2
"""Seconds between two reports of one job."""


@dataclass(frozen=True)
class Place:
    """Resources of a worker: its share of the cores, and the one GPU it sees."""

    threads: int
    gpu: str | None = None

    def settle(self) -> None:
        """Apply the settings to this process, before torch loads, because it reads them then."""
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu


class NowAndThen:
    """Filter of a job's reports: passes one every few seconds, and the first of each part of the job."""

    def __init__(self, seconds: float = SAY_EVERY) -> None:
        self._seconds, self._said, self._doing = seconds, 0.0, ""

    def __call__(self, progress: Progress) -> bool:
        """Whether this report is passed on."""
        now = time.monotonic()
        if progress.message == self._doing and now - self._said < self._seconds:
            return False
        self._said, self._doing = now, progress.message
        return True


_driver: Connection
_stopped, _idle = threading.Event(), threading.Event()


def begin(driver: Connection, place: Place) -> None:
    """Initialise a worker process: take the place, say that it is there, and end once the driver hangs up or dies."""
    global _driver
    _driver = driver
    _idle.set()
    place.settle()
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it hangs up
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    driver.send(None)  # from here on a loss is a job's loss


def run_job(job: Job, digests: Mapping[Path, str | None]) -> Outcome:
    """Run a job in a worker, reporting now and then through its pipe."""
    from negmerge_kit.sweeps.job import SweepStopped, attempt

    chosen = NowAndThen()

    def report(progress: Progress) -> None:
        if _stopped.is_set():
            raise SweepStopped
        if chosen(progress):
            try:
                _driver.send(progress)
            except OSError:
                raise SweepStopped from None

    _idle.clear()
    try:
        return attempt(job, report, digests)
    finally:
        _idle.set()


def _end_with_the_driver() -> None:
    try:
        _driver.recv()  # the driver never speaks: this returns when its end is closed, by itself or by its death
    except (EOFError, OSError):
        _stopped.set()
    _idle.wait(GRACE)
    os._exit(1)  # the interpreter's own end takes as long as a job's tidy-up
