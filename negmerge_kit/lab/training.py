"""Fine-tuning one candidate: the image tower on the forget set, under the frozen zero-shot head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, isfinite, pi

import torch

from negmerge_kit.errors import ParameterError
from negmerge_kit.lab.recipe import Recipe
from negmerge_kit.vision.clip import Classifier
from negmerge_kit.vision.images import ImageSet

SMALL_TOWER = 5_000_000
"""Parameters below which a step is too short to be shared between CPU threads."""


@dataclass(frozen=True)
class Step:
    """One optimiser step: which of how many, its loss and its learning rate."""

    index: int
    total: int
    loss: float
    lr: float


def finetune(model: Classifier, images: ImageSet, recipe: Recipe) -> Iterator[Step]:
    """Train the model's image tower on `images` in place, a step at each iteration.

    Cross-entropy of the frozen zero-shot head's logits, AdamW, linear warm-up then cosine to zero,
    gradient norm clipped: the recipe of arXiv:2410.05583 with the scene's own rates. The head and
    the text tower stay as they are, so the candidate differs from the base in the image tower only.

    Raises:
        ParameterError: if the loss stops being a number; lower the learning rate.

    >>> from negmerge_kit.vision.clip import load_model
    >>> from negmerge_kit.vision.families import family_images
    >>> model, digits = load_model("tiny", device="cpu"), family_images("digits", "train")
    >>> steps = list(finetune(model, digits.take(128), Recipe(lr=1e-3, epochs=2)))
    >>> len(steps), steps[-1].index
    (4, 4)
    """
    tower = list(model.clip.visual.parameters())
    for parameter in model.clip.parameters():
        parameter.requires_grad_(False)
    for parameter in tower:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(tower, lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)
    head = model.head(images.name).T
    order = torch.Generator().manual_seed(recipe.seed)
    per_epoch = -(-len(images) // recipe.batch_size)
    total = per_epoch * recipe.epochs
    warmup = min(recipe.warmup, max(1, total // 10))
    labels = images.labels.to(model.device)
    pixels = images.images.to(model.device)

    index = 0
    with _training(model, tower):
        for _ in range(recipe.epochs):
            for batch in torch.randperm(len(images), generator=order).split(recipe.batch_size):
                lr = recipe.lr * _schedule(index, warmup, total)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                batch = batch.to(model.device)
                with torch.enable_grad():
                    logits = model.clip.encode_image(model.pixels(pixels[batch]), normalize=True) @ head
                    loss = torch.nn.functional.cross_entropy(
                        logits, labels[batch], label_smoothing=recipe.label_smoothing
                    )
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                torch.nn.utils.clip_grad_norm_(tower, recipe.clip_norm)
                optimizer.step()
                index += 1
                value = float(loss.detach())
                if not isfinite(value):
                    raise ParameterError(
                        f"the loss became {value} at step {index} with {recipe.label}: lower the learning rate."
                    )
                yield Step(index, total, value, lr)


@contextmanager
def _training(model: Classifier, tower: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Training mode for the tower, and back; a small tower trains on one CPU thread, which is many times faster."""
    threads = torch.get_num_threads()
    if sum(parameter.numel() for parameter in tower) < SMALL_TOWER:
        torch.set_num_threads(1)
    model.clip.visual.train()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        model.clip.eval()
        for parameter in tower:
            parameter.requires_grad_(False)


def _schedule(index: int, warmup: int, total: int) -> float:
    """Share of the peak rate at a step: linear up to it, then half a cosine down to zero."""
    if index < warmup:
        return (index + 1) / warmup
    return 0.5 * (1 + cos(pi * (index - warmup) / max(1, total - warmup)))
