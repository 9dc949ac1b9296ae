"""The one loop of every baseline: passes over image sets, a loss each, one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from negmerge_kit.errors import DivergedError, ParameterError
from negmerge_kit.lab.training.batches import Batch, batches, steps_of
from negmerge_kit.lab.training.execution import Execution
from negmerge_kit.lab.training.finetuning import Step
from negmerge_kit.lab.training.recipe import SEEDS
from negmerge_kit.lab.training.seeding import derived_seed, seeded
from negmerge_kit.vision.lanes import short_operations

if TYPE_CHECKING:
    from pathlib import Path

    from torch.optim import Optimizer

    from negmerge_kit.lab.training.recipe import Recipe
    from negmerge_kit.vision.classifier import Classifier
    from negmerge_kit.vision.forgetting import Parts
    from negmerge_kit.vision.images import ImageSet


@dataclass(frozen=True, eq=False)
class Run:
    """What a baseline is given.

    Attributes:
        model: holds the base's weights, and the unlearned ones when the steps are over.
        parts: the training set as it was parted; a baseline looks at the sets that its entry's `reads` names.
        rate: the learning rate, or whatever the entry's `dial` says.
        epochs: passes over the sets.
        seed: of the order of the images and of everything else that is drawn.
        settings: the entry's parameters, each with its value.
        fresh: makes an untrained model of the same kind from a seed.
        recipe: how the base was trained; a baseline augments its images alike, in the same precision.
        may_mirror: whether a mirrored image still shows its class (`DataSource.flips`).
        resume: a file for the state of a run that takes long; what keeps one there goes on from it.
    """

    model: Classifier
    parts: Parts
    rate: float
    epochs: int
    seed: int
    settings: Mapping[str, Any]
    fresh: Callable[[int], Classifier]
    recipe: Recipe
    may_mirror: bool = False
    resume: Path | None = None

    def seed_of(self, epoch: int, place: int = 0) -> int:
        """A seed of its own for each pass of each epoch."""
        return (self.seed * 100_003 + epoch * 10 + place) % SEEDS


@dataclass(frozen=True, eq=False)
class View:
    """One batch as a loss sees it: uint8 images [n, 3, H, W], labels [n], logits [n, C] = features @ classes.T.

    Everything but the images is on the model's device; features [n, D+1] and classes [C, D+1] have gradients.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    classes: Tensor

    @property
    def logits(self) -> Tensor:
        """The network's logits, with gradients."""
        return self.features @ self.classes.T


Loss: TypeAlias = Callable[[View], Tensor]


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over a set in shuffled batches, and what its steps minimise."""

    images: ImageSet
    loss: Loss
    batch_size: int


def truth(view: View) -> Tensor:
    """Cross-entropy with the labels as they are: the mean over the batch."""
    return cross_entropy(view.logits, view.labels)


def sgd(run: Run, weights: Sequence[torch.nn.Parameter]) -> Optimizer:
    """SGD with the run's rate, momentum and weight decay: the optimiser of the reference protocol."""
    return torch.optim.SGD(
        weights, lr=run.rate, momentum=run.settings["momentum"], weight_decay=run.settings["weight_decay"], foreach=True
    )


def descend(
    run: Run,
    passes: Callable[[int], Sequence[Pass]],
    *,
    optimizer: Callable[[Run, Sequence[torch.nn.Parameter]], Optimizer] = sgd,
    extra: Sequence[torch.nn.Parameter] = (),
    after: Callable[[], None] = lambda: None,
    decay: Callable[[int], float] = lambda epoch: 1.0,
) -> Iterator[Step]:
    """Train the network in place, a step at each iteration: for every epoch its passes, one after the other.

    BatchNorm trains as in every reference: on the batch's statistics, which also move the running ones. Whatever the
    network draws itself, such as dropped paths, comes from the run's seed and the step.

    Args:
        passes: of an epoch counted from 0.
        extra: parameters trained beside the network's.
        after: called after each step.
        decay: what the rate is multiplied with in an epoch counted from 0.

    Raises:
        DivergedError: if a loss or, by the last step, a weight stops being a number.
        ParameterError: for a set without images, or with one image where the network has batch normalisation.
    """
    plan = [passes(epoch) for epoch in range(run.epochs)]
    total, index = sum(_steps(run, one) for each in plan for one in each), 0
    model, weights = run.model, [*run.model.tower.parameters(), *extra]
    taught = optimizer(run, weights)
    device = model.device.type
    scaler = torch.amp.GradScaler(device, enabled=run.recipe.precision == "float16")
    with gradients(model, train=True):
        for epoch, each in enumerate(plan):
            for group in taught.param_groups:
                group["lr"] = rate = run.rate * decay(epoch)
            for place, one in enumerate(each):
                for batch in drawn(run, one, run.seed_of(epoch, place)):
                    taught.zero_grad(set_to_none=True)
                    with seeded(model.device, derived_seed(run.seed, "dropout", index)):
                        with torch.enable_grad():
                            loss = one.loss(view(run, one.images.name, batch.pixels, batch.labels))
                        scaler.scale(loss).backward()
                    scaler.step(taught)
                    scaler.update()
                    after()
                    index, value = index + 1, float(loss.detach())
                    if not isfinite(value):
                        raise DivergedError(
                            f"the loss became {value} at step {index} with rate {run.rate:g}: give a smaller rate."
                        )
                    yield Step(index, total, value, rate)
        check_finite(weights, run.rate)


def check_finite(weights: Iterable[Tensor], rate: float) -> None:
    """Refuse weights that are no numbers.

    Raises:
        DivergedError: naming the rate.
    """
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise DivergedError(f"weights became NaN or infinite with rate {rate:g}: give a smaller rate.")


def view(run: Run, head: str, images: Tensor, labels: Tensor, *, precision: str | None = None) -> View:
    """The network's answer to a batch, in the recipe's precision unless told; features and logits are float32.

    Gradients that no scaler scales are taken in float32: float16 has no numbers for the small ones.
    """
    model, precision = run.model, precision or run.recipe.precision
    with torch.autocast(model.device.type, getattr(torch, precision), enabled=precision != "float32"):
        features = model.encode(model.pixels(images))
    return View(images, labels.to(model.device, non_blocking=True), features.float(), model.head(head))


def drawn(run: Run, one: Pass, seed: int) -> Iterator[Batch]:
    """The batches of one pass; under batch normalisation an image alone in the last one joins the batch before it."""
    recipe, least = _recipe(run, one, seed)
    mirror = recipe.flips == "as-published" or (recipe.flips == "safe" and run.may_mirror)
    return batches(one.images, recipe, run.model.device, mirror=mirror, least=least)


def _steps(run: Run, one: Pass) -> int:
    recipe, least = _recipe(run, one, 0)
    return steps_of(one.images, recipe, least=least)


def _recipe(run: Run, one: Pass, seed: int) -> tuple[Recipe, int]:
    """How the base's recipe draws this pass, and the fewest images of a batch."""
    if not len(one.images):
        raise ParameterError(f"{one.images.name} has no images: give some.")
    recipe = replace(run.recipe, epochs=1, batch_size=one.batch_size, seed=seed)
    return recipe, Execution().least_batch(run.model, recipe, one.images)


def frozen(model: Classifier, head: str) -> Callable[[Tensor], Tensor]:
    """A copy of the model as it is now, in eval mode: uint8 images to logits [n, C], without gradients."""
    teacher = deepcopy(model)
    teacher.network.eval().requires_grad_(False)

    @torch.no_grad()
    def answer(images: Tensor) -> Tensor:
        return teacher.encode(teacher.pixels(images)).float() @ teacher.head(head).T

    return answer


@contextmanager
def gradients(model: Classifier, *, train: bool) -> Iterator[None]:
    """Gradients for the whole network, which is in train or eval mode; a small one keeps to one CPU thread."""
    network = model.tower
    network.requires_grad_(True).train(train)
    try:
        with short_operations(network):
            yield
    finally:
        model.network.eval().requires_grad_(False)
