"""Pretraining the embedded CLIP from seeds: two minutes on one core, no downloads.

Each step shows a batch of images and one prompt per class of every family, with a template drawn at random, and asks
which prompt belongs to which image: cross-entropy over all class prompts, which is CLIP's image-to-text half with every
caption present once (Radford et al. 2021, https://arxiv.org/abs/2103.00020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from negmerge_kit.vision.families import FAMILIES, draw_images

if TYPE_CHECKING:
    from open_clip import CLIP
    from torch import Tensor


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
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, steps - self.warmup)))


@dataclass(frozen=True)
class PretrainingStep:
    """One step done: its number (from 1), how many there are, and its loss."""

    step: int
    steps: int
    loss: float


def pretraining_images(epoch: int, families: Sequence[str] = tuple(FAMILIES)) -> tuple[Tensor, Tensor]:
    """What one epoch shows: uint8 images [n, 3, 32, 32] of the families, labels that count classes across them."""
    import torch

    sets = [draw_images(name, "pretrain", epoch) for name in families]
    first = [0, *accumulate(len(images.classes) for images in sets)]
    return (
        torch.cat([images.images for images in sets]),
        torch.cat([images.labels + start for images, start in zip(sets, first, strict=False)]),
    )


def pretrain_tiny(
    clip: CLIP, recipe: Pretraining | None = None, *, families: Sequence[str] = tuple(FAMILIES)
) -> Iterator[PretrainingStep]:
    """Train an untrained embedded CLIP in place, one step for each item taken.

    Args:
        clip: from `negmerge_kit.vision.tiny.fresh_clip(seed)`, on any device.
        recipe: the defaults make the weights that ship.
        families: what the model is shown; all but the forget set make the retrained model that an audit compares with.

    Yields: a PretrainingStep after each step; stop taking them to stop training. The same seeds give the same weights
    on the same machine and thread count; another processor may round sums differently.
    """
    import torch
    import torch.nn.functional as F

    from negmerge_kit.vision.classifier import normalise

    recipe = recipe or Pretraining()
    device = clip.logit_scale.device
    texts = _prompts(families).to(device)
    every_class = torch.arange(texts.shape[1])
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(
        [weight for weight in clip.parameters() if weight.requires_grad], lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    batches = sum(FAMILIES[name].pretrain for name in families) // recipe.batch
    steps = batches * recipe.epochs
    clip.train()
    for step in range(steps):
        if step % batches == 0:
            images, labels = pretraining_images(step // batches, families)
            order = torch.split(torch.randperm(len(labels), generator=generator), recipe.batch)
        rows = order[step % batches]
        templates = torch.randint(len(texts), (len(every_class),), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step, steps)
        image = clip.encode_image(normalise(images[rows].to(device)), normalize=True)
        text = clip.encode_text(texts[templates, every_class], normalize=True)
        loss = F.cross_entropy(clip.logit_scale.exp() * image @ text.T, labels[rows].to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        if step + 1 == steps:
            clip.eval()
        yield PretrainingStep(step + 1, steps, loss.item())


def _prompts(families: Sequence[str]) -> Tensor:
    """Token ids of every class under each of the three templates: [3, classes, context]."""
    import open_clip
    import torch

    from negmerge_kit.vision.tiny import register

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
