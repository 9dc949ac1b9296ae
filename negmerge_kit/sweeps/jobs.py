"""The job that fills a pool: fine-tune a candidate, save its weights, score it alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from negmerge_kit.checkpoints.filling import candidate_id, save_candidate
from negmerge_kit.checkpoints.pool import Candidate, Pool, open_pool
from negmerge_kit.checkpoints.unfinished import find_written, note_written
from negmerge_kit.errors import SceneError
from negmerge_kit.lab.recipe import Recipe
from negmerge_kit.lab.training import finetune
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.scoring.scale import KEEP
from negmerge_kit.sweeps.protocol import Progress, Report
from negmerge_kit.types import Json


@dataclass(frozen=True)
class FinetuneJob:
    """Fine-tune one candidate of the pool in `folder` by `recipe`; plain values, so that it travels to any worker."""

    folder: Path
    recipe: Recipe
    device: str = "auto"

    @property
    def label(self) -> str:
        """The recipe in a line."""
        return self.recipe.label

    def run(self, on_step: Report = lambda progress: None) -> Candidate:
        """Train, save and score; the returned entry is not in pool.json yet.

        What an interrupted run has written is not trained again. Whatever `on_step` raises ends the job.

        Raises:
            SceneError: if the pool's head does not fit its model or its images.
            ParameterError: if the loss stops being a number.
        """
        pool = open_pool(self.folder)
        bench = open_workbench(self.folder, pool.base_file.sha256, self.device)
        entry = find_written(pool, candidate_id(pool, self.recipe.json()))
        if entry is None:
            entry = self._trained(bench, on_step)
            note_written(pool, entry)
        bench.hold(entry)
        return replace(entry, scores=own_scores(bench, entry.id))

    def _trained(self, bench: Workbench, on_step: Report) -> Candidate:
        started = time.perf_counter()
        model, images = bench.fresh_model(), bench.scene.images("train").forget
        head, width = model.head(images.name), model.features(images.images[:1]).shape[1]
        if tuple(head.shape) != (len(images.classes), width):
            raise SceneError(
                f"the head '{images.name}' of {self.folder} is {list(head.shape)}, but its {len(images.classes)} "
                f"classes and the model's {width} features need [{len(images.classes)}, {width}]: it was built for "
                "another model or data set; build the pool anew."
            )
        losses = []
        for step in finetune(model, images, self.recipe):
            losses.append(round(step.loss, 5))
            on_step(Progress(step.index, step.total, step.loss))
        entry = save_candidate(bench.pool, self.recipe.json(), model.weights().items())
        return replace(entry, seconds=round(time.perf_counter() - started, 3), losses=tuple(losses))


def missing_jobs(pool: Pool, recipes: Iterable[Recipe], *, device: str = "auto") -> list[FinetuneJob]:
    """A job for each recipe that the pool has no candidate of: finished work is never done twice."""
    done = set(pool.ids)
    jobs = []
    for recipe in recipes:
        id = candidate_id(pool, recipe.json())
        if id not in done:
            done.add(id)
            jobs.append(FinetuneJob(pool.folder.resolve(), recipe, device))
    return jobs


def pool_order(pool: Pool, recipes: Iterable[Recipe]) -> list[str]:
    """The ids of the recipes' candidates, in the grid's order: how they stand in the pool, whoever was fastest."""
    return [candidate_id(pool, recipe.json()) for recipe in recipes]


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
def open_workbench(folder: Path, base: str, device: str) -> Workbench:
    """The worker's own workbench, kept from job to job on the same base."""
    return Workbench(open_pool(folder), device=device)
