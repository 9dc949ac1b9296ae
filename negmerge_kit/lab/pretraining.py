"""Pretraining the embedded CLIP from seeds: two minutes on one core, no downloads.

Each step shows a batch of images and one prompt per class of every family, with a template drawn at random, and asks
which prompt belongs to which image: cross-entropy over all class prompts, which is CLIP's image-to-text half with every
caption present once (Radford et al. 2021, https://arxiv.org/abs/2103.00020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from negmerge_kit.vision.families import FAMILIES, family_images

if TYPE_CHECKING:
    from open_clip import CLIP
    from torch import Tensor


@dataclass(frozen=True)
class Pretraining:
    """How the embedded base is trained; the defaults made the weights that ship."""

    epochs: int = 6
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 60
    seed: int = 0

    def rate(self, step: int, steps: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, steps - self.warmup)))


@dataclass(frozen=True)
class PretrainingStep:
    """One step done: its number (from 1), how many there are, and its loss."""

    step: int
    steps: int
    loss: float


def pretrain_tiny(clip: CLIP, recipe: Pretraining | None = None, *, stop: int | None = None) -> Iterator[PretrainingStep]:
    """Train an untrained embedded CLIP in place, one step per item taken.

    Args:
        clip: from `negmerge_kit.vision.tiny.fresh_clip(seed)`, on any device.
        recipe: the defaults make the weights that ship.
        stop: end after so many steps; the schedule stays that of the whole run.

    Yields: a PretrainingStep after each step. The same seed gives the same weights on the same machine and thread count;
    another processor may round sums differently.
    """
    import open_clip
    import torch
    import torch.nn.functional as F

    from negmerge_kit.vision.tiny import register

    recipe = recipe or Pretraining()
    device = clip.logit_scale.device
    images, labels = pretraining_images()
    prompts = open_clip.get_tokenizer(register())
    texts = torch.stack([prompts([t.format(c) for f in FAMILIES.values() for c in f.classes])
                         for t in range(0)]) if False else _prompt_tokens(prompts).to(device)
    generator = torch.Generator().manual_seed(recipe.seed)
    trained = [p for p in clip.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
    per_epoch = len(labels) // recipe.batch
    steps = per_epoch * recipe.epochs
    clip.train()
    for step in range(steps if stop is None else min(stop, steps)):
        if step % per_epoch == 0:
            order = torch.randperm(len(labels), generator=generator)
        rows = order[step % per_epoch * recipe.batch:][:recipe.batch]
        template = torch.randint(texts.shape[0], (texts.shape[1],), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step, steps)
        pixels = images[rows].to(device)
        image = clip.encode_image(pixels, normalize=True)
        text = clip.encode_text(texts[template, torch.arange(texts.shape[1])], normalize=True)
        loss = F.cross_entropy(clip.logit_scale.exp() * image @ text.T, labels[rows].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield PretrainingStep(step + 1, steps, loss.item())
    clip.eval()
