"""What runs in a worker process: jobs from a pipe, one at a time, on the place that it is pinned to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from negmerge_kit.sweeps.memory import keep_freed_memory

if TYPE_CHECKING:
    from negmerge_kit.progress import Progress
    from negmerge_kit.sweeps.sentinel import Sentinel

SAY_EVERY = 0.2
"""Seconds between two reports of one job."""


@dataclass(frozen=True)
class Place:
    """Where a worker computes: its share of the cores, and the one GPU it sees."""

    threads: int
    gpu: str | None = None

    def settle(self) -> None:
        """Take the place; torch reads these when it loads, so this comes first."""
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu


class NowAndThen:
    """Which reports of a job are passed on: one every few seconds, and the first of each part of the job."""

    def __init__(self, seconds: float = SAY_EVERY) -> None:
        self._seconds, self._said, self._doing = seconds, 0.0, ""

    def __call__(self, progress: Progress) -> bool:
        """Whether this one is passed on."""
        now = time.monotonic()
        if progress.message == self._doing and now - self._said < self._seconds:
            return False
        self._said, self._doing = now, progress.message
        return True


def serve(driver: Connection, place: Place, sentinels: Sequence[Sentinel]) -> None:
    """Answer every job with its outcome until the driver hangs up; end at once when it dies."""
    place.settle()
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it tells its workers
    threading.Thread(target=_end_with_the_driver, daemon=True).start()

    from negmerge_kit.sweeps.protocol import SweepStopped, attempt

    chosen = NowAndThen()

    def report(progress: Progress) -> None:
        if driver.poll():  # while a job runs, the driver speaks only to hang up
            raise SweepStopped
        if chosen(progress):
            driver.send(progress)

    try:
        driver.send(None)  # ready: from here on a loss is a job's loss
        while True:
            job, chosen = driver.recv(), NowAndThen()
            driver.send(attempt(job, report, sentinels))
    except (EOFError, OSError, SweepStopped):
        return


def _end_with_the_driver() -> None:
    driver = parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)
