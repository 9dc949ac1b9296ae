"""Jobs in processes of this machine: one worker a GPU, or several CPU workers that divide the cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.sweeps.protocol import TRIES, Job, OnStep, Outcome, Progress, lost
from negmerge_kit.sweeps.sentinel import Sentinel
from negmerge_kit.sweeps.worker import Place, serve
from negmerge_kit.vision.data.decoded_cache import cores

GRACE = 2.0
"""Seconds that workers get to end by themselves; a process that is told to stop has four in all."""


@dataclass(frozen=True)
class Processes:
    """An executor: worker processes on this machine, each pinned to its place.

    Args:
        workers: how many; by default one a GPU or, without GPUs, one a core.
        device: what the jobs compute on; "cpu" leaves GPUs alone.
    """

    workers: int | None = None
    device: str = "auto"

    def run(
        self, jobs: Sequence[Job], on_step: OnStep, sentinels: Sequence[Sentinel]
    ) -> Generator[Outcome, None, None]:
        """Outcomes in the order in which jobs end.

        A worker that dies is replaced and its job runs again, TRIES times at most.

        Raises:
            NegmergeError: if workers end before they begin.
        """
        waiting = deque((job, 1) for job in jobs)
        crew = [_Worker(place, sentinels) for place in places(self.workers, self.device, most=len(jobs))]
        try:
            while waiting or any(worker.job for worker in crew):
                for worker in crew:
                    if worker.ready and worker.job is None and waiting:
                        worker.begin(*waiting.popleft())
                for pipe in wait([worker.pipe for worker in crew]):
                    worker = next(worker for worker in crew if worker.pipe is pipe)
                    heard = worker.hear()
                    if isinstance(heard, Progress) and worker.job:
                        on_step(worker.job, heard)
                    elif isinstance(heard, Outcome):
                        job, worker.job = worker.job, None
                        yield replace(heard, job=job, attempts=worker.tries)
                    elif heard is _GONE:
                        job, tries, how = worker.job, worker.tries, worker.end()
                        crew[crew.index(worker)] = _Worker(worker.place, sentinels)
                        if job is not None and tries < TRIES:
                            waiting.appendleft((job, tries + 1))
                        elif job is not None:
                            yield lost(job, tries, how)
        finally:
            for worker in crew:
                worker.hang_up()
            until = time.monotonic() + GRACE
            for worker in crew:
                worker.end(until - time.monotonic())


def places(workers: int | None, device: str, *, most: int) -> list[Place]:
    """Where each worker computes; never more than `most` of them.

    >>> len(places(2, "cpu", most=8)), len(places(2, "cpu", most=1))
    (2, 1)
    """
    if workers is not None and workers < 1:
        raise ParameterError(f"workers is {workers}: give at least 1.")
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    count = max(1, min(workers or len(gpus) or cores(), most))
    threads = max(1, cores() // count)
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        threads = min(threads, int(wanted))
    return [Place(threads, gpus[k % len(gpus)] if gpus else None) for k in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs of this process by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(k) for k in range(count)]


_GONE = object()


class _Worker:
    """A worker process as the driver sees it."""

    def __init__(self, place: Place, sentinels: Sequence[Sentinel]) -> None:
        # Spawned, not forked: CUDA and OpenMP do not survive a fork, and no file or lock is inherited.
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        self.place = place
        self.pipe: Connection = mine
        self.process: BaseProcess = context.Process(target=serve, args=(theirs, place, tuple(sentinels)), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is heard as the end of the pipe
        self.ready = False
        self.job: Job | None = None
        self.tries = 0

    def begin(self, job: Job, tries: int) -> None:
        self.job, self.tries = job, tries
        with suppress(OSError):  # it is dead: the end of the pipe is heard next
            self.pipe.send(job)

    def hear(self) -> object:
        try:
            heard = self.pipe.recv()
        except (EOFError, OSError):
            if not self.ready:
                raise NegmergeError(
                    f"a worker ended before it began ({self.end()}): its own message is above. In a script, start "
                    "the sweep under `if __name__ == '__main__':`, because workers import the script."
                ) from None
            return _GONE
        self.ready = True
        return heard

    def hang_up(self) -> None:
        self.pipe.close()

    def end(self, grace: float = GRACE) -> str:
        """Wait for its end, then make sure of it; how it ended."""
        self.hang_up()
        self.process.join(max(0.0, grace))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"
