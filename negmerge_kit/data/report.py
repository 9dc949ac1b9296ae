"""A report on image sets before training: images per class, and twins within and across splits."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import combinations_with_replacement

from negmerge_kit.data.decoded_cache import EncodedRows
from negmerge_kit.data.twins import find_twins
from negmerge_kit.image_set import ImageSet
from negmerge_kit.types import Json

LONG_TAIL = 10
"""Ratio of the largest class to the smallest from which draws should be stratified."""


def class_counts(images: ImageSet) -> Json:
    """Images per class: n, how many the smallest and largest classes have, and the names of those without any.

    >>> import torch
    >>> pixels, labels = torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 2])
    >>> class_counts(ImageSet("pets", pixels, labels, ("cat", "dog", "eel"), "test"))
    {'name': 'pets', 'split': 'test', 'n': 3, 'classes': 3, 'smallest': 1, 'largest': 2, 'empty': ['dog']}
    """
    counts = images.labels.bincount(minlength=len(images.classes)).tolist()
    present = [count for count in counts if count]
    return {
        "name": images.name,
        "split": images.split,
        "n": len(images),
        "classes": len(counts),
        "smallest": min(present, default=0),
        "largest": max(present, default=0),
        "empty": [name for name, count in zip(images.classes, counts, strict=True) if not count],
    }


def twins_of(sets: Sequence[ImageSet]) -> list[Json]:
    """Twins within every set and across every two: counts of the first's images that have one, and (place, place).

    Args:
        sets: of one image size.
    """
    found = []
    for (a, first), (b, second) in combinations_with_replacement(list(enumerate(sets)), 2):
        twins = find_twins(first.images, None if a == b else second.images)
        found.append({"first": a, "second": b, "exact": list(twins.exact), "near": list(twins.near)})
    return found


def file_modes(rows: EncodedRows) -> dict[str, int]:
    """Number of files by Pillow's mode (RGB, L, P, LA, CMYK, I;16 …), from their headers, or "unreadable"."""
    from PIL import Image

    modes: dict[str, int] = {}
    for _, read in rows.read(range(len(rows.labels))):
        try:
            with Image.open(BytesIO(read())) as image:
                mode = image.mode
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            mode = "unreadable"
        modes[mode] = modes.get(mode, 0) + 1
    return modes
