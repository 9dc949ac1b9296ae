"""Rate search of a baseline: every rate is tried from the base's weights and scored on validation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, cast

from negmerge_kit.baselines.baseline import Baseline
from negmerge_kit.baselines.trials import STATE, ChosenRate, Trial
from negmerge_kit.checkpoints.overwrite_guard import make_folder
from negmerge_kit.errors import DivergedError, NotFiniteError, ParameterError, SearchDivergedError
from negmerge_kit.pools.result_store import ResultStore, made_with
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.training.resume import describe_run

if TYPE_CHECKING:
    from torch import Tensor

    from negmerge_kit.models.classifier import Classifier
    from negmerge_kit.scenes.forget_set import Parts
    from negmerge_kit.training.loop import Step
    from negmerge_kit.training.recipe import Recipe


def choose_rate(
    baseline: Baseline,
    model: Classifier,
    parts: Parts,
    score: Callable[[Classifier], float],
    *,
    epochs: int,
    fresh: Callable[[int], Classifier],
    recipe: Recipe,
    rates: Sequence[float] = (),
    seed: int = 0,
    params: Mapping[str, object] | None = None,
    may_mirror: bool = False,
    scored_by: str = "score",
    store: Path | None = None,
    recompute: bool = False,
    on_step: ProgressFn = no_progress,
) -> ChosenRate:
    """Try every rate on the same seed, from the base's weights; the model is left as the best one made it.

    The score is the caller's and comes from validation images: a test split never chooses. Ties take the smaller rate.
    On an error, or where `on_step` raises to cancel, the model has the base's weights again.

    Args:
        model: holds the base's weights.
        score: of an unlearned model; smaller is better. No number, or NotFiniteError, counts as diverged.
        rates: to try; where there are none, the base recipe's.
        scored_by: what the score is, in words, for the log.
        store: a folder that keeps each trial as it ends, for a search that was stopped to go on from: under all that
            decides it, the base's weights, both sets, `scored_by`, results version, torch and device.
        recompute: try every rate again, whatever the folder keeps.
        on_step: called with each training step among those of all rates, of which each takes as many; the best one,
            where it is made again, counts as the last.

    Raises:
        SearchDivergedError: if every rate diverged; it has the trials.
        ParameterError: for a rate twice, or what `Baseline.unlearn` refuses.
        CheckpointError: if the folder cannot be made.
    """
    rates = sorted(map(float, rates or (recipe.lr,)))
    if len(set(rates)) < len(rates):
        raise ParameterError(f"{baseline.name} is to try {_told(rates)}: give each rate once.")
    settings, base = baseline.resolve(params or {}), model.weights()
    results = None if store is None else ResultStore(make_folder(store))
    made_from = (
        {}
        if results is None
        else {
            **made_with(model.device),
            "epochs": epochs,
            "seed": seed,
            "params": settings,
            "scored_by": scored_by,
            "sets": [describe_run(model, images, recipe, may_mirror) for images in (parts.forgotten, parts.remaining)],
        }
    )

    def known(rate: float) -> Trial | None:
        values = results.get(baseline.name, made_from | {"rate": rate}) if results and not recompute else None
        try:
            return Trial(**values) if values else None
        except TypeError:  # a record of ours that somebody edited
            return None

    def tried(rate: float, number: int) -> Trial:
        model.load(base.items())
        doing = f"rate {rate:g} ({number} of {len(rates)}), step" if len(rates) > 1 else "step"
        begun, steps = perf_counter(), 0
        earlier = 0.0
        state = results.path(baseline.name, made_from | {"rate": rate}, f".{STATE}") if results else None
        if recompute and state:
            state.unlink(missing_ok=True)
        try:
            run = baseline.unlearn(
                model,
                parts,
                rate=rate,
                epochs=epochs,
                fresh=fresh,
                recipe=recipe,
                seed=seed,
                params=settings,
                may_mirror=may_mirror,
                resume=state,
            )
            with closing(cast("Generator[Step, None, None]", run)):  # a cancelled run gives the model back at once
                for step in run:
                    steps, earlier = steps + 1, step.earlier
                    index, total = (number - 1) * step.total + step.index, len(rates) * step.total
                    on_step(Progress(doing, step=index, total=total, loss=step.loss))
            value = float(score(model))
            if not isfinite(value):
                raise DivergedError(f"the unlearned model scores {value}.")
        except (DivergedError, NotFiniteError) as error:
            if state is not None:
                state.unlink(missing_ok=True)
            return Trial(rate, None, earlier + perf_counter() - begun, steps, "diverged", str(error))
        return Trial(rate, value, earlier + perf_counter() - begun, steps)

    trials: dict[float, Trial] = {}
    best: Trial | None = None
    weights: dict[str, Tensor] | None = None
    try:
        for number, rate in enumerate(rates, 1):
            kept = known(rate)
            trial = trials[rate] = kept or tried(rate, number)
            if results and not kept:
                results.put(baseline.name, made_from | {"rate": rate}, asdict(trial))
            if trial.score is not None and (best is None or best.score is None or trial.score < best.score):
                best, weights = trial, None if kept else model.weights()
        if best is None:
            raise SearchDivergedError(
                f"{baseline.name} diverged with every {baseline.dial} of {_told(rates)}: give smaller ones.",
                tuple(asdict(trial) for trial in trials.values()),
                sum(trial.seconds for trial in trials.values()),
            )
        if weights is None:  # the best one is known from a search that was stopped; the same seed makes it again
            tried(best.rate, len(rates))
            weights = model.weights()
    except BaseException:
        model.load(base.items())
        raise
    model.load(weights.items())
    return ChosenRate(baseline.name, baseline.dial, epochs, seed, settings, scored_by, best, tuple(trials.values()))


def _told(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
