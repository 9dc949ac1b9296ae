"""Fine-tuning one candidate: the image tower on the forget set, under the frozen head."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import cos, pi
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.parameters import trained_parameters
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.loop import Step, View, gradients, image_pass, train
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.training.resume import StateFile, describe_run
from negmerge_kit.training.seeding import derived_seed

MOMENTUM = 0.9
"""Of SGD, as in the reference protocol of standard classifiers."""


def finetune(
    model: Classifier,
    images: ImageSet,
    recipe: Recipe,
    *,
    resume: Path | None = None,
    execution: Execution | None = None,
    may_mirror: bool = False,
) -> Generator[Step]:
    """Train the model's image tower on `images` in place, a step at each iteration.

    Cross-entropy of the frozen head's logits, AdamW or SGD, linear warm-up then cosine to zero, gradient norm clipped:
    the recipe of arXiv:2410.05583 with the scene's own rates. The head and the text tower stay as they are, so the
    candidate differs from the base in the recipe's `trainable` parameters only; a standard classifier trains whole,
    its head and its running statistics too. What the network draws itself, such as dropout, comes from the recipe's
    seed; between steps torch's own generators are as the caller left them.

    Args:
        resume: a file that keeps the run's state. Where it exists the run goes on from it: the steps already done are
            yielded again from the record, and the weights at the end are bit for bit those of a run never stopped.
            The caller deletes it when the candidate is saved.
        execution: memory and speed options.
        may_mirror: whether a mirrored image of this data set still shows its class (`DataSource.flips`).

    Raises:
        DivergedError: if the loss or, by the last step, a weight stops being a number.
        ParameterError: if the recipe or the execution does not fit the model or the device.
        CheckpointError: if the state cannot be written, or is another run's.

    >>> from negmerge_kit.models.load import load_model
    >>> from negmerge_kit.data.embedded import family_images
    >>> model, digits = load_model("tiny", device="cpu"), family_images("digits", "train")
    >>> steps = list(finetune(model, digits.take(128), Recipe(lr=1e-3, epochs=2)))
    >>> len(steps), steps[-1].index
    (4, 4)
    """
    execution = execution or Execution()
    execution.check(model, recipe)
    weights = list(trained_parameters(model.tower, recipe.trainable).values())

    def loss(view: View) -> Tensor:
        return cross_entropy(view.logits, view.labels, label_smoothing=recipe.label_smoothing)

    one = image_pass(model, images, recipe, loss, may_mirror=may_mirror, execution=execution)
    state = None
    if resume:
        run = describe_run(model, images, recipe, recipe.mirrors(may_mirror))
        state = StateFile(resume, run, recipe, every=execution.save_seconds)
    with gradients(model, weights, train=model.mode == "standard", layout=execution.memory_format(model)):
        yield from train(
            model.tower,
            [one],
            _optimizer(weights, recipe),
            lambda index: rate(recipe, index, one.steps),
            # The 0 was the number of the process in version 0.1: without it a recipe with dropout would train to other
            # bits.
            seed=lambda index: derived_seed(recipe.seed, "dropout", index, 0),
            hint=f"{recipe.label}: lower the learning rate.",
            precision=recipe.precision,
            clip_norm=recipe.clip_norm,
            micro_batch=execution.micro_batch,
            state=state,
        )


def _optimizer(weights: Sequence[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=recipe.lr, momentum=MOMENTUM, weight_decay=recipe.weight_decay, foreach=True)
    return torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)


def rate(recipe: Recipe, index: int, total: int) -> float:
    """Learning rate of a step counted from 0: linear up to the peak, then down by the recipe's schedule.

    >>> [round(rate(Recipe(lr=1.0, epochs=1, warmup=2, warmup_share=0.5), k, 4), 3) for k in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = min(recipe.warmup, max(1, int(total * recipe.warmup_share)))
    if index < warmup:
        return recipe.lr * ((index + 1) / warmup)
    if recipe.schedule == "multistep":
        return recipe.lr * 0.1 ** ((index >= total / 2) + (index >= total * 3 / 4))
    return recipe.lr * (0.5 * (1 + cos(pi * (index - warmup) / max(1, total - warmup))))
