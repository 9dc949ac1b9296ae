"""A sweep: jobs through an executor, each candidate recorded as soon as it is done; one after another by default."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.pools.pool import Pool
from negmerge_kit.pools.pool_writer import writing
from negmerge_kit.pools.unfinished import clear_up, record_finished
from negmerge_kit.sweeps.job import (
    AddsCandidate,
    Executor,
    Job,
    OnStep,
    Outcome,
    SweepStopped,
    attempt,
    pool_digest,
    unshared,
)

EXECUTORS = ("serial", "process", "ray")


def run_sweep(
    jobs: Iterable[Job],
    *,
    store: Pool | None = None,
    executor: str | Executor = "serial",
    order: Sequence[str] = (),
    on_step: OnStep = lambda job, progress: None,
) -> Iterator[Outcome]:
    """Run jobs and yield what became of each, as they end.

    A job that fails is an outcome, and the rest go on; one whose worker is lost runs again. Candidates are recorded in
    the pool `store` as they come, in the sequence of `order` (ids), so that a pool does not depend on who was fastest;
    a job whose candidate is recorded by then has no outcome.
    Killed at any moment, the next sweep goes on where this one was. If `on_step` raises SweepStopped, or the iterator
    is closed, the jobs that run are dropped.

    Args:
        jobs: what `missing_jobs` gives, or any other frozen dataclasses with `folder`, `label` and `run`.
        store: the pool that is filled, held against other writers; None where jobs add no candidates.
        executor: "serial", "process" or "ray" with their defaults, or one made by `find_executor`.

    Raises:
        PoolBusyError: if another process is writing to the pool.
        PoolError: if the pool or the disk can no longer be read or written, or a worker does not see the folder.
    """
    chosen = find_executor(executor) if isinstance(executor, str) else executor
    todo = tuple(jobs)
    with ExitStack() as held:
        if store is not None:
            held.enter_context(writing(store.folder))
            store = store.reload()  # another sweep may have recorded some of them since they were listed
            todo = tuple(job for job in todo if not _recorded(job, store))
            clear_up(store)
            held.callback(clear_up, store)
        digests = {folder: pool_digest(folder) for folder in {job.folder for job in todo}}
        outcomes = held.enter_context(closing(chosen.run(todo, on_step, digests)))
        try:
            for outcome in outcomes:
                if outcome.stops:
                    raise PoolError(outcome.failure)
                if store is not None and outcome.candidate:
                    if not (store.folder / outcome.candidate.file).exists():  # written into a copy of the pool
                        raise PoolError(unshared(store.folder, outcome.worker))
                    store = record_finished(store, outcome.candidate, order)
                yield outcome
        except SweepStopped:
            return


def _recorded(job: Job, store: Pool) -> bool:
    return isinstance(job, AddsCandidate) and job.id_in(store) in store.ids


@dataclass(frozen=True)
class Serial:
    """An executor: one job after another, in this thread."""

    def run(
        self, jobs: Sequence[Job], on_step: OnStep, digests: Mapping[Path, str | None]
    ) -> Generator[Outcome, None, None]:
        """Outcomes in the order of the jobs."""
        for job in jobs:
            yield attempt(job, partial(on_step, job), digests)


def find_executor(
    name: str,
    *,
    workers: int | None = None,
    device: str = "auto",
    address: str | None = None,
    gpus_per_job: float | None = None,
) -> Executor:
    """The executor of that name: `serial`, `process` (workers of this machine) or `ray` (a cluster).

    Args:
        workers: jobs at a time; by default one a GPU, or one a core.
        device: what the jobs compute on.
        address: a Ray cluster to join, "auto" or HOST:PORT; by default one is started on this machine.
        gpus_per_job: share of a GPU that a Ray job takes.

    Raises:
        ParameterError: for another name, or settings that do not belong to it.

    >>> find_executor("process", workers=2, device="cpu")
    Processes(workers=2, device='cpu')
    """
    if name not in EXECUTORS:
        raise ParameterError(f"there is no executor '{name}': choose among {', '.join(EXECUTORS)}.")
    if workers is not None and (workers < 1 or name == "serial"):
        raise ParameterError(f"workers is {workers} with executor {name}: give at least 1, to process or ray.")
    if name != "ray" and (address is not None or gpus_per_job is not None):
        raise ParameterError(f"executor {name} takes no address and no share of a GPU: choose ray.")
    if name == "serial":
        return Serial()
    if name == "process":
        from negmerge_kit.sweeps.process_pool import Processes

        return Processes(workers, device)
    from negmerge_kit.sweeps.ray_pool import OnRay

    return OnRay(address, workers, device, gpus_per_job)
