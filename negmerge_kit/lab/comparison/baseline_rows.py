"""A baseline's row: every rate tried on validation, the best one measured on test, all of it charged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from negmerge_kit.errors import SearchDivergedError
from negmerge_kit.lab.baselines import BASELINES
from negmerge_kit.lab.baselines.choosing import choose_rate
from negmerge_kit.lab.baselines.trials import STATE, ChosenRate
from negmerge_kit.lab.comparison.cost import Cost, metered
from negmerge_kit.lab.comparison.entrants import RETRAIN, RETRAIN_AGAIN, Entrant
from negmerge_kit.lab.comparison.rows import Row
from negmerge_kit.lab.comparison.terms import Terms
from negmerge_kit.lab.evaluation import evaluate, evaluate_splits
from negmerge_kit.lab.retrained import Retrained, Wanted, keep_retrained
from negmerge_kit.lab.training.from_scratch import BaseTraining
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.lab.yardstick import Yardstick
from negmerge_kit.progress import ProgressFn, no_progress
from negmerge_kit.scoring.accuracy import Accuracy, Pair, pool_accuracies
from negmerge_kit.scoring.retention_floor import images_needed
from negmerge_kit.types import Json
from negmerge_kit.vision.classifier import Classifier


def base_row(entrant: Entrant, yardstick: Yardstick) -> Row:
    """The base as it is: nothing done, at no cost."""
    bench = yardstick.bench
    return _row(entrant, yardstick, bench.fresh_model(), "ok", _cost(yardstick, 0.0, 0, None), {}, ())


def yardstick_of(bench: Workbench, terms: Terms, *, on_shadow: ProgressFn = no_progress) -> Yardstick:
    """What models are measured with on these terms: shadow models, and two retrained ones; one chooses, one judges."""
    wanted = Wanted(seed=terms.seed, epochs=terms.epochs, device=bench.model.device.type)
    return Yardstick(
        bench, shadows=terms.shadows, seed=terms.seed, wanted=wanted, chooser=wanted.other, on_shadow=on_shadow
    )


def retrained(
    yardstick: Yardstick, terms: Terms, on_step: ProgressFn = no_progress, *, split: str = "test", anew: bool = False
) -> Retrained:
    """The pool's retrained model that counts on `split`; trained now and kept where there is none, or `anew`.

    Its rate, where there are several to try, is the one with the best accuracy on validation.

    Args:
        split: "test" for the one that judges, of the terms' seed; "val" for the one that chooses.

    Raises:
        SearchDivergedError: if no rate gave numbers.
    """
    if not anew and (found := yardstick.retrained(split)):
        return found
    wanted = yardstick.chooser if split == "val" else yardstick.wanted
    assert wanted.seed is not None
    terms = replace(terms, seed=wanted.seed)
    model, validation = yardstick.bench.fresh_model(), yardstick.parts.validation
    chosen = _search(
        RETRAIN,
        model,
        yardstick,
        terms,
        lambda made: 1 - evaluate(made, validation).for_choosing().value,
        "1 - accuracy on validation",
        on_step,
        anew,
    )
    keep_retrained(yardstick.bench.pool, model.weights("cpu"), chosen.json(), wanted)
    for state in (yardstick.bench.pool.folder / "baselines").glob(f"{RETRAIN}-*.{STATE}"):
        state.unlink(missing_ok=True)
    found = yardstick.retrained(split)
    assert found is not None
    return found


def baseline_row(
    entrant: Entrant,
    yardstick: Yardstick,
    terms: Terms,
    keep: float,
    on_step: ProgressFn = no_progress,
    *,
    anew: bool = False,
) -> Row:
    """Search a baseline's rate on validation, by the terms' way to choose, and measure the best one on test.

    By the floor: forget most with at least `keep` of the base's retention, as a scale is chosen. By the gap: be
    nearest to the retrained model that chooses, which is not the one that judges. With `anew` no trial that was kept is
    believed.
    """
    model = yardstick.bench.fresh_model()
    with metered(model.device) as meter:
        if entrant.rule in (RETRAIN, RETRAIN_AGAIN):
            split = "test" if entrant.rule == RETRAIN else "val"
            # Where all is to be made again, it was before the rows.
            found = retrained(yardstick, terms, on_step, split=split)
            model.load(found.weights.items())
            trials = tuple(found.made_by.get("trials", ()))
            told: Json = {name: found.made_by[name] for name in ("epochs", "seed") if name in found.made_by}
            cost = _cost(yardstick, found.seconds, len(trials), None)
            return _row(entrant, yardstick, model, "ok", cost, told, trials)
        score, scored_by = _by_gap(yardstick) if terms.choose == "gap" else _by_floor(yardstick, keep)
        chosen: ChosenRate | SearchDivergedError
        try:
            chosen = _search(entrant.rule, model, yardstick, terms, score, scored_by, on_step, anew)
        except SearchDivergedError as error:
            chosen = error
    cost = _cost(yardstick, chosen.seconds, len(chosen.trials), meter.peak)
    if isinstance(chosen, SearchDivergedError):
        return Row(
            entrant, (), {"why": str(chosen)}, "diverged", None, None, None, None, None, (), cost, trials=chosen.trials
        )
    best = chosen.chosen.score
    status = "infeasible" if terms.choose == "floor" and best is not None and best > 1 else "ok"
    params = {chosen.dial.replace(" ", "_"): chosen.chosen.rate, "epochs": chosen.epochs, **chosen.params}
    return _row(entrant, yardstick, model, status, cost, params, tuple(chosen.json()["trials"]))


def _search(
    name: str,
    model: Classifier,
    yardstick: Yardstick,
    terms: Terms,
    score: Callable[[Classifier], float],
    scored_by: str,
    on_step: ProgressFn,
    anew: bool,
) -> ChosenRate:
    """Try the preset's rates; the model is left as the best one made it."""
    bench, baseline = yardstick.bench, BASELINES[name]
    scene = bench.scene
    preset = baseline.preset_of(str(model.spec))
    training = BaseTraining.of(scene)
    return choose_rate(
        baseline,
        model,
        yardstick.parts,
        score,
        epochs=terms.epochs or preset.epochs or training.recipe.epochs,
        fresh=lambda seed: scene.untrained(device=str(model.device), seed=seed),
        recipe=training.recipe,
        rates=preset.rates,
        seed=terms.seed,
        params=preset.params,
        may_mirror=training.may_mirror,
        scored_by=scored_by,
        store=bench.pool.folder / "baselines",
        anew=anew,
        on_step=on_step,
    )


def _by_gap(yardstick: Yardstick) -> tuple[Callable[[Classifier], float], str]:
    yardstick.require()
    reference = yardstick.retrained("val")
    assert reference is not None

    def score(model: Classifier) -> float:
        gap = yardstick.point(model).gap
        assert gap is not None
        return gap

    return score, f"gap to the retrained model {reference.sha256[:16]} on validation"


def _by_floor(yardstick: Yardstick, keep: float) -> tuple[Callable[[Classifier], float], str]:
    """Forget accuracy where enough is kept, else 1 and what is missing."""
    bench = yardstick.bench
    least = images_needed(keep, bench.base_scores("val").point(0.0))
    assert isinstance(least, int)

    def score(model: Classifier) -> float:
        scores = evaluate_splits(model, bench.images("val"))
        short = least - scores.retain.correct
        return scores.forget.value if short <= 0 else 1 + short / scores.retain.n

    return score, f"accuracy on forgotten images, 1 + the shortfall below {least} retain images right, on validation"


def _row(
    entrant: Entrant,
    yardstick: Yardstick,
    model: Classifier,
    status: str,
    cost: Cost,
    params: Json,
    trials: tuple[Json, ...],
) -> Row:
    standing = yardstick.standing(model, "test", cost.wall)
    forget, *kept = (
        Accuracy(round(score["value"] * score["n"]), score["n"], standing.split)
        for score in (standing.scores[name] for name in ("forget", "retain", "unseen"))
    )
    test = Pair(forget, pool_accuracies(kept))
    scores = evaluate_splits(model, yardstick.bench.images("val"))
    validation = Pair(scores.forget, scores.retain)
    return Row(entrant, (), params, status, None, validation, test, None, None, (), cost, standing, trials)


def _cost(yardstick: Yardstick, seconds: float, trials: int, peak: int | None) -> Cost:
    """A baseline trains no candidate and merges nothing: all its time is its search."""
    return Cost(0.0, 0.0, seconds, str(yardstick.bench.model.device), peak, trials, 0)
