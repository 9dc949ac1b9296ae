"""The embedded image families as data: drawn from their seeds, at any size."""

from __future__ import annotations

from negmerge_kit.vision.data.source import InMemorySource
from negmerge_kit.vision.families import family_images, find_family
from negmerge_kit.vision.images import ImageSet

MIRROR_SAFE = ("textures", "colours")
"""Families whose classes survive a mirror; digits, letters, symbols, arrows and some shapes do not."""


class EmbeddedSource(InMemorySource):
    """One embedded family.

    >>> digits = EmbeddedSource("digits")
    >>> digits.images("val", image_size=32).images.shape, digits.images("test", image_size=64).images.shape
    (torch.Size([240, 3, 32, 32]), torch.Size([357, 3, 64, 64]))
    """

    size = (32, 32)

    def __init__(self, name: str) -> None:
        self.family = find_family(name)
        self.text = self.name = name
        self.title = self.family.title
        self.licence = "BSD-3-Clause (scikit-learn's scans)" if self.family.scanned else "MIT (drawn by this package)"
        self.flips = name in MIRROR_SAFE

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.family.classes

    @property
    def templates(self) -> tuple[str, ...]:
        """The family's prompts."""
        return self.family.templates

    def originals(self, split: str) -> ImageSet:
        """The drawings of a split, 32 x 32."""
        return family_images(self.name, split)

    def seed(self, split: str) -> int:
        """The seed that draws a split."""
        return self.family.seed(split)
