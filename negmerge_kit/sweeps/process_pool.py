"""Jobs in processes of this machine: one worker a GPU, or several CPU workers that divide the cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from negmerge_kit.data.decoded_cache import cores
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.progress import Progress
from negmerge_kit.sweeps.job import TRIES, Job, OnStep, Outcome, lost
from negmerge_kit.sweeps.worker import SAY_EVERY, Place, begin, run_job


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
        self, jobs: Sequence[Job], on_step: OnStep, digests: Mapping[Path, str | None]
    ) -> Generator[Outcome, None, None]:
        """Outcomes in the order in which jobs end.

        A worker that dies is replaced and its job runs again, TRIES times at most.

        Raises:
            NegmergeError: if workers end before they begin.
        """
        waiting = deque((job, 1) for job in jobs)
        workers = [_Worker(place) for place in places(self.workers, self.device, most=len(jobs))]
        idle, running = [*workers], dict[Future[Outcome], tuple[_Worker, Job, int]]()
        try:
            while waiting or running:
                while waiting and idle:
                    worker, (job, tries) = idle.pop(0), waiting.popleft()
                    running[worker.submit(job, digests)] = worker, job, tries
                done, _ = wait(running, timeout=SAY_EVERY, return_when=FIRST_COMPLETED)
                for worker, job, _ in running.values():
                    for progress in worker.heard():
                        on_step(job, progress)
                for future in done:
                    worker, job, tries = running.pop(future)
                    idle.append(worker)
                    error = future.exception()
                    if error is None:
                        yield replace(future.result(), job=job, attempts=tries)
                    elif not isinstance(error, BrokenProcessPool):
                        # A value that cannot be sent, or a job that asks its process to exit: the others go on.
                        yield Outcome(job, failure=f"{type(error).__name__}: {error}", is_bug=True, attempts=tries)
                    else:
                        outcome = lost(job, tries, worker.replace())
                        if tries < TRIES:
                            waiting.appendleft((job, tries + 1))
                        else:
                            yield outcome
        finally:
            for worker in workers:
                worker.pipe.close()
            for worker in workers:
                worker.pool.shutdown(cancel_futures=True)


def places(workers: int | None, device: str, *, most: int) -> list[Place]:
    """Cores and GPU of each worker; never more than `most` of them.

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


class _Worker:
    """One process in a separate pool: when it dies no other job is lost, and each has its GPU."""

    process: BaseProcess

    def __init__(self, place: Place) -> None:
        self.place = place
        self._make_pool()

    def _make_pool(self) -> None:
        # Spawned, not forked: CUDA and OpenMP do not survive a fork, and no file or lock is inherited.
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.pool = ProcessPoolExecutor(1, context, initializer=begin, initargs=(theirs, self.place))
        self.began = False

    def submit(self, job: Job, digests: Mapping[Path, str | None]) -> Future[Outcome]:
        try:
            return self._submit(job, digests)
        except BrokenProcessPool:  # it died between two jobs
            self.replace()
            return self._submit(job, digests)

    def _submit(self, job: Job, digests: Mapping[Path, str | None]) -> Future[Outcome]:
        before = active_children()
        future = self.pool.submit(run_job, job, digests)
        for process in set(active_children()).difference(before):
            self.process = process
        return future

    def heard(self) -> Iterator[Progress]:
        """Reports of the worker since the last call."""
        while self.pipe.poll():
            said = self.pipe.recv()
            self.began = True
            if isinstance(said, Progress):
                yield said

    def replace(self) -> str:
        """Begin another process in the place of one that died; returns how that one ended."""
        self.pipe.close()
        self.pool.shutdown()
        code = self.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if not self.began:
            raise NegmergeError(
                f"a worker ended before it began ({how}): its own message is above. In a script, start "
                "the sweep under `if __name__ == '__main__':`, because workers import the script."
            )
        self._make_pool()
        return how
