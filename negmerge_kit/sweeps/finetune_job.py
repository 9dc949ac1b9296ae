"""The job that fills a pool: fine-tune a candidate, save its weights, score it alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from negmerge_kit.errors import DivergedError, NotFiniteError
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.pools.pool import Candidate, Pool, open_pool
from negmerge_kit.pools.pool_writer import candidate_id, save_candidate
from negmerge_kit.pools.unfinished import drop_written, find_written, note_written, state_file
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scoring.early_stopping import DEFAULT_SCALES, Point, looks
from negmerge_kit.scoring.scale_search import KEEP
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.forecast import SEARCHED, TRAINING
from negmerge_kit.training.loop import Step
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json
from negmerge_kit.unlearning.base_knowledge import check_known
from negmerge_kit.unlearning.workbench import Workbench


@dataclass(frozen=True)
class FinetuneJob:
    """Fine-tune one candidate of the pool in `folder` by `recipe`; plain values, so that it travels to any worker.

    `anyway` trains it even where the base does not know the forget set.
    """

    folder: Path
    recipe: Recipe
    device: str = "auto"
    execution: Execution | None = None
    anyway: bool = False

    @property
    def label(self) -> str:
        """The recipe in a line."""
        return self.recipe.label

    def id_in(self, pool: Pool) -> str:
        """The id that its candidate has in that pool."""
        return candidate_id(pool, self.recipe.json())

    def run(self, on_step: ProgressFn = no_progress) -> Candidate:
        """Train, save and score; the returned entry is not in pool.json yet.

        What an interrupted run has written is not trained again. Whatever `on_step` raises ends the job.

        Raises:
            SceneError: if the pool's heads or images do not fit its scene.
            UnknownSetError: if the base does not know the forget set (see `check_known`).
            DivergedError: if the loss stops being a number.
            NotFiniteError: if the trained model answers with NaN or infinity; its weights are dropped.
        """
        pool = open_pool(self.folder)
        bench = open_workbench(self.folder, pool.base_file.sha256, self.device)
        entry = find_written(pool, self.id_in(pool))
        if entry is None:
            if not self.anyway and not bench.scene.trains_base:
                images = bench.scene.images("val").forget
                check_known(bench.base_scores("val").forget, len(images.classes), images.name)
            entry = self._trained(bench, on_step)
            note_written(pool, entry)
        bench.hold(entry)
        try:
            return replace(entry, scores=own_scores(bench, entry.id, on_step=self._scoring(bench, on_step)))
        except NotFiniteError:
            drop_written(pool, entry)
            open_workbench.cache_clear()  # it holds the dropped weights
            raise

    def _trained(self, bench: Workbench, on_step: ProgressFn) -> Candidate:
        """The candidate with its weights on disk, trained from the start or from where a killed sweep was."""
        state = state_file(bench.pool, self.id_in(bench.pool))
        started, trained = time.perf_counter(), self._trained_share(bench)
        model, losses, rates, earlier = bench.fresh_model(), [], [], 0.0
        for step in self._steps(bench, model, state):
            losses.append(round(step.loss, 5))
            rates.append(float(f"{step.lr:.5g}"))
            earlier = step.earlier
            on_step(Progress("step", trained * step.index / step.total, step.index, step.total, step.loss))
        entry = save_candidate(bench.pool, self.recipe.json(), model.weights().items())
        seconds = round(earlier + time.perf_counter() - started, 3)
        return replace(entry, seconds=seconds, losses=tuple(losses), rates=tuple(rates))

    def _trained_share(self, bench: Workbench) -> float:
        """Share of the job that is training; the rest is the candidate's scale search. Counted in forward passes."""
        val = bench.images("val")
        trained = TRAINING * self.recipe.epochs * len(bench.scene.images("train").forget)
        scored = SEARCHED * len(DEFAULT_SCALES) * (len(val.forget) + sum(len(images) for images in val.retain))
        return trained / (trained + scored)

    def _scoring(self, bench: Workbench, on_step: ProgressFn) -> ProgressFn:
        """Callback for the search's reports, rescaled to the part of the job that follows training."""
        trained = self._trained_share(bench)
        return lambda step: on_step(replace(step, fraction=trained + (1 - trained) * (step.fraction or 0.0)))

    def _steps(self, bench: Workbench, model: Classifier, state: Path) -> Iterator[Step]:
        images, mirror = bench.scene.images("train").forget, bench.scene.sources[0].flips
        try:
            yield from finetune(model, images, self.recipe, resume=state, execution=self.execution, may_mirror=mirror)
        except DivergedError:
            # It would fail the same way again: no state is kept.
            state.unlink(missing_ok=True)
            raise


def missing_jobs(
    pool: Pool,
    recipes: Iterable[Recipe],
    *,
    device: str = "auto",
    execution: Execution | None = None,
    anyway: bool = False,
) -> list[FinetuneJob]:
    """A job for each recipe that the pool has no candidate of: finished work is never done twice."""
    done = set(pool.ids)
    jobs = []
    for recipe in recipes:
        id = candidate_id(pool, recipe.json())
        if id not in done:
            done.add(id)
            jobs.append(FinetuneJob(pool.folder.resolve(), recipe, device, execution, anyway))
    return jobs


def pool_order(pool: Pool, recipes: Iterable[Recipe]) -> list[str]:
    """Ids of the recipes' candidates in the grid's order, which the pool keeps however fast each one was."""
    return [candidate_id(pool, recipe.json()) for recipe in recipes]


def own_scores(bench: Workbench, id: str, keep: float = KEEP, on_step: ProgressFn = no_progress) -> Json:
    """Score a candidate negated alone at its own best scale, on validation, for the table of candidates.

    Returns `{"status", "keep", "scale", "forget", "retain", "kept"}`; `kept` is retention as a share of
    the base's, and everything but status and keep is None where no scale above 0 keeps enough. Each scale is a step.
    """
    search = bench.search(bench.choose([id]), keep=keep, on_point=_counted(on_step))
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


def _counted(on_step: ProgressFn) -> Callable[[Point], None]:
    """Callback that reports each scale a search has looked at, and of how many; beyond scale 1 that number grows."""
    tried, farthest = 0, 0.0

    def on_point(point: Point) -> None:
        nonlocal tried, farthest
        tried, farthest = tried + 1, max(farthest, point.scale)
        on_step(Progress("scoring", step=tried, total=max(tried, looks(farthest))))

    return on_point


@lru_cache(maxsize=1)
def open_workbench(folder: Path, base: str, device: str) -> Workbench:
    """The worker's own workbench, kept from job to job on the same base."""
    return Workbench(open_pool(folder), device=device)
