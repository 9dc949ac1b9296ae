"""Twins: images of one set that another has as well, pixel for pixel or nearly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COARSE, FINE = 8, 32
"""Side of the thumbnails that are searched, and of those that confirm what was found."""
NEAR = 0.95
"""Least correlation of near duplicates at both sides.

Set for few false hits by one look at 60 pairs of CIFAR-10's test and train above it, of which about 4 showed two
scenes, and at pairs from 0.90 to 0.95, of which about a third did: no other data confirm it, and true twins lie below.
"""
FLAT = 4.0
"""Least standard deviation of a thumbnail that can be compared, in levels of 255; others are nearly one colour."""
BLOCK = 2048


@dataclass(frozen=True)
class Twins:
    """Images of one set that have a twin in another.

    Args:
        exact: (place, place of a twin) of every image with an equal one.
        near: the same of every image that has a near duplicate and no equal one.
    """

    exact: tuple[tuple[int, int], ...]
    near: tuple[tuple[int, int], ...]


def exact_twins(first: Tensor, second: Tensor | None = None) -> tuple[tuple[int, int], ...]:
    """Every image of the first set with an equal one (SHA-256 of its pixels) in the second, or elsewhere in its own.

    Args:
        first, second: uint8 [n, 3, H, W].

    >>> import torch
    >>> images = torch.arange(3, dtype=torch.uint8).repeat_interleave(12).reshape(3, 3, 2, 2)
    >>> exact_twins(images[[0, 1, 0]]), exact_twins(images[:2], images[1:])
    (((0, 2), (2, 0)), ((1, 0),))
    """
    ours = _digests(first)
    theirs = ours if second is None else _digests(second)
    places: dict[bytes, list[int]] = {}
    for place, digest in enumerate(theirs):
        held = places.setdefault(digest, [])
        if len(held) < 2:  # itself and another
            held.append(place)
    found = []
    for place, digest in enumerate(ours):
        others = [other for other in places.get(digest, ()) if second is not None or other != place]
        found += [(place, other) for other in others[:1]]
    return tuple(found)


def find_twins(first: Tensor, second: Tensor | None = None) -> Twins:
    """Exact and near duplicates of the first set's images in the second, or elsewhere in their own.

    Near is a normalised cross-correlation (Lewis 1995, Fast Normalized Cross-Correlation), each channel's mean taken
    off, of at least `NEAR` between the 8 x 8 thumbnails of an image, or its mirror image, and the nearest other, and
    again at 32 x 32. Brightness, contrast and a new encoding leave it near 1; crops and shifts of finely detailed
    images are missed. Nearly uniform images are compared for equality only.

    Args:
        first, second: uint8 [n, 3, H, W].

    >>> import torch
    >>> images = torch.randint(0, 200, (5, 3, 32, 32), generator=torch.manual_seed(0), dtype=torch.uint8)
    >>> find_twins(images, torch.cat([images[:1] + 20, images[3:4]]))
    Twins(exact=((3, 1),), near=((0, 0),))
    """
    import torch

    exact = exact_twins(first, second)
    if not len(first) or (second is not None and not len(second)):
        return Twins(exact, ())
    equal = {place for place, _ in exact}
    theirs = first if second is None else second
    ours, others = thumbnails(first, COARSE), thumbnails(theirs, COARSE)
    near = []
    for start in range(0, len(ours), BLOCK):
        block = ours[start : start + BLOCK]
        best, place = torch.zeros(len(block)), torch.zeros(len(block), dtype=torch.int64)
        for mirrored in (False, True):
            asked = (block.flip(3) if mirrored else block).flatten(1)
            for begin in range(0, len(others), BLOCK):
                alike = asked @ others[begin : begin + BLOCK].flatten(1).T
                if second is None and begin == start:
                    alike.fill_diagonal_(-1)  # an image is no twin of its own, nor of its own mirror image
                value, at = alike.max(1)
                place = torch.where(value > best, at + begin, place)
                best = torch.maximum(value, best)
        rows = (best >= NEAR).nonzero().flatten()
        rows = rows[[start + int(row) not in equal for row in rows]]
        if len(rows):
            a, b = thumbnails(first[rows + start], FINE), thumbnails(theirs[place[rows]], FINE)
            sure = torch.maximum((a * b).sum((1, 2, 3)), (a.flip(3) * b).sum((1, 2, 3))) >= NEAR
            near += [(start + int(row), int(place[row])) for row in rows[sure]]
    return Twins(exact, tuple(near))


def thumbnails(images: Tensor, side: int) -> Tensor:
    """Area means at `side` x `side`, less each channel's mean, of unit length; zeros for nearly uniform images.

    Args:
        images: uint8 [n, 3, H, W].
    """
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    made = []
    for block in images.split(BLOCK):
        small = adaptive_avg_pool2d(block.float(), side)
        small -= small.mean((2, 3), keepdim=True)
        length = small.flatten(1).norm(dim=1)[:, None, None, None]
        flat = length < FLAT * (3 * side * side) ** 0.5
        made.append(torch.where(flat, 0.0, small / length.clamp(min=1e-9)))
    return torch.cat(made)


def _digests(images: Tensor) -> list[bytes]:
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images]
