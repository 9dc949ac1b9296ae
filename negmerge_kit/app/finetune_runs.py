"""Fine-tuning behind the page: plans become pools, one fine-tuning at a time, in the line of the app's heavy jobs."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

from negmerge_kit.app.jobs import CancelledError, Job
from negmerge_kit.app.plans import Plan, Plans
from negmerge_kit.app.pools import Pools
from negmerge_kit.app.uploads import Uploads
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.plots.loss_curves import LossCurve
from negmerge_kit.pools.pool import Candidate
from negmerge_kit.progress import Progress
from negmerge_kit.sweeps.finetune_job import missing_jobs, pool_order
from negmerge_kit.sweeps.job import Executor, SweepStopped
from negmerge_kit.sweeps.job import Job as SweepJob
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import find_executor, run_sweep
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.forecast import predicted_seconds
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.training.sweep_forecast import measured_seconds
from negmerge_kit.unlearning.base_knowledge import require_known

SAVE_SECONDS = 5.0
"""Least time between two saves of the state that a killed fine-tuning goes on from."""

ADDRESS = re.compile(r"auto|[A-Za-z0-9][A-Za-z0-9.-]{0,252}:\d{1,5}")
log = logging.getLogger(__name__)

STOPPED = "Stopped. What is finished is kept; Resume goes on from where it was."


class Cost(NamedTuple):
    """Of recipes that are not started yet: seconds of training, seconds of the search of own scales, bytes on disk."""

    training: float
    scoring: float
    disk: int


@dataclass
class _Measured:
    """The model of the plan whose cost is asked for, and seconds of a step of each kind of recipe that was measured."""

    plan: str
    model: Classifier
    kinds: dict[Recipe, float] = field(default_factory=dict)


@dataclass
class Run:
    """One fine-tuning, as the page shows it."""

    plan: Plan
    job: Job | None = None
    done: int = 0
    recorded: set[str] = field(default_factory=set)
    curves: dict[str, LossCurve] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    share_at_start: float = 0.0
    failures: list[str] = field(default_factory=list)
    pool: str | None = None
    stopped: bool = False

    @property
    def future(self) -> Future[Any] | None:
        """Of the job, once it is in line."""
        return self.job.future if self.job else None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.future is not None and self.future.done()

    @property
    def error(self) -> str | None:
        """Why it ended before its time, in a sentence."""
        error = self.future.exception() if self.future and self.ended else None
        return None if error is None or isinstance(error, CancelledError) else str(error)

    @property
    def share(self) -> float:
        """The part of the whole grid that is done."""
        running = sum(part for label, part in list(self.parts.items()) if label not in self.recorded)
        return min(1.0, (self.done + running) / max(1, len(self.plan.recipes)))

    @property
    def left(self) -> float | None:
        """Seconds that are left, by how long the part took that this run has done; None while nobody can say."""
        part, gone = self.share - self.share_at_start, time.monotonic() - self.began
        return gone * (1 - self.share) / part if part > 0.01 and gone > 1 else None

    def show_recorded(self, labels: Mapping[str, str], entries: Sequence[Candidate]) -> None:
        """Draw what was trained before, too; `labels` are the lines of the grid's candidates by id."""
        for entry in entries:
            if entry.id in labels and entry.losses:
                label = labels[entry.id]
                self.curves[label] = LossCurve(label, entry.losses, len(entry.losses))
                self.recorded.add(label)

    def note(self, label: str, step: Progress) -> None:
        """A candidate has taken a step of its training, or of the search of its own scale."""
        self.parts[label] = step.fraction or 0.0
        if step.loss is None:
            return
        before = self.curves.get(label) or LossCurve(label, (), step.total, step.step)
        self.curves[label] = LossCurve(label, (*before.losses, step.loss), before.total, before.first)


class FinetuneRuns:
    """Fine-tuning for one app; all visitors see the same run.

    Args:
        pools: where finished pools are opened.
        plans: what was begun, by this process or an earlier one.
        uploads: says whether anything may be fine-tuned at all.
        device: where candidates train.
    """

    def __init__(self, pools: Pools, plans: Plans, uploads: Uploads, *, device: str = "auto") -> None:
        self.pools, self.plans, self.uploads, self._device = pools, plans, uploads, device
        self.run: Run | None = None
        self._turn, self._measuring = threading.Lock(), threading.Lock()
        self._measured: _Measured | None = None

    def start(self, id: object, recipes: Sequence[Recipe] = (), address: object = "", *, anyway: object = False) -> Run:
        """Fine-tune what the plan lacks; without recipes it goes on with those that it has.

        Unless `anyway`, nothing is trained where the base does not know what it should forget.

        Raises:
            ParameterError: in a public app, for a plan that does not exist, or where another fine-tuning runs.
        """
        self.uploads.check_allowed()
        plan, executor = self.plans.read(id).with_recipes(tuple(recipes)), executor_for(address, self._device)
        if not plan.recipes:
            raise ParameterError("the grid is empty: add a row, or choose a preset.")
        with self._turn:
            if self.run and not self.run.ended:
                raise ParameterError(
                    f"{self.run.plan.scene.name} is being fine-tuned, and one runs at a time: wait for it or stop it."
                )
            plan.write()
            run = Run(plan, done=plan.done)
            run.share_at_start = run.share
            run.job = self.pools.jobs.begin(lambda job: self._work(job, run, executor, bool(anyway)))
            self.run = run
            return run

    def stop(self) -> None:
        """End the run at its next step; what is finished is kept.

        Raises:
            ParameterError: in a public app, or if nothing runs.
        """
        self.uploads.check_allowed()
        run = self.run
        if run is None or run.ended or run.job is None:
            raise ParameterError("nothing is being fine-tuned: there is nothing to stop.")
        run.stopped = True
        run.job.stop()

    def serve_finished(self) -> None:
        """Serve what earlier apps have made; in a public app nothing of it."""
        if not self.uploads.allowed:
            return
        for id in self.plans.ids():
            try:
                if self.plans.read(id).candidates:
                    self.open(id)
            except NegmergeError as error:
                log.warning("%s", error)

    def open(self, id: object) -> str:
        """The id under which the plan's pool is served now.

        Raises:
            ParameterError, PoolError: for a plan without a pool, or one without a candidate.
        """
        plan = self.plans.read(id)
        if not plan.candidates:
            raise ParameterError(f"{plan.scene.name} has no finished candidate yet: fine-tune it first.")
        served = self.pools.add(plan.folder)
        if served in self.pools.opened:
            self.pools.open(served).bench.refresh()
        return served

    def cost(self, plan: Plan, recipes: Sequence[Recipe]) -> Cost:
        """What these recipes take on the app's device."""
        with self._measuring:  # the model's weights move
            if self._measured is None or self._measured.plan != plan.id:
                self._measured = _Measured(plan.id, plan.scene.load(device=self._device))
            model, val = self._measured.model, plan.scene.images("val")
            scored = len(val.forget) + sum(len(images) for images in val.retain)
            if self.pools.jobs.busy:  # steps taken now would hold up what runs, and be held up by it
                training, scoring = predicted_seconds(model, recipes, images=plan.images, scored=scored)
            else:
                images = plan.scene.images("train").forget
                forecast = measured_seconds(model, images, recipes, scored=scored, kinds=self._measured.kinds)
                training, scoring = forecast["training_seconds"], forecast["scoring_seconds"]
            size = sum(tensor.numel() * tensor.element_size() for tensor in model.weights("meta").values())
        return Cost(training, scoring, size * len(recipes))

    def _work(self, job: Job, run: Run, executor: Executor, anyway: bool) -> None:
        plan = run.plan
        job.tell("Reading the images")
        pool, _ = start_pool(
            plan.scene,
            plan.folder,
            device=self._device,
            on_step=lambda at: job.tell(f"Training the base: step {at.step} of {at.total}"),
            on_wait=lambda folder: job.tell("Another negmerge makes this pool: waiting for its base"),
        )
        if not anyway:
            job.tell("Looking at what the base knows")
            require_known(pool, device=self._device)
        run.done, run.began = plan.done, time.monotonic()
        run.share_at_start = run.share
        recipes, execution = plan.recipes, Execution(save_seconds=SAVE_SECONDS)
        order, labels = pool_order(pool, recipes), _labels(recipes)
        run.show_recorded({id: labels[recipe] for id, recipe in zip(order, recipes, strict=True)}, pool.entries)

        def on_step(of: SweepJob, step: Progress) -> None:
            try:
                run.note(labels[of.recipe], step)  # type: ignore[attr-defined]
                what = "Fine-tuning" if step.loss is not None else f"Scoring, {step.step} of {step.total} scales"
                job.tell(f"{what}: {of.label}", run.share)
            except CancelledError:
                raise SweepStopped from None

        todo = missing_jobs(pool, recipes, device=self._device, execution=execution, anyway=anyway)
        for outcome in run_sweep(todo, store=pool, executor=executor, order=order, on_step=on_step):
            if outcome.failure is None:
                run.recorded.add(labels[outcome.job.recipe])
                run.done += 1
            else:
                run.parts.pop(labels[outcome.job.recipe], None)
                run.failures.append(f"{outcome.job.label} failed: {outcome.failure.strip().splitlines()[-1]}")
            job.tell()
        job.tell()
        if not plan.done:
            why = "; ".join(run.failures[:2]) or "see the terminal"
            raise NegmergeError(f"no candidate could be fine-tuned: {why}")
        run.pool = self.open(plan.id)


def executor_for(address: object, device: str) -> Executor:
    """Where candidates train: here, one after another, or on the Ray cluster at an address.

    Raises:
        ParameterError: for an address that is none, or where Ray is not installed.
    """
    if not isinstance(address, str) or len(address) > 300:
        raise ParameterError("the Ray address must be a text: leave it empty, or write auto or HOST:PORT.")
    if not address.strip():
        return find_executor("serial")
    if not ADDRESS.fullmatch(address.strip()):
        raise ParameterError("the Ray address is not HOST:PORT: write 10.0.0.5:6379 or auto, or leave it empty.")
    if find_spec("ray") is None:
        raise ParameterError(
            "Ray is not installed here: run `pip install 'negmerge_kit[cluster]'`, or leave the address empty to train "
            "on this machine."
        )
    return find_executor("ray", address=address.strip(), device=device)


def _labels(recipes: Sequence[Recipe]) -> dict[Recipe, str]:
    """A line for each recipe, with its seed where two lines would be the same."""
    lines = [recipe.label for recipe in recipes]
    return {
        recipe: recipe.label if lines.count(recipe.label) == 1 else f"{recipe.label} · seed {recipe.seed}"
        for recipe in recipes
    }
