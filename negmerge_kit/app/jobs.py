"""Heavy work: one job at a time and in order, followed while it runs, ended when nobody waits for it any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.progress import Progress
from negmerge_kit.unlearning.fair_lock import background_priority

POLL_SECONDS = 0.3
MOST_JOBS = 24
CANCELLED = "cancelled: press the button again to go on from where it was."
CLOSED = "the app was stopped: start it again and press the button again to go on from where it was."

log = logging.getLogger(__name__)


class CancelledError(NegmergeError):
    """A job that its visitor no longer waits for."""


class JobFailedError(NegmergeError):
    """A job that ended in a bug: the page says so, the terminal has the trace, and the app goes on."""


@dataclass(frozen=True)
class JobProgress(Progress):
    """How far a job is, with a hint: the time that it has taken and, where it can be known, the time left."""

    hint: str = ""


@dataclass(frozen=True)
class Done:
    """What a job came to."""

    result: Any


class Job:
    """One piece of work: it calls `tell` between steps, which is also where it ends when it is no longer wanted."""

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self._work = work
        self._stop = threading.Event()
        self._why = CANCELLED
        self._began: float | None = None
        self._forecast = True
        self._told = JobProgress("Waiting for another job to end", hint="One heavy job runs at a time.")
        self.watchers: set[str] = set()
        self.future: Future[Any] = Future()

    @property
    def stopping(self) -> bool:
        """Whether it will end at its next step."""
        return self._stop.is_set()

    @property
    def progress(self) -> JobProgress:
        """What it said last, with the time that it has taken and, where its share is known, the time left."""
        if self._began is None:
            return self._told
        gone, share = time.monotonic() - self._began, self._told.fraction
        passed = share if gone > 2 and self._forecast else None
        left = f", about {gone / passed * (1 - passed):.0f} s left" if passed else ""
        return JobProgress(self._told.message, share, hint=self._told.hint or f"{gone:.0f} s{left}")

    def tell(self, text: str = "", share: float | None = None, *, forecast: bool = True) -> None:
        """Say what comes next; without a text this is only the place to stop.

        Args:
            share: of all that is behind.
            forecast: whether the time left follows from the time that this share has taken.

        Raises:
            CancelledError: if nobody waits for the job any more.
        """
        if self._stop.is_set():
            raise CancelledError(self._why)
        if text:
            self._told, self._forecast = JobProgress(text, share), forecast

    def report(self, progress: Progress) -> None:
        """As `tell`, for work that takes a `ProgressFn`."""
        self.tell(progress.message, progress.fraction)

    def stop(self, why: str = CANCELLED) -> None:
        """End at the next step."""
        self._why = why
        self._stop.set()

    def run(self) -> None:
        """Do the work; an exception of any kind ends this job and nothing else."""
        try:
            self._began = time.monotonic()
            self.tell("Starting")
            self.future.set_result(self._work(self))
        except NegmergeError as error:
            self.future.set_exception(error)
        except BaseException as error:
            log.exception("a job failed")
            failed = JobFailedError(f"this job stopped unexpectedly ({type(error).__name__}): the terminal says where.")
            self.future.set_exception(failed)


class Jobs:
    """The app's heavy work, done by one thread in the order in which it was asked for.

    Visitors who ask for the same share one job; it ends when the last of them has left or cancelled.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._open: dict[Hashable, Job] = {}
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._followers = 0
        self._closed = False

    @property
    def followed(self) -> bool:
        """Whether anybody still waits for what comes of a job."""
        return self._followers > 0

    @property
    def busy(self) -> bool:
        """Whether a new job would have to wait."""
        with self._turn:
            return any(not job.future.done() for job in self._open.values())

    def follow(self, visitor: str, key: Hashable, work: Callable[[Job], Any]) -> Iterator[JobProgress | Done]:
        """Progress again and again, and at the end what the job came to.

        Raises:
            CancelledError: if the visitor cancelled.
            NegmergeError: what the job ended in.
        """
        job = self._join(visitor, key, work)
        try:
            while True:
                yield job.progress
                try:
                    result = job.future.result(timeout=POLL_SECONDS)
                    break
                except TimeoutError:
                    pass
                if self._closed or visitor not in job.watchers:
                    raise CancelledError(CLOSED if self._closed else CANCELLED)
        finally:
            self._leave(visitor, job)
        yield Done(result)

    def do(self, work: Callable[[Job], Any]) -> Any:
        """Wait for the turn, do the work and give its result: for endpoints.

        Raises:
            NegmergeError: what the job ended in.
        """
        *_, done = self.follow(uuid4().hex, object(), work)
        assert isinstance(done, Done)
        return done.result

    def close(self) -> None:
        """End all work at its next step, for good; those who follow it hear so within `POLL_SECONDS`."""
        with self._turn:
            self._closed = True
            for job in self._open.values():
                job.stop(CLOSED)

    def begin(self, work: Callable[[Job], Any]) -> Job:
        """Put the work in line for a caller that hears of it by itself.

        Raises:
            ParameterError: if too many wait already.
        """
        return self._join("", object(), work, follows=False)

    def cancel(self, visitor: str) -> None:
        """Let this visitor wait no longer, for any job; what others wait for goes on."""
        with self._turn:
            for job in self._open.values():
                if visitor in job.watchers:
                    job.watchers.discard(visitor)
                    if not job.watchers:
                        job.stop()

    def _join(self, visitor: str, key: Hashable, work: Callable[[Job], Any], *, follows: bool = True) -> Job:
        with self._turn:
            if self._closed:
                raise CancelledError(CLOSED)
            self._open = {name: job for name, job in self._open.items() if not job.future.done()}
            job = self._open.get(key)
            if job is None or job.stopping:
                if len(self._open) >= MOST_JOBS:
                    raise ParameterError(f"{len(self._open)} jobs are waiting already: try again in a minute.")
                self._open[key] = job = Job(work)
                self._queue.put(job)
            job.watchers.add(visitor)
            self._followers += follows
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heavy", daemon=True)
                self._thread.start()
            return job

    def _leave(self, visitor: str, job: Job) -> None:
        with self._turn:
            self._followers -= 1
            job.watchers.discard(visitor)
            if not job.watchers:
                job.stop()

    def _run(self) -> None:
        while True:
            job = self._queue.get()
            with background_priority():
                job.run()
