"""Pretraining the embedded CLIP from seeds: two minutes on one core, no downloads.

Each step shows a batch of images and one prompt per class of every family, with a template drawn at random, and asks
which prompt belongs to which image: cross-entropy over all class prompts, which is CLIP's image-to-text half with every
caption present once (Radford et al. 2021, https://arxiv.org/abs/2103.00020).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import cos, pi
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from negmerge_kit.data.embedded import FAMILIES, draw_images
from negmerge_kit.models.classifier import normalise
from negmerge_kit.training.batches import Batch
from negmerge_kit.training.loop import Pass, Step, train
from negmerge_kit.training.seeding import derived_seed

if TYPE_CHECKING:
    from open_clip import CLIP


@dataclass(frozen=True)
class Pretraining:
    """How the embedded base is trained; the defaults made the weights that ship."""

    epochs: int = 8
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 60
    seed: int = 0

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step counted from 0: linear warm-up, then a cosine to zero."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * 0.5 * (1 + cos(pi * (step - self.warmup) / max(1, steps - self.warmup)))


def pretraining_images(epoch: int, families: Sequence[str] = tuple(FAMILIES)) -> tuple[Tensor, Tensor]:
    """What one epoch shows: uint8 images [n, 3, 32, 32] of the families, labels that count classes across them."""
    sets = [draw_images(name, "pretrain", epoch) for name in families]
    first = [0, *accumulate(len(images.classes) for images in sets)]
    return (
        torch.cat([images.images for images in sets]),
        torch.cat([images.labels + start for images, start in zip(sets, first, strict=False)]),
    )


def pretrain_tiny(
    clip: CLIP, recipe: Pretraining | None = None, *, families: Sequence[str] = tuple(FAMILIES)
) -> Generator[Step]:
    """Train an untrained embedded CLIP in place, one step for each item taken.

    Args:
        clip: from `negmerge_kit.models.tiny_clip.fresh_clip(seed)`, on any device.
        recipe: the defaults make the weights that ship.
        families: what the model is shown; all but the forget set make the retrained model that an audit compares with.

    Yields: a Step after each step; stop taking them to stop training. The same seeds give the same weights on the same
    machine and thread count; another processor may round sums differently.

    Raises:
        DivergedError: if the loss or, by the last step, a weight stops being a number.
    """
    recipe = recipe or Pretraining()
    device = clip.logit_scale.device
    texts = _prompts(families).to(device)
    every_class = torch.arange(texts.shape[1])
    # One generator for the order of the images and the templates: an epoch's order is drawn as it begins.
    generator = torch.Generator().manual_seed(recipe.seed)
    per_epoch = sum(FAMILIES[name].pretrain for name in families) // recipe.batch

    def contrast(images: Tensor, labels: Tensor) -> Tensor:
        templates = torch.randint(len(texts), (len(every_class),), generator=generator)
        image = clip.encode_image(normalise(images.to(device)), normalize=True)
        text = clip.encode_text(texts[templates, every_class], normalize=True)
        return cross_entropy(clip.logit_scale.exp() * image @ text.T, labels.to(device))

    def epoch_of(epoch: int) -> Pass:
        def shown(done: int, order: Tensor | None) -> Iterator[Batch]:
            images, labels = pretraining_images(epoch, families)
            chosen = torch.randperm(len(labels), generator=generator).split(recipe.batch)
            return (Batch(images[rows], labels[rows]) for rows in chosen[:per_epoch])

        return Pass(per_epoch, shown, contrast)

    weights = [weight for weight in clip.parameters() if weight.requires_grad]
    clip.train()
    try:
        yield from train(
            clip,
            [epoch_of(epoch) for epoch in range(recipe.epochs)],
            torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay),
            lambda step: recipe.rate(step, per_epoch * recipe.epochs),
            seed=lambda step: derived_seed(recipe.seed, "dropout", step),
            hint=f"rate {recipe.lr:g}: give a smaller rate.",
        )
    finally:
        clip.eval()


def _prompts(families: Sequence[str]) -> Tensor:
    """Token ids of every class under each of the three templates: [3, classes, context]."""
    import open_clip

    from negmerge_kit.models.tiny_clip import register

    tokenizer = open_clip.get_tokenizer(register())
    return torch.stack(
        [
            tokenizer(
                [
                    family.templates[k].format(name)
                    for family in map(FAMILIES.__getitem__, families)
                    for name in family.classes
                ]
            )
            for k in range(3)
        ]
    )
