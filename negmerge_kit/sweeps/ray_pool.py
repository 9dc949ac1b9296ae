"""Jobs on a Ray cluster: on this machine, or on all that joined one; the only module that imports ray.

Jobs and outcomes are plain values of a few kilobytes: weights lie in files that every node sees, never in Ray's store.
"""

from __future__ import annotations

import logging
import queue
import signal
import socket
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from negmerge_kit.data.decoded_cache import cores
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.progress import Progress
from negmerge_kit.sweeps.job import TRIES, Job, OnStep, Outcome, attempt, lost
from negmerge_kit.sweeps.process_pool import visible_gpus
from negmerge_kit.sweeps.worker import NowAndThen

SAY_EVERY = 0.5
"""Seconds between two reports of one job."""
LOST = (WorkerCrashedError, NodeDiedError, LocalRayletDiedError, ObjectLostError, OutOfMemoryError)
"""Exceptions that Ray raises for a worker or a node that is gone."""
STORE_BYTES = 100 * 2**20
"""Memory of a local cluster's object store: nothing large ever enters it."""


@dataclass(frozen=True)
class OnRay:
    """An executor: one Ray task a job, on a cluster that is joined or, without an address, started on this machine.

    A cluster that was started here ends with the sweep. Since 2.60 Ray asks for a token unless RAY_AUTH_MODE=disabled;
    a local cluster makes its own (`~/.ray/auth_token`); to join another, this machine needs that cluster's token there,
    in RAY_AUTH_TOKEN, or in the file that RAY_AUTH_TOKEN_PATH names.

    Args:
        address: "auto", or HOST:PORT of the cluster's head.
        workers: jobs at a time at most; a local cluster has as many places, by default one a core.
        device: what the jobs compute on; "cpu" asks for no GPU.
        gpus_per_job: share of a GPU that a job takes; by default a whole one where there are GPUs.
    """

    address: str | None = None
    workers: int | None = None
    device: str = "auto"
    gpus_per_job: float | None = None

    def run(
        self, jobs: Sequence[Job], on_step: OnStep, digests: Mapping[Path, str | None]
    ) -> Generator[Outcome, None, None]:
        """Outcomes in the order in which jobs end; a job whose worker or node is lost runs again, TRIES times at most.

        Raises:
            NegmergeError: if the cluster cannot be joined.
            ParameterError: if no node has what a job asks for.
        """
        if not jobs:
            return
        if self.address is None and not ray.is_initialized():
            self._gpus(len(visible_gpus()))  # a cluster takes long to start: refuse what it cannot give before
        waiting = deque((job, 1) for job in jobs)
        running: dict[Any, tuple[Job, int]] = {}
        with connected(self.address, self.workers) as threads:
            task = ray.remote(stream).options(
                num_cpus=threads, num_gpus=self._gpus(_most_gpus()), max_retries=0, num_returns="streaming"
            )
            try:
                while waiting or running:
                    while waiting and len(running) < (self.workers or len(jobs)):
                        job, tries = waiting.popleft()
                        running[task.remote(job, digests)] = job, tries
                    ready, _ = ray.wait(list(running), num_returns=1)
                    for stream_of in ready:
                        job, tries = running[stream_of]
                        heard = _hear(stream_of, job)
                        if isinstance(heard, Progress):
                            on_step(job, heard)
                            continue
                        del running[stream_of]
                        if isinstance(heard, Outcome):
                            yield replace(heard, job=job, attempts=tries)
                        elif tries < TRIES:
                            waiting.appendleft((job, tries + 1))
                        else:
                            yield lost(job, tries, str(heard).partition(".")[0])
            finally:
                for stream_of in running:
                    ray.cancel(stream_of, force=True)

    def _gpus(self, most: float) -> float:
        """The share of a GPU that each job takes, checked against what the largest node has."""
        asked = self.gpus_per_job
        if asked is None:
            return 1.0 if most and self.device in ("auto", "cuda") else 0.0
        if not 0 <= asked <= most or (asked > 1 and asked != int(asked)):  # so that NaN is refused, too
            raise ParameterError(
                f"each job asks for {asked:g} GPUs, but the largest node has {most:g}: give --gpus-per-job a share "
                "that a node has, or 0."
            )
        return asked


def _most_gpus() -> float:
    """The GPUs of the cluster's largest node."""
    return max((node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)


@contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[int]:
    """A connection to the cluster for the length of the block; gives the cores that each job takes.

    A connection that is there already is used and kept.
    """
    if ray.is_initialized():
        yield 1
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    threads = 1
    if address is None:
        count = workers or cores()
        threads = max(1, cores() // count)
        settings |= {
            "address": "local",  # whatever RAY_ADDRESS says
            "num_cpus": count * threads,
            "num_gpus": len(visible_gpus()),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
        }
    else:
        _knock(address)
        settings["address"] = address
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**settings)
    except Exception as error:  # Ray raises plain Exceptions, too, when a node does not start in time
        ray.shutdown()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
        raise _unusable(address or "this machine", reason) from error
    try:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would leave without what is tidied up here
        yield threads
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise at once where nothing answers: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # "auto": Ray looks in this machine's own files
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _unusable(address, str(error)) from error


def _unusable(address: str, reason: str) -> NegmergeError:
    return NegmergeError(
        f"the Ray cluster at {address} cannot be used ({reason}): check that `ray status` sees it, and that this "
        "machine has its token (RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token)."
    )


def stream(job: Job, digests: Mapping[Path, str | None]) -> Iterator[Progress | Outcome]:
    """Run the job in a thread of a Ray worker; yield its reports now and then, and at last its outcome."""
    box: queue.SimpleQueue[Progress | Outcome] = queue.SimpleQueue()
    chosen = NowAndThen(SAY_EVERY)

    def report(progress: Progress) -> None:
        if chosen(progress):
            box.put(progress)

    def work() -> None:
        box.put(attempt(job, report, digests))

    threading.Thread(target=work, daemon=True).start()
    while True:
        heard = box.get()
        yield heard
        if isinstance(heard, Outcome):
            return


def _hear(stream_of: Any, job: Job) -> Progress | Outcome | Exception:
    """Next report of a running job, or the exception by which Ray reports that its worker is gone."""
    try:
        heard: Progress | Outcome = ray.get(next(stream_of))
        return heard
    except LOST as error:
        return error
    except RayTaskError as error:
        return Outcome(job, failure=str(error), is_bug=True)
    except StopIteration:
        return Outcome(job, failure=f"{job.label} ended without a word.", is_bug=True)
