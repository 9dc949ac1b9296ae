"""Jobs and outcomes of every executor: a job is plain values with a `run`, an outcome its value or failure."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from negmerge_kit.errors import CheckpointError, NegmergeError, NotFiniteError, PoolError
from negmerge_kit.pools.pool import Candidate, Pool, open_pool
from negmerge_kit.progress import Progress, ProgressFn


class SweepStopped(Exception):
    """Raised inside a job whose sweep was asked to stop; finished jobs stay, this one goes on another time."""


class Job(Protocol):
    """A frozen dataclass of plain values, so that it travels to any worker.

    Weights never travel: a job reads them from files and writes them into `folder`, which every worker sees; `run`
    returns plain values only, and the driver decides what to record.
    """

    @property
    def folder(self) -> Path:
        """The folder that its worker must share with the driver."""
        ...

    @property
    def label(self) -> str:
        """Description of the job in a few words."""
        ...

    def run(self, on_step: ProgressFn = ...) -> Any:
        """Do the job and return plain values; whatever `on_step` raises ends it with nothing written."""
        ...


@runtime_checkable
class AddsCandidate(Protocol):
    """A job whose value is a candidate, of an id that is known beforehand."""

    def id_in(self, pool: Pool) -> str:
        """The id that its candidate has in that pool."""
        ...


OnStep: TypeAlias = Callable[[Job, Progress], None]


@dataclass(frozen=True)
class Outcome:
    """Result of a job: its value, or why it failed, in a sentence or, for a bug, as a traceback.

    Attributes:
        stops: the folder or the disk failed; every other job would fail alike.
        attempts: how often it was begun; more than once where workers were lost.
        worker: host and process that ran it.
    """

    job: Any
    value: Any = None
    failure: str | None = None
    is_bug: bool = False
    stops: bool = False
    attempts: int = 1
    seconds: float = 0.0
    worker: str = ""

    @property
    def candidate(self) -> Candidate | None:
        """The value of a fine-tuning job."""
        return self.value if isinstance(self.value, Candidate) else None


class Executor(Protocol):
    """Runner of jobs that yields their outcomes as they come; closing the iterator ends what still runs."""

    def run(
        self, jobs: Sequence[Job], on_step: OnStep, digests: Mapping[Path, str | None]
    ) -> Generator[Outcome, None, None]:
        """Outcomes in the order in which jobs end; a job whose worker is lost runs again.

        `digests` holds the `pool_digest` of each job's folder as the driver sees it.
        """
        ...


def pool_digest(folder: Path) -> str | None:
    """Digest of what `pool.json` says of scene, base and heads, which stays while candidates come; None without it."""
    try:
        pool = open_pool(folder, force=True)
    except PoolError:
        return None
    stays = [pool.scene, pool.base_file.sha256, pool.heads_file.sha256]
    return hashlib.sha256(json.dumps(stays, sort_keys=True).encode()).hexdigest()


def unshared(folder: Path, worker: str) -> str:
    """Sentence for a worker that has another folder under the same path."""
    return (
        f"the worker on {worker} does not see {folder} as the driver does: put it in a folder that every machine "
        "shares under one path."
    )


TRIES = 3
"""Attempts at a job before a worker's loss counts as its failure."""


def attempt(job: Job, on_step: ProgressFn, digests: Mapping[Path, str | None] | None = None) -> Outcome:
    """Run a job in this process; only SweepStopped and what is no Exception gets out.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Half:
    ...     of: int
    ...     folder = Path()
    ...     label = "half"
    ...     def run(self, on_step): return self.of // 2
    >>> attempt(Half(8), print).value
    4
    """
    started = time.perf_counter()

    def ended(value: Any = None, failure: str | None = None, *, is_bug: bool = False, stops: bool = False) -> Outcome:
        seconds = round(time.perf_counter() - started, 3)
        return Outcome(
            job, value, failure, is_bug, stops, seconds=seconds, worker=f"{socket.gethostname()}:{os.getpid()}"
        )

    try:
        if digests and digests[job.folder] not in (None, pool_digest(job.folder)):
            raise PoolError(unshared(job.folder, socket.gethostname()))
        return ended(job.run(on_step))
    except SweepStopped:
        raise
    except NotFiniteError as error:
        return ended(failure=str(error))
    except (CheckpointError, PoolError) as error:
        return ended(failure=str(error), stops=True)
    except NegmergeError as error:
        return ended(failure=str(error))
    except Exception:
        # One bad job must not cost the others: its traceback is the outcome.
        return ended(failure=traceback.format_exc(), is_bug=True)


def lost(job: Job, attempts: int, how: str) -> Outcome:
    """The outcome of a job whose worker was lost once too often."""
    return Outcome(
        job,
        failure=f"{job.label}: its worker was lost {attempts} times ({how}): see whether memory ran out, "
        "then start the sweep again; what is finished is kept.",
        attempts=attempts,
    )
