"""Crop and mirror where the images are: CIFAR's augmentation, without leaving the device."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

CROP = re.compile(r"crop-([1-9]\d*)")
"""How a recipe writes it: `crop-4` pads by four pixels."""


def crop_at_random(images: Tensor, padding: int, *, seed: int, flips: bool = False) -> Tensor:
    """Every image padded with black, cropped to its size at a random place and, with `flips`, mirrored half the time.

    What torchvision's RandomCrop(size, padding) and RandomHorizontalFlip do to one image, in one gather for all. The
    places are drawn on the CPU, so that every device gives the same pixels; only these few numbers travel.

    Args:
        images: uint8 [n, 3, H, W] on any device.
        padding: pixels on each side.
        seed: of all draws; another one for every step.
        flips: mirror half of the images.

    Returns:
        uint8 [n, 3, H, W], laid out by channels last.

    >>> images = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).to(torch.uint8)
    >>> first, again = (crop_at_random(images, 2, seed=1) for _ in range(2))
    >>> first.shape == images.shape, torch.equal(first, again), torch.equal(first, images)
    (True, True, False)
    """
    count, _, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5 if flips else torch.zeros(count, dtype=torch.bool)
    columns = torch.arange(width).repeat(count, 1)
    columns[mirrored] = columns[mirrored].flip(1)
    rows, columns = places[0][:, None] + torch.arange(height), places[1][:, None] + columns
    chosen = (rows, columns, torch.arange(count))
    rows, columns, which = (index.to(images.device, non_blocking=True) for index in chosen)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    # Indexing puts the channels last, which is what convolutions on a GPU like best.
    return padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
