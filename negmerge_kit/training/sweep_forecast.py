"""How long a grid takes on this device: a few of its steps are run and timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from statistics import median

from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.forecast import SEARCHED, SUSTAINED, TRAINING, Clock, flops_per_image, seconds_of_an_image
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json

STEPS = 3
"""Steps that are timed of each kind of recipe, after one that also sets up."""


def measured_seconds(
    model: Classifier,
    images: ImageSet,
    recipes: Sequence[Recipe],
    *,
    scored: int,
    base: tuple[ImageSet, Recipe] | None = None,
    kinds: dict[Recipe, float] | None = None,
    clock: Clock = time.perf_counter,
) -> Json:
    """Seconds for these recipes where the model is, at the speed of steps that are taken now and undone again.

    Every kind of recipe, apart from its rate, its decay, its seed and its length, takes STEPS steps; the median of them
    times the recipe's own number of steps is its training. The search of each candidate's own scale is SEARCHED of
    scoring `scored` images at every scale.

    Args:
        images: that candidates train on.
        scored: validation images of both sides.
        base: the images and the recipe that the base is trained with first, if it is.
        kinds: seconds of a step of each kind that was measured before; those that are measured now are added.

    Returns:
        `{"base_seconds", "training_seconds", "scoring_seconds", "seconds", "steps"}`.
    """
    kinds = {} if kinds is None else kinds
    total, steps = 0.0, 0
    for recipe in recipes:
        kind = replace(recipe, lr=1e-6, weight_decay=0.0, seed=0, epochs=1)
        if kind not in kinds:
            kinds[kind] = seconds_of_a_step(model, images, kind, clock=clock)
        count = steps_of(recipe, len(images))
        total, steps = total + count * kinds[kind], steps + count
    before = 0.0
    if base is not None:
        seen, recipe = base
        before = steps_of(recipe, len(seen)) * seconds_of_a_step(model, seen, replace(recipe, lr=1e-6), clock=clock)
        steps += steps_of(recipe, len(seen))
    looked = len(recipes) * SEARCHED * len(DEFAULT_SCALES) * scored
    scoring = looked * seconds_of_an_image(model, clock=clock)
    return _summed(before, total, scoring, steps)


def assumed_seconds(
    model: Classifier,
    images: int,
    recipes: Sequence[Recipe],
    *,
    scored: int,
    base: tuple[int, Recipe] | None = None,
    tflops: float = SUSTAINED,
) -> Json:
    """As `measured_seconds`, for a device that sustains so many tera floating-point operations a second."""
    each = flops_per_image(model) / (tflops * 1e12)
    training = TRAINING * each * images * sum(recipe.epochs for recipe in recipes)
    before = 0.0 if base is None else TRAINING * each * base[0] * base[1].epochs
    scoring = len(recipes) * SEARCHED * len(DEFAULT_SCALES) * scored * each
    steps = sum(steps_of(recipe, images) for recipe in recipes) + (0 if base is None else steps_of(base[1], base[0]))
    return _summed(before, training, scoring, steps)


def _summed(base: float, training: float, scoring: float, steps: int) -> Json:
    seconds = {"base_seconds": base, "training_seconds": training, "scoring_seconds": scoring}
    return {**seconds, "seconds": base + training + scoring, "steps": steps}


def steps_of(recipe: Recipe, images: int) -> int:
    """Steps of a whole run: its epochs times the batches of an epoch, the last one as small as it is.

    >>> steps_of(Recipe(lr=1e-3, epochs=2, batch_size=64), 130)
    6
    """
    return recipe.epochs * -(-images // recipe.batch_size)


def seconds_of_a_step(
    model: Classifier, images: ImageSet, recipe: Recipe, *, clock: Clock = time.perf_counter
) -> float:
    """The median of STEPS training steps, after one that also sets up; the model has its weights again at the end."""
    kept = {name: tensor.clone() for name, tensor in model.weights().items()}
    few = replace(recipe, epochs=-(-(STEPS + 1) // max(1, -(-len(images) // recipe.batch_size))))
    spent: list[float] = []
    # A generator: closing it gives training mode and threads back.
    with closing(finetune(model, images, few)) as run:
        started = clock()
        for step in run:
            now = clock()
            spent.append(now - started)
            if step.index > STEPS:
                break
            started = clock()
    model.load(kept.items())
    return median(spent[1:] or spent)
