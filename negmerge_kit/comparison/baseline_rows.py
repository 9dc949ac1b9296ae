"""Rows of baselines: every rate is tried on validation, the best one is measured on test, all time is charged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from negmerge_kit.baselines import BASELINES
from negmerge_kit.baselines.rate_search import choose_rate
from negmerge_kit.baselines.trials import STATE, ChosenRate
from negmerge_kit.classifier_eval.evaluator import ClassifierEvaluator
from negmerge_kit.classifier_eval.retrained_model import RetrainedModel, RetrainedSpec, keep_retrained
from negmerge_kit.comparison.methods import RETRAIN, RETRAIN_AGAIN, Method
from negmerge_kit.comparison.options import ComparisonOptions
from negmerge_kit.comparison.row import Row
from negmerge_kit.errors import SearchDivergedError
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.progress import ProgressFn, no_progress
from negmerge_kit.scoring.accuracy import Accuracy, Pair, pool_accuracies
from negmerge_kit.scoring.retention_floor import images_needed
from negmerge_kit.training.from_scratch import BaseTraining
from negmerge_kit.types import Json
from negmerge_kit.unlearning.cost import Cost, metered
from negmerge_kit.unlearning.evaluation import evaluate, evaluate_splits
from negmerge_kit.unlearning.workbench import Workbench


def base_row(method: Method, evaluator: ClassifierEvaluator) -> Row:
    """The base as it is: nothing done, at no cost."""
    bench = evaluator.bench
    return _row(method, evaluator, bench.fresh_model(), "ok", _cost(evaluator, 0.0, 0, None), {}, ())


def evaluator_of(
    bench: Workbench, options: ComparisonOptions, *, on_shadow: ProgressFn = no_progress
) -> ClassifierEvaluator:
    """Evaluator with the options' shadow models and two retrained models: one chooses, one is compared with on test."""
    wanted = RetrainedSpec(seed=options.seed, epochs=options.epochs, device=bench.model.device.type)
    return ClassifierEvaluator(
        bench, shadows=options.shadows, seed=options.seed, wanted=wanted, chooser=wanted.other, on_shadow=on_shadow
    )


def retrained(
    evaluator: ClassifierEvaluator,
    options: ComparisonOptions,
    on_step: ProgressFn = no_progress,
    *,
    split: str = "test",
    recompute: bool = False,
) -> RetrainedModel:
    """The pool's retrained model that counts on `split`; trained now and kept where there is none, or `recompute`.

    Its rate, where there are several to try, is the one with the best accuracy on validation.

    Args:
        split: "test" for the one that judges, of the options' seed; "val" for the one that chooses.

    Raises:
        SearchDivergedError: if no rate gave numbers.
    """
    if not recompute and (found := evaluator.retrained(split)):
        return found
    wanted = evaluator.chooser if split == "val" else evaluator.wanted
    assert wanted.seed is not None
    options = replace(options, seed=wanted.seed)
    model, validation = evaluator.bench.fresh_model(), evaluator.parts.validation
    chosen = _search(
        RETRAIN,
        model,
        evaluator,
        options,
        lambda made: 1 - evaluate(made, validation).for_choosing().value,
        "1 - accuracy on validation",
        on_step,
        recompute,
    )
    keep_retrained(evaluator.bench.pool, model.weights("cpu"), chosen.json(), wanted)
    for state in (evaluator.bench.pool.folder / "baselines").glob(f"{RETRAIN}-*.{STATE}"):
        state.unlink(missing_ok=True)
    found = evaluator.retrained(split)
    assert found is not None
    return found


def baseline_row(
    method: Method,
    evaluator: ClassifierEvaluator,
    options: ComparisonOptions,
    keep: float,
    on_step: ProgressFn = no_progress,
    *,
    recompute: bool = False,
) -> Row:
    """Search a baseline's rate on validation, as `options.choose` says, and measure the best one on test.

    By the floor: forget most with at least `keep` of the base's retention, as a scale is chosen. By the gap: be
    nearest to the retrained model that chooses, which is not the one that judges. With `recompute` no stored trial is
    used.
    """
    model = evaluator.bench.fresh_model()
    with metered(model.device) as meter:
        if method.rule in (RETRAIN, RETRAIN_AGAIN):
            split = "test" if method.rule == RETRAIN else "val"
            # Where all is to be made again, it was done before the rows.
            found = retrained(evaluator, options, on_step, split=split)
            model.load(found.weights.items())
            trials = tuple(found.made_by.get("trials", ()))
            params: Json = {name: found.made_by[name] for name in ("epochs", "seed") if name in found.made_by}
            cost = _cost(evaluator, found.seconds, len(trials), None)
            return _row(method, evaluator, model, "ok", cost, params, trials)
        score, scored_by = _by_gap(evaluator) if options.choose == "gap" else _by_floor(evaluator, keep)
        chosen: ChosenRate | SearchDivergedError
        try:
            chosen = _search(method.rule, model, evaluator, options, score, scored_by, on_step, recompute)
        except SearchDivergedError as error:
            chosen = error
    cost = _cost(evaluator, chosen.seconds, len(chosen.trials), meter.peak)
    if isinstance(chosen, SearchDivergedError):
        return Row(
            method, (), {"why": str(chosen)}, "diverged", None, None, None, None, None, (), cost, trials=chosen.trials
        )
    best = chosen.chosen.score
    status = "infeasible" if options.choose == "floor" and best is not None and best > 1 else "ok"
    params = {chosen.dial.replace(" ", "_"): chosen.chosen.rate, "epochs": chosen.epochs, **chosen.params}
    return _row(method, evaluator, model, status, cost, params, tuple(chosen.json()["trials"]))


def _search(
    name: str,
    model: Classifier,
    evaluator: ClassifierEvaluator,
    options: ComparisonOptions,
    score: Callable[[Classifier], float],
    scored_by: str,
    on_step: ProgressFn,
    recompute: bool,
) -> ChosenRate:
    """Try the preset's rates; the model is left as the best one made it."""
    bench, baseline = evaluator.bench, BASELINES[name]
    scene = bench.scene
    preset = baseline.preset_of(str(model.spec))
    training = BaseTraining.of(scene)
    return choose_rate(
        baseline,
        model,
        evaluator.parts,
        score,
        epochs=options.epochs or preset.epochs or training.recipe.epochs,
        fresh=lambda seed: scene.untrained(device=str(model.device), seed=seed),
        recipe=training.recipe,
        rates=preset.rates,
        seed=options.seed,
        params=preset.params,
        may_mirror=training.may_mirror,
        scored_by=scored_by,
        store=bench.pool.folder / "baselines",
        recompute=recompute,
        on_step=on_step,
    )


def _by_gap(evaluator: ClassifierEvaluator) -> tuple[Callable[[Classifier], float], str]:
    evaluator.require()
    reference = evaluator.retrained("val")
    assert reference is not None

    def score(model: Classifier) -> float:
        gap = evaluator.point(model).gap
        assert gap is not None
        return gap

    return score, f"gap to the retrained model {reference.sha256[:16]} on validation"


def _by_floor(evaluator: ClassifierEvaluator, keep: float) -> tuple[Callable[[Classifier], float], str]:
    """Forget accuracy where enough is kept, else 1 and what is missing."""
    bench = evaluator.bench
    least = images_needed(keep, bench.base_scores("val").point(0.0))
    assert isinstance(least, int)

    def score(model: Classifier) -> float:
        scores = evaluate_splits(model, bench.images("val"))
        short = least - scores.retain.correct
        return scores.forget.value if short <= 0 else 1 + short / scores.retain.n

    return score, f"accuracy on forgotten images, 1 + the shortfall below {least} retain images right, on validation"


def _row(
    method: Method,
    evaluator: ClassifierEvaluator,
    model: Classifier,
    status: str,
    cost: Cost,
    params: Json,
    trials: tuple[Json, ...],
) -> Row:
    metrics = evaluator.metrics(model, "test", cost.wall)
    forget, *kept = (
        Accuracy(round(score["value"] * score["n"]), score["n"], metrics.split)
        for score in (metrics.scores[name] for name in ("forget", "retain", "unseen"))
    )
    test = Pair(forget, pool_accuracies(kept))
    scores = evaluate_splits(model, evaluator.bench.images("val"))
    validation = Pair(scores.forget, scores.retain)
    return Row(method, (), params, status, None, validation, test, None, None, (), cost, metrics, trials)


def _cost(evaluator: ClassifierEvaluator, seconds: float, trials: int, peak: int | None) -> Cost:
    """A baseline trains no candidate and merges nothing: all its time is its search."""
    return Cost(0.0, 0.0, seconds, str(evaluator.bench.model.device), peak, trials, 0)
