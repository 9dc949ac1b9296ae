"""A sweep in a daemon thread, so that the page is usable while candidates train."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from negmerge_kit.errors import NegmergeError, PoolBusyError
from negmerge_kit.pools.pool import Pool
from negmerge_kit.pools.pool_writer import candidate_id, set_aside_damaged, writing
from negmerge_kit.progress import Progress
from negmerge_kit.sweeps.finetune_job import missing_jobs, pool_order
from negmerge_kit.sweeps.job import Job, SweepStopped
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import Recipe

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepStatus:
    """Progress of a background sweep.

    Attributes:
        doing: what `step` of `steps` counts for the candidate under way: its training, or "scoring".
        part: how much of that candidate is done.
        waiting: whether another process trains these candidates.
    """

    done: int
    total: int
    recipe_label: str | None = None
    step: int = 0
    steps: int = 0
    loss: float | None = None
    doing: str = "step"
    part: float = 0.0
    waiting: bool = False
    error: str | None = None
    finished: bool = False


class BackgroundSweep:
    """Daemon thread that fine-tunes the recipes that a pool lacks, one by one.

    Two processes on one pool do not collide: the second waits and shows what the first has done,
    and takes over if the first is killed.
    """

    def __init__(self, pool: Pool, recipes: Sequence[Recipe], *, device: str = "auto") -> None:
        self._pool, self._recipes, self._device = pool, tuple(recipes), device
        self._wanted = {candidate_id(pool, recipe.json()) for recipe in self._recipes}
        self._stop = threading.Event()
        self._status = SweepStatus(self._done(pool), len(self._recipes))
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> BackgroundSweep:
        """Start the thread; returns itself."""
        self._thread.start()
        return self

    def status(self) -> SweepStatus:
        """Current status of the sweep."""
        return self._status

    def stop(self, timeout: float | None = 10.0) -> None:
        """Ask the sweep to end after the present step and wait for it; finished candidates stay."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def wait(self, timeout: float | None = None) -> SweepStatus:
        """Block until the sweep ends, or for `timeout` seconds; returns the status then."""
        self._thread.join(timeout)
        return self._status

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._sweep()
                    break
                except PoolBusyError:
                    self._pool = self._pool.reload()
                    self._set(done=self._done(self._pool), waiting=True)
                    self._stop.wait(POLL_SECONDS)
        except NegmergeError as error:
            self._set(error=str(error))
        except Exception as error:
            log.exception("the sweep failed")
            self._set(error=f"fine-tuning stopped unexpectedly ({type(error).__name__}: {error}); see the terminal.")
        self._set(finished=True, waiting=False, recipe_label=None, loss=None)

    def _sweep(self) -> None:
        with writing(self._pool.folder):
            self._pool, damaged = set_aside_damaged(self._pool.reload())
        for sentence in damaged:
            log.warning("%s", sentence)
        self._set(done=self._done(self._pool), waiting=False)
        jobs = missing_jobs(self._pool, self._recipes, device=self._device)
        order = pool_order(self._pool, self._recipes)
        for outcome in run_sweep(jobs, store=self._pool, order=order, on_step=self._on_step):
            if outcome.failure:
                last = outcome.failure.strip().splitlines()[-1]
                self._set(error=f"the candidate with {outcome.job.label} failed: {last}", part=0.0)
                log.error("%s", outcome.failure)
            else:
                self._set(done=self._status.done + 1, part=0.0, recipe_label=None, step=0, steps=0, loss=None)
        self._set(done=self._done(self._pool.reload()))  # with what another sweep recorded meanwhile

    def _on_step(self, job: Job, step: Progress) -> None:
        if self._stop.is_set():
            raise SweepStopped
        self._set(
            recipe_label=job.label,
            step=step.step,
            steps=step.total,
            loss=step.loss,
            doing=step.message,
            part=step.fraction or 0.0,
        )
        # Hand the interpreter over between steps, so that the page answers while candidates train.
        time.sleep(0)

    def _set(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]

    def _done(self, pool: Pool) -> int:
        return len(self._wanted & set(pool.ids))
