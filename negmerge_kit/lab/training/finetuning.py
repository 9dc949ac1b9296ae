"""Fine-tuning one candidate: the image tower on the forget set, under the frozen head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import cos, isfinite, pi
from pathlib import Path

import torch
from torch import Tensor

from negmerge_kit.errors import DivergedError
from negmerge_kit.lab.training.batches import Batch, batches, steps_of
from negmerge_kit.lab.training.execution import Execution
from negmerge_kit.lab.training.recipe import Recipe
from negmerge_kit.lab.training.resuming import StateFile, Training, describe_run
from negmerge_kit.lab.training.seeding import derived_seed, seeded
from negmerge_kit.vision.classifier import Classifier
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.lanes import short_operations
from negmerge_kit.vision.parameters import trained_parameters

MOMENTUM = 0.9
"""Of SGD, as in the reference protocol of standard classifiers."""


@dataclass(frozen=True)
class Step:
    """One optimiser step: which of how many, its loss and its learning rate.

    Attributes:
        earlier: seconds that the run took before it was stopped, where it goes on.
    """

    index: int
    total: int
    loss: float
    lr: float
    earlier: float = field(default=0.0, compare=False)


def finetune(
    model: Classifier,
    images: ImageSet,
    recipe: Recipe,
    *,
    resume: Path | None = None,
    execution: Execution | None = None,
    may_mirror: bool = False,
) -> Iterator[Step]:
    """Train the model's image tower on `images` in place, a step at each iteration.

    Cross-entropy of the frozen head's logits, AdamW or SGD, linear warm-up then cosine to zero, gradient norm clipped:
    the recipe of arXiv:2410.05583 with the scene's own rates. The head and the text tower stay as they are, so the
    candidate differs from the base in the recipe's `trainable` parameters only; a standard classifier trains whole,
    its head and its running statistics too. What the network draws itself, such as dropout, comes from the recipe's
    seed; torch's own generators stand between steps as the caller left them.

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

    >>> from negmerge_kit.vision.load import load_model
    >>> from negmerge_kit.vision.families import family_images
    >>> model, digits = load_model("tiny", device="cpu"), family_images("digits", "train")
    >>> steps = list(finetune(model, digits.take(128), Recipe(lr=1e-3, epochs=2)))
    >>> len(steps), steps[-1].index
    (4, 4)
    """
    execution = execution or Execution()
    execution.check(model, recipe)
    mirror = recipe.flips == "as-published" or (recipe.flips == "safe" and may_mirror)
    moving = trained_parameters(model.tower, recipe.trainable)
    weights = list(moving.values())
    optimizer = _optimizer(weights, recipe)
    scaler = torch.amp.GradScaler(model.device.type, enabled=recipe.precision == "float16")
    training = Training(model.tower, moving, optimizer, scaler)
    run = describe_run(model, images, recipe, mirror) if resume else ""
    state = StateFile(resume, run, recipe, every=execution.save_seconds)
    state.restore(training)
    least = execution.least_batch(model, recipe, images)
    total = steps_of(images, recipe, least=least)
    for index, loss in enumerate(training.losses):
        yield Step(index + 1, total, loss, rate(recipe, index, total), training.earlier)

    done = len(training.losses)
    encode: Callable[[Tensor], Tensor] = torch.compile(model.encode) if execution.compile else model.encode
    with _training(model, weights, execution.memory_format(model)):
        for batch in batches(
            images,
            recipe,
            model.device,
            done=done,
            order=training.order,
            mirror=mirror,
            ahead=execution.ahead,
            least=least,
        ):
            lr = rate(recipe, len(training.losses), total)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            # Another stream for every step, so that it does not matter where a run was stopped. The 0 was the number of
            # the process in version 0.1: without it a recipe with dropout would train to other bits.
            with seeded(model.device, derived_seed(recipe.seed, "dropout", len(training.losses), 0)):
                value = float(_gradient(model, encode, images.name, batch, recipe, execution, scaler))
            scaler.unscale_(optimizer)
            if recipe.clip_norm:
                torch.nn.utils.clip_grad_norm_(weights, recipe.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            training.losses.append(value)
            training.order = batch.order
            index = len(training.losses)
            if not isfinite(value):
                raise DivergedError(
                    f"the loss became {value} at step {index} with {recipe.label}: lower the learning rate."
                )
            if index == total and not all(bool(weight.isfinite().all()) for weight in weights):
                # No further loss would tell.
                raise DivergedError(
                    f"weights became NaN or infinite at step {index}, the last, with {recipe.label}: "
                    "lower the learning rate."
                )
            state.save(training, last=index == total)
            yield Step(index, total, value, lr, training.earlier)


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


def _gradient(
    model: Classifier,
    encode: Callable[[Tensor], Tensor],
    head: str,
    batch: Batch,
    recipe: Recipe,
    execution: Execution,
    scaler: torch.amp.GradScaler,
) -> Tensor:
    """Add the whole batch's gradient to the weights, part by part; returns its loss."""
    device = model.device
    total = torch.zeros((), device=device)
    whole = len(batch.labels)
    size = execution.micro_batch or whole
    precision = getattr(torch, recipe.precision)
    for pixels, labels in zip(batch.pixels.split(size), batch.labels.split(size), strict=True):
        with torch.enable_grad():
            with torch.autocast(device.type, precision, enabled=recipe.precision != "float32"):
                features = encode(model.pixels(pixels))
            loss = torch.nn.functional.cross_entropy(
                features.float() @ model.head(head).T,
                labels.to(device, non_blocking=True),
                label_smoothing=recipe.label_smoothing,
            ) * (len(labels) / whole)
            scaler.scale(loss).backward()
        total += loss.detach()
    return total


@contextmanager
def _training(model: Classifier, weights: Sequence[torch.nn.Parameter], layout: torch.memory_format) -> Iterator[None]:
    """Gradients for these weights, and back; a small tower trains on one CPU thread, which is many times faster."""
    for parameter in model.network.parameters():
        parameter.requires_grad_(False)
    for parameter in weights:
        parameter.requires_grad_(True)
    model.tower.to(memory_format=layout)
    # A linear model is the derivative of the tower as it answers, not as it trains.
    model.tower.train(model.mode == "standard")
    try:
        with short_operations(model.tower):
            yield
    finally:
        model.network.eval()
        model.tower.to(memory_format=torch.contiguous_format)
        for parameter in weights:
            parameter.requires_grad_(False)
