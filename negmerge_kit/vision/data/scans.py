"""scikit-learn's 1,797 handwritten digits as they are, 8 x 8: small enough to train a classifier in seconds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from negmerge_kit.types import Json
from negmerge_kit.vision.data.numbering import Numbering
from negmerge_kit.vision.data.source import DataSource, check_corrupt
from negmerge_kit.vision.data.transform import Transform, as_transform, resized
from negmerge_kit.vision.drawing.handwriting import DIGITS, digit_rows, scans

if TYPE_CHECKING:
    from negmerge_kit.vision.images import ImageSet

SCANS = "scans"
SCANNED_AT = (8, 8)
_WHITE = 16  # the scans' grey levels run from 0 to 16


class ScansSource(DataSource):
    """The scans themselves, in the splits of the family `digits`: what its base and candidates see trains here.

    1,200 scans train (500 and 700 of `digits`), 240 validate and 357 test; no scan is in two splits of either.

    >>> source = ScansSource()
    >>> [tuple(source.images(split, image_size=8).images.shape) for split in source.splits]
    [(1200, 3, 8, 8), (240, 3, 8, 8), (357, 3, 8, 8)]
    """

    def __init__(self) -> None:
        self.text = self.name = SCANS
        self.title = "Handwritten digits as they were scanned, 8 x 8"
        self.licence = "BSD-3-Clause (scikit-learn's scans)"
        self.bytes = 0
        self.flips = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten digits."""
        return DIGITS

    @property
    def templates(self) -> tuple[str, ...]:
        """One plain prompt."""
        return ("a photo of the digit {}.",)

    def images(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> ImageSet:
        """The scans of a split, resized if they are wanted at another size than 8 x 8."""
        self.check_split(split)
        check_corrupt(corrupt)
        transform = as_transform(image_size)
        scanned = _scanned(split)
        return scanned if transform.size == SCANNED_AT else resized(scanned, transform)

    def numbering(self, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> Numbering:
        """As `sklearn.datasets.load_digits` numbers its 1,797 scans."""
        rows = {split: _rows(split) for split in self.splits}
        return Numbering(self.name, sum(map(len, rows.values())), rows)

    def described(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> Json:
        """Name, split, n and fingerprint."""
        images = self.images(split, image_size=image_size, corrupt=corrupt)
        return {"name": self.name, "split": split, "seed": 0, "n": len(images), "fingerprint": images.fingerprint()}


@cache
def _scanned(split: str) -> ImageSet:
    import numpy as np
    import torch

    from negmerge_kit.vision.images import ImageSet

    grey, labels = scans()
    rows = _rows(split)
    levels = np.round(grey[rows] * (255 / _WHITE)).astype(np.uint8)
    pixels = torch.from_numpy(levels)[:, None].expand(-1, 3, -1, -1).contiguous()
    images = ImageSet(SCANS, pixels, torch.from_numpy(labels[rows]), DIGITS, split)
    return replace(images, known=images.fingerprint())


def _rows(split: str) -> list[int]:
    return [int(row) for part in (("pretrain", "train") if split == "train" else (split,)) for row in digit_rows(part)]
