"""Arguments of a baseline's run, and its epochs of passes on the training loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import cos, pi
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.training.loop import Loss, Pass, Step, gradients, image_pass, train, truth, view
from negmerge_kit.training.recipe import SEEDS
from negmerge_kit.training.seeding import derived_seed

if TYPE_CHECKING:
    from pathlib import Path

    from torch.optim import Optimizer

    from negmerge_kit.image_set import ImageSet
    from negmerge_kit.models.classifier import Classifier
    from negmerge_kit.scenes.forget_set import Parts
    from negmerge_kit.training.recipe import Recipe

SeededPass: TypeAlias = Callable[[int], Pass]
"""A pass, given the seed of its order and augmentation."""


@dataclass(frozen=True, eq=False)
class Run:
    """Arguments of a baseline's run.

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
        """The seed of a pass of an epoch."""
        return (self.seed * 100_003 + epoch * 10 + place) % SEEDS

    @property
    def hint(self) -> str:
        """What a message about weights that are no numbers ends with."""
        return f"rate {self.rate:g}: give a smaller rate."

    def over(self, images: ImageSet, loss: Loss, batch_size: int | None = None) -> SeededPass:
        """One pass over a set in shuffled batches, by default of the settings' size, and what its steps minimise.

        The base's recipe says how images are augmented, and the precision.

        Raises:
            ParameterError: for a set without images or, where the network has batch normalisation, with one.
        """
        if not len(images):
            raise ParameterError(f"{images.name} has no images: give some.")
        recipe = replace(self.recipe, epochs=1, batch_size=batch_size or self.settings["batch_size"])
        return lambda seed: image_pass(self.model, images, replace(recipe, seed=seed), loss, may_mirror=self.may_mirror)


def sgd(run: Run, weights: Sequence[torch.nn.Parameter]) -> Optimizer:
    """SGD with the run's rate, momentum and weight decay: the optimiser of the reference protocol."""
    return torch.optim.SGD(
        weights, lr=run.rate, momentum=run.settings["momentum"], weight_decay=run.settings["weight_decay"], foreach=True
    )


def half_cosine(epoch: int, epochs: int) -> float:
    """(1 + cos(π t / T)) / 2 in epoch t of T counted from 0: the decay of PyTorch's CosineAnnealingLR.

    >>> [round(half_cosine(epoch, 4), 3) for epoch in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return (1 + cos(pi * epoch / epochs)) / 2


def train_epochs(
    run: Run,
    passes: Callable[[int], Sequence[SeededPass]],
    *,
    optimizer: Callable[[Run, Sequence[torch.nn.Parameter]], Optimizer] = sgd,
    extra: Sequence[torch.nn.Parameter] = (),
    only: Collection[torch.nn.Module] | None = None,
    after: Callable[[], None] | None = None,
    decay: Callable[[int], float] = lambda epoch: 1.0,
) -> Generator[Step]:
    """Train the network in place, a step at each iteration: for every epoch its passes, one after the other.

    BatchNorm trains as in every reference: on the batch's statistics, which also move the running ones. Whatever the
    network draws itself, such as dropped paths, comes from the run's seed and the step.

    Args:
        passes: of an epoch counted from 0.
        extra: parameters trained together with the network's.
        only: the modules whose own parameters train; all others stay in eval mode, running statistics included.
        after: called after each step.
        decay: what the rate is multiplied with in an epoch counted from 0.

    Raises:
        DivergedError: if a loss or, by the last step, a weight stops being a number.
        ParameterError: as `Run.over`.
    """
    plan = [
        (run.rate * decay(epoch), made(run.seed_of(epoch, place)))
        for epoch in range(run.epochs)
        for place, made in enumerate(passes(epoch))
    ]
    rates = [rate for rate, one in plan for _ in range(one.steps)]
    network = run.model.tower
    trained = [weight for module in only or () for weight in module.parameters(recurse=False)]
    with gradients(run.model, None if only is None else trained, train=True):
        for module in network.modules():
            module.training = only is None or module in only
        yield from train(
            network,
            [one for _, one in plan],
            optimizer(run, [*(network.parameters() if only is None else trained), *extra]),
            rates.__getitem__,
            seed=lambda index: derived_seed(run.seed, "dropout", index),
            hint=run.hint,
            precision=run.recipe.precision,
            after=after,
        )


def slope(run: Run, images: ImageSet, chosen: slice | Tensor) -> Tensor:
    """∇ of the mean cross-entropy of the chosen images, flattened over every parameter, [d].

    In float32, since no scaler scales it: float16 has no numbers for small gradients.
    """
    with torch.enable_grad():
        loss = truth(view(run.model, images.name, images.images[chosen], images.labels[chosen]))
        parts = torch.autograd.grad(loss, list(run.model.tower.parameters()))
    return torch.cat([part.flatten() for part in parts])


CHUNK = 256
"""Images a pass where a whole set's gradient is summed; the result does not depend on it."""


def whole_slope(run: Run, images: ImageSet) -> Tensor:
    """The sum of the gradients of every image, [d]."""
    starts = range(0, len(images), CHUNK)
    return sum(
        (slope(run, images, slice(start, start + CHUNK)) * min(CHUNK, len(images) - start) for start in starts),
        start=torch.zeros((), device=run.model.device),
    )


def by_name(model: Classifier, flat: Tensor) -> dict[str, Tensor]:
    """A vector over every parameter, [d], as one tensor for each parameter of the tower, by its name."""
    weights = dict(model.tower.named_parameters())
    parts = flat.split([weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)}


def convolutions(run: Run) -> dict[str, torch.nn.Conv2d]:
    """Every two-dimensional convolution of the network, by its name.

    Raises:
        ParameterError: for a network that has none.
    """
    found = {name: one for name, one in run.model.tower.named_modules() if isinstance(one, torch.nn.Conv2d)}
    if not found:
        raise ParameterError(
            f"{run.model.spec} has no convolutions, and this baseline changes nothing else: choose another one."
        )
    return found


def frozen(model: Classifier, head: str) -> Callable[[Tensor], Tensor]:
    """A copy of the model as it is now, in eval mode: uint8 images to logits [n, C], without gradients."""
    teacher = deepcopy(model)
    teacher.network.eval().requires_grad_(False)

    @torch.no_grad()
    def answer(images: Tensor) -> Tensor:
        return teacher.encode(teacher.pixels(images)).float() @ teacher.head(head).T

    return answer
