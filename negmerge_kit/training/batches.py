"""Training batches in a recipe's order, augmented ahead of need by a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from negmerge_kit.data.augment import CROP, augment, crop_at_random
from negmerge_kit.image_set import ImageSet
from negmerge_kit.training.recipe import SEEDS, Recipe

COMMON_ORDER = 0
"""The seed of orders that candidates share: DistributedSampler's, whose first epoch is the authors' order."""
RESIDENT_SHARE = 0.4
"""Images stay on the GPU for the whole run if they take at most this share of its free memory."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's images.

    Attributes:
        pixels: uint8 [n, 3, H, W]; on the model's device, or pinned in the host's memory.
        labels: int64 [n], likewise.
        order: the generator's state before this epoch was drawn: with the step's number all that resuming needs.
    """

    pixels: Tensor
    labels: Tensor
    order: Tensor | None = None


def steps_of(images: ImageSet, recipe: Recipe, *, least: int = 1) -> int:
    """Optimiser steps of a run: the last batch of an epoch may be smaller, or larger by what is less than `least`.

    >>> from negmerge_kit.data.embedded import family_images
    >>> steps_of(family_images("digits", "train").take(130), Recipe(lr=1e-3, epochs=2))
    6
    """
    return len(_sizes(len(images), recipe, least)) * recipe.epochs


def batches(
    images: ImageSet,
    recipe: Recipe,
    device: torch.device,
    *,
    done: int = 0,
    order: Tensor | None = None,
    mirror: bool = False,
    ahead: int = 2,
    least: int = 1,
) -> Iterator[Batch]:
    """The batches of a run from step `done` on.

    Every epoch is a new permutation, from the recipe's seed or from one that all candidates share, or the same one
    again, as the recipe's `order` says. How an image is augmented depends on the recipe's seed, the step and its place
    in the batch only. So a run goes on where another stopped.

    Args:
        order: the `order` of the last batch done, if any was: the generator's state before that batch's epoch.
        mirror: whether augmented images may be mirrored.
        ahead: how many batches are prepared in advance.
        least: a last batch of fewer images joins the one before it: batch normalisation cannot see one image alone,
            and dropping it would leave another image out of every epoch.
    """
    generator = torch.Generator().manual_seed(recipe.seed if recipe.order == "own" else COMMON_ORDER)
    if order is not None:
        generator.set_state(order)
    cropped = CROP.fullmatch(recipe.augment)
    augmented = recipe.augment != "none" and not cropped
    source = images.to(device) if not augmented and _fits(images, device) else images
    pinned = device.type == "cuda" and source.images.device.type == "cpu"

    def prepare(planned: tuple[int, Tensor, Tensor]) -> Batch:
        step, chosen, state = planned
        seed = (recipe.seed * 1_000_003 + step) % SEEDS
        pixels, labels = source.images[chosen.to(source.images.device)], source.labels[chosen.to(source.labels.device)]
        if augmented:
            pixels = augment(pixels.cpu(), recipe.augment, seed=seed, flips=mirror)
        if cropped:
            pixels = crop_at_random(pixels, int(cropped[1]), seed=seed, flips=mirror)
        if pinned:
            pixels, labels = pixels.pin_memory(), labels.pin_memory()
        return Batch(pixels, labels, state)

    planned = _plan(len(images), recipe, done, generator, least)
    if augmented or pinned:
        yield from _prefetched(prepare, planned, ahead)
    else:
        yield from map(prepare, planned)


def _sizes(n: int, recipe: Recipe, least: int) -> list[int]:
    """Images in each batch of an epoch.

    >>> _sizes(9, Recipe(lr=1.0, epochs=1, batch_size=4), 1), _sizes(9, Recipe(lr=1.0, epochs=1, batch_size=4), 2)
    ([4, 4, 1], [4, 5])
    """
    whole, rest = divmod(n, recipe.batch_size)
    if rest >= least or not whole:
        return [recipe.batch_size] * whole + [rest] * (rest > 0)
    return [recipe.batch_size] * (whole - 1) + [recipe.batch_size + rest]


def _plan(
    n: int, recipe: Recipe, done: int, generator: torch.Generator, least: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, places in the data set, generator's state before the epoch) from step `done` on."""
    sizes = _sizes(n, recipe, least)
    per_epoch = len(sizes)
    # The generator is before the epoch of the last step done, which may have been that epoch's last.
    for epoch in range(max(0, done - 1) // per_epoch, recipe.epochs):
        if recipe.order == "fixed":
            generator.manual_seed(COMMON_ORDER)
        state = generator.get_state()
        for k, chosen in enumerate(torch.randperm(n, generator=generator).split(sizes)):
            if (step := epoch * per_epoch + k) >= done:
                yield step, chosen, state


def _prefetched(
    prepare: Callable[[tuple[int, Tensor, Tensor]], Batch], planned: Iterable[tuple[int, Tensor, Tensor]], ahead: int
) -> Iterator[Batch]:
    """What `prepare` makes of each item, in order, `ahead` items before it is asked for."""
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        try:
            for item in planned:
                waiting.append(thread.submit(prepare, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _fits(images: ImageSet, device: torch.device) -> bool:
    """Whether all images may lie on the device while it trains."""
    if device.type == "cuda":
        return images.images.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return True
