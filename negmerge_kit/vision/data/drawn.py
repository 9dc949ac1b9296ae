"""The embedded image families as data: drawn from their seeds, at any size."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from negmerge_kit.types import Json
from negmerge_kit.vision.data.source import DataSource, check_corrupt
from negmerge_kit.vision.data.transform import Transform, as_transform, resized
from negmerge_kit.vision.families import family_images, find_family

if TYPE_CHECKING:
    from negmerge_kit.vision.images import ImageSet

DRAWN_AT = (32, 32)
MIRROR_SAFE = ("textures", "colours")
"""Families whose classes survive a mirror; digits, letters, symbols, arrows and some shapes do not."""


class DrawnSource(DataSource):
    """One embedded family; nothing is stored, the same pixels appear on every machine.

    >>> digits = DrawnSource("digits")
    >>> digits.images("val", image_size=32).images.shape, digits.images("test", image_size=64).images.shape
    (torch.Size([240, 3, 32, 32]), torch.Size([357, 3, 64, 64]))
    """

    def __init__(self, name: str) -> None:
        self.family = find_family(name)
        self.text = self.name = name
        self.title = self.family.title
        self.licence = "BSD-3-Clause (scikit-learn's scans)" if self.family.scanned else "MIT (drawn by this package)"
        self.bytes = 0
        self.flips = name in MIRROR_SAFE

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.family.classes

    @property
    def templates(self) -> tuple[str, ...]:
        """The family's prompts."""
        return self.family.templates

    def images(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> ImageSet:
        """The drawings of a split, resized if they are wanted at another size than 32 x 32."""
        self.check_split(split)
        check_corrupt(corrupt)
        transform = as_transform(image_size)
        return family_images(self.name, split) if transform.size == DRAWN_AT else _resized(self.name, split, transform)

    def described(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> Json:
        """Name, split, the seed that draws it, n and fingerprint."""
        images = self.images(split, image_size=image_size, corrupt=corrupt)
        return {
            "name": self.name,
            "split": split,
            "seed": self.family.seed(split),
            "n": len(images),
            "fingerprint": images.fingerprint(),
        }


@lru_cache(maxsize=16)
def _resized(name: str, split: str, transform: Transform) -> ImageSet:
    return resized(family_images(name, split), transform)
