"""Cost of an executor: one-thread jobs of equal work, one after another, in processes and on a Ray cluster."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from negmerge_kit.errors import NegmergeError
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.sweeps.job import Job
from negmerge_kit.sweeps.run import find_executor, run_sweep
from negmerge_kit.types import Json

LIMIT = 0.25
"""How much longer than the serial time, divided by the workers, a sweep may take once it has begun."""
BLOCK = bytes(1 << 20)


@dataclass(frozen=True)
class HashJob:
    """One thread of fixed work: `rounds` times the hash of a mebibyte; its value is when it began and ended."""

    folder: Path
    number: int
    rounds: int

    @property
    def label(self) -> str:
        """Number of the job."""
        return f"job {self.number}"

    def run(self, on_step: ProgressFn = no_progress) -> Json:
        """Do the work; the times are the machine's clock, which its processes share."""
        began = time.time()
        digest = hashlib.sha256()
        for done in range(self.rounds):
            digest.update(BLOCK)
            if done % 100 == 0:
                on_step(Progress("step", step=done, total=self.rounds))
        return {"began": began, "ended": time.time(), "digest": digest.hexdigest()}


def bench(
    pool: object = None,
    *,
    jobs: int = 16,
    seconds: float = 5.0,
    workers: int = 2,
    executors: Sequence[str] = ("process", "ray"),
) -> Json:
    """Rows for serial and each executor; what `python -m benchmarks sweep` prints.

    `startup` is from the call to the first job's beginning (Ray's cluster, workers' imports), `seconds` from there to
    the last job's end; `overhead` = seconds / (serial seconds / workers) - 1. `pool` is not used.

    Raises:
        NegmergeError: if a job fails.
    """
    with tempfile.TemporaryDirectory(prefix="negmerge-bench-") as place:
        rounds = max(1, round(seconds * speed()))
        work = [HashJob(Path(place), number, rounds) for number in range(jobs)]
        serial = measure("serial", work, 1)
        rows = [serial | {"ideal": serial["seconds"], "overhead": 0.0, "limit": LIMIT}]
        for name in executors:
            row = measure(name, work, workers)
            ideal = serial["seconds"] / workers
            rows.append(row | {"ideal": ideal, "overhead": row["seconds"] / ideal - 1, "limit": LIMIT})
    return {"jobs": jobs, "job_seconds": serial["seconds"] / jobs, "rows": rows}


def speed(blocks: int = 500) -> float:
    """Blocks that one thread hashes in a second."""
    started = time.perf_counter()
    digest = hashlib.sha256()
    for _ in range(blocks):
        digest.update(BLOCK)
    return blocks / (time.perf_counter() - started)


def measure(name: str, work: Sequence[Job], workers: int) -> Json:
    """`{"executor", "workers", "startup", "seconds"}` of one executor on these jobs."""
    executor = find_executor(name, workers=None if name == "serial" else workers, device="cpu")
    called = time.time()
    outcomes = list(run_sweep(work, executor=executor))
    if failed := [outcome.failure for outcome in outcomes if outcome.failure]:
        raise NegmergeError(f"{len(failed)} of {len(work)} jobs failed with executor {name}: {failed[0]}")
    began = min(outcome.value["began"] for outcome in outcomes)
    ended = max(outcome.value["ended"] for outcome in outcomes)
    return {"executor": name, "workers": workers, "startup": began - called, "seconds": ended - began}
