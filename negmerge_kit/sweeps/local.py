"""Sweeps on this machine: one job after another, each candidate recorded as soon as it is done."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from negmerge_kit.checkpoints.filling import record_candidate, writing
from negmerge_kit.checkpoints.pool import Candidate, Pool
from negmerge_kit.errors import CheckpointError, NegmergeError, PoolError
from negmerge_kit.lab.training import Step
from negmerge_kit.sweeps.jobs import FinetuneJob, SweepStopped


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the candidate, or why it failed, in a sentence or, for a bug, as a traceback."""

    job: FinetuneJob
    candidate: Candidate | None
    failure: str | None = None
    is_bug: bool = False


def run_sweep(
    jobs: Iterable[FinetuneJob], *, store: Pool, on_step: Callable[[FinetuneJob, Step], None] = lambda job, step: None
) -> Iterator[Outcome]:
    """Run the jobs in order and record each candidate in the pool `store` as it is done.

    A recipe that fails is an outcome, and the rest go on. Killed at any moment,
    the next sweep goes on where this one was: finished candidates are in pool.json.

    Raises:
        PoolBusyError: if another process is writing to the pool.
        CheckpointError, PoolError: if the pool can no longer be read or written.
    """
    with writing(store.folder):
        for job in jobs:
            try:
                candidate = job.run(partial(on_step, job))
            except SweepStopped:
                return
            except (CheckpointError, PoolError):
                raise  # the folder or the disk: every other job would fail alike
            except NegmergeError as error:
                yield Outcome(job, None, str(error))
                continue
            except Exception:
                # One bad recipe must not cost the others: its traceback is the outcome.
                yield Outcome(job, None, traceback.format_exc(), is_bug=True)
                continue
            store = record_candidate(store, candidate)
            yield Outcome(job, candidate)
