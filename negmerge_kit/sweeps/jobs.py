"""One job of a sweep: fine-tune a candidate, save its weights, score it alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from negmerge_kit.checkpoints.filling import candidate_id, save_candidate
from negmerge_kit.checkpoints.pool import Candidate, Pool, open_pool
from negmerge_kit.lab.recipe import Recipe
from negmerge_kit.lab.training import Step, finetune
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.scoring.scale import KEEP
from negmerge_kit.types import Json


class SweepStopped(Exception):
    """Raised inside a job whose sweep was asked to stop; the job's work is dropped, finished ones stay."""


@dataclass(frozen=True)
class FinetuneJob:
    """Fine-tune one candidate of the pool in `folder` by `recipe`; plain values, so that it travels to any worker."""

    folder: Path
    recipe: Recipe
    device: str = "auto"

    def run(self, on_step: Callable[[Step], None] = lambda step: None) -> Candidate:
        """Train, save and score; the returned entry is not in pool.json yet.

        Whatever `on_step` raises ends the job with nothing written.
        """
        started = time.perf_counter()
        pool = open_pool(self.folder)
        bench = _workbench(self.folder, pool.base_file.sha256, self.device)
        model = bench.fresh_model()
        losses = []
        for step in finetune(model, bench.scene.images("train").forget, self.recipe):
            losses.append(round(step.loss, 5))
            on_step(step)
        entry = save_candidate(bench.pool, self.recipe.json(), model.weights().items())
        seconds = time.perf_counter() - started
        bench.hold(entry)
        return replace(entry, scores=own_scores(bench, entry.id), seconds=round(seconds, 3), losses=tuple(losses))


def missing_jobs(pool: Pool, recipes: Iterable[Recipe], *, device: str = "auto") -> list[FinetuneJob]:
    """A job for each recipe that the pool has no candidate of: finished work is never done twice."""
    done = set(pool.ids)
    return [
        FinetuneJob(pool.folder, recipe, device) for recipe in recipes if candidate_id(pool, recipe.json()) not in done
    ]


def own_scores(bench: Workbench, id: str, keep: float = KEEP) -> Json:
    """A candidate negated alone at its own best scale, on validation: what the table of candidates shows.

    Returns `{"status", "keep", "scale", "forget", "retain", "kept"}`; `kept` is retention as a share of
    the base's, and everything but status and keep is None where no scale above 0 keeps enough.
    """
    search = bench.search(bench.choose([id]), keep=keep)
    best, base = search.best, search.base
    if best is None or best.forget is None or best.retain is None or base.retain is None:
        return {"status": "infeasible", "keep": keep, "scale": None, "forget": None, "retain": None, "kept": None}
    return {
        "status": "ok",
        "keep": keep,
        "scale": best.scale,
        "forget": best.forget.json(),
        "retain": best.retain.json(),
        "kept": best.retain.value / base.retain.value,
    }


@lru_cache(maxsize=1)
def _workbench(folder: Path, base: str, device: str) -> Workbench:
    """The worker's own workbench, kept from job to job on the same base."""
    return Workbench(open_pool(folder), device=device)
