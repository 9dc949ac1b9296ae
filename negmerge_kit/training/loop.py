"""The training loop: every step of every optimiser is taken here.

A pass gives batches and the loss of a batch. Fine-tuning is one pass with cross-entropy under the frozen head, a
baseline is its list of passes, and pretraining is CLIP's contrastive loss, one pass an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from negmerge_kit.errors import DivergedError
from negmerge_kit.models.cpu_threads import short_operations
from negmerge_kit.training.batches import Batch, batches, steps_of
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.resume import StateFile, Training
from negmerge_kit.training.seeding import seeded

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from negmerge_kit.image_set import ImageSet
    from negmerge_kit.models.classifier import Classifier
    from negmerge_kit.training.recipe import Recipe


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


@dataclass(frozen=True, eq=False)
class Pass:
    """Optimiser steps over one set of images.

    Attributes:
        steps: how many batches there are.
        batches: the batches that follow the first `done`, given the `Batch.order` of the last one done, if any.
        loss: of the images and labels of a batch, or of a part of it: the mean over them, a scalar.
    """

    steps: int
    batches: Callable[[int, Tensor | None], Iterable[Batch]]
    loss: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class View:
    """One batch as a loss sees it: uint8 images [n, 3, H, W], labels [n], logits [n, C] = features @ classes.T.

    Everything but the images is on the model's device; features [n, D+1] and classes [C, D+1] of a standard classifier
    have gradients.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    classes: Tensor

    @property
    def logits(self) -> Tensor:
        """The model's logits, with gradients."""
        return self.features @ self.classes.T


Loss: TypeAlias = Callable[[View], Tensor]


def truth(view: View) -> Tensor:
    """Cross-entropy with the labels as they are: the mean over the batch."""
    return cross_entropy(view.logits, view.labels)


def view(
    model: Classifier,
    head: str,
    images: Tensor,
    labels: Tensor,
    *,
    precision: str = "float32",
    encode: Callable[[Tensor], Tensor] | None = None,
) -> View:
    """The model's answer to a batch, computed in this precision; features and logits are float32."""
    device = model.device
    with torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32"):
        features = (encode or model.encode)(model.pixels(images))
    return View(images, labels.to(device, non_blocking=True), features.float(), model.head(head))


def image_pass(
    model: Classifier,
    images: ImageSet,
    recipe: Recipe,
    loss: Loss,
    *,
    may_mirror: bool = False,
    execution: Execution | None = None,
) -> Pass:
    """The recipe's epochs over an image set, in its batches, order, augmentation and precision.

    Under batch normalisation an image alone in the last batch of an epoch joins the batch before it.

    Raises:
        ParameterError: if batch normalisation would see one image alone.
    """
    execution = execution or Execution()
    least = execution.least_batch(model, recipe, images)
    encode: Callable[[Tensor], Tensor] = torch.compile(model.encode) if execution.compile else model.encode

    def drawn(done: int, order: Tensor | None) -> Iterator[Batch]:
        mirror, ahead = recipe.mirrors(may_mirror), execution.ahead
        return batches(images, recipe, model.device, done=done, order=order, mirror=mirror, ahead=ahead, least=least)

    def of_batch(pixels: Tensor, labels: Tensor) -> Tensor:
        return loss(view(model, images.name, pixels, labels, precision=recipe.precision, encode=encode))

    return Pass(steps_of(images, recipe, least=least), drawn, of_batch)


def train(
    network: torch.nn.Module,
    passes: Sequence[Pass],
    optimizer: Optimizer,
    schedule: Callable[[int], float],
    *,
    seed: Callable[[int], int],
    hint: str,
    precision: str = "float32",
    clip_norm: float = 0.0,
    micro_batch: int | None = None,
    after: Callable[[], None] | None = None,
    state: StateFile | None = None,
) -> Generator[Step]:
    """Train the optimiser's weights in place, a step at each iteration: the passes one after the other.

    Steps already done by a run that goes on are yielded again from its record. Torch's own generators are between
    steps as the caller left them.

    Args:
        network: in training mode (see `gradients`); its running statistics belong to what is resumed.
        schedule: the learning rate of a step counted from 0.
        seed: of what the network draws in a step counted from 0, such as dropout: another one for every step, so that
            it does not matter where a run was stopped.
        hint: what a message about weights that are no numbers ends with: which run, and the remedy.
        precision: of the losses; gradients of "float16" are scaled.
        clip_norm: largest norm of the whole gradient; 0 clips nothing.
        micro_batch: images in one forward and backward pass; gradients are added up to the whole batch's. None: all.
        after: called after each step, before its loss is looked at.
        state: the file that the run goes on from, and is saved in as it goes.

    Raises:
        DivergedError: if a loss or, by the last step, a weight stops being a number.
        CheckpointError: if the state cannot be written, or is another run's.

    >>> weight = torch.nn.Parameter(torch.tensor([[1.0]]))
    >>> batch = Batch(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    >>> one = Pass(1, lambda done, order: [batch], lambda x, y: ((x @ weight - y) ** 2).mean())
    >>> run = train(torch.nn.Module(), [one], torch.optim.SGD([weight]), lambda step: 0.1, seed=int, hint="SGD")
    >>> [round(step.loss, 2) for step in run], round(weight.item(), 2)  # the slope of (2 w)² at 1 is 8
    ([4.0], 0.2)
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    device = weights[0].device
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    training = Training(network, optimizer, scaler)
    if state:
        state.restore(training)
    total, earlier = sum(one.steps for one in passes), training.earlier
    for index, loss in enumerate(training.losses):
        yield Step(index + 1, total, loss, schedule(index), earlier)

    behind = 0
    for one in passes:
        done = len(training.losses) - behind
        behind += one.steps
        if done >= one.steps:
            continue
        for batch in one.batches(done, training.order if done else None):
            index = len(training.losses)
            lr = schedule(index)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            with seeded(device, seed(index)):
                loss = _gradient(one, batch, micro_batch, scaler)
            scaler.unscale_(optimizer)
            if clip_norm:
                torch.nn.utils.clip_grad_norm_(weights, clip_norm)
            scaler.step(optimizer)
            scaler.update()
            if after:
                after()
            index += 1
            training.losses.append(loss)
            training.order = batch.order
            if not isfinite(loss):
                raise DivergedError(f"the loss became {loss} at step {index} with {hint}")
            if index == total:  # no further loss would show it
                check_finite(weights, index, hint)
            if state:
                state.save(training, last=index == total)
            yield Step(index, total, loss, lr, earlier)


def check_finite(weights: Iterable[Tensor], index: int, hint: str) -> None:
    """Refuse weights that are no numbers after the last step.

    Raises:
        DivergedError: naming the step, and what the hint says.
    """
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise DivergedError(f"weights became NaN or infinite at step {index}, the last, with {hint}")


def _gradient(one: Pass, batch: Batch, micro_batch: int | None, scaler: torch.amp.GradScaler) -> float:
    """Add the whole batch's gradient to the weights, part by part; returns its loss."""
    whole, losses = len(batch.labels), []
    size = micro_batch or whole
    for pixels, labels in zip(batch.pixels.split(size), batch.labels.split(size), strict=True):
        with torch.enable_grad():
            loss = one.loss(pixels, labels) * (len(labels) / whole)
            scaler.scale(loss).backward()
        losses.append(loss.detach())
    return float(sum(losses))


@contextmanager
def gradients(
    model: Classifier,
    weights: Iterable[torch.nn.Parameter] | None = None,
    *,
    train: bool,
    layout: torch.memory_format = torch.contiguous_format,
) -> Iterator[None]:
    """Gradients for these weights, by default all of the image tower's, which is in train or eval mode; and back.

    A small tower keeps to one CPU thread, which is many times faster.
    """
    tower = model.tower
    model.network.requires_grad_(False)
    for weight in tower.parameters() if weights is None else weights:
        weight.requires_grad_(True)
    tower.to(memory_format=layout).train(train)
    try:
        with short_operations(tower):
            yield
    finally:
        model.network.eval().requires_grad_(False)
        tower.to(memory_format=torch.contiguous_format)
