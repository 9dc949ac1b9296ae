"""scikit-learn's 1,797 handwritten digits as they are, 8 x 8: small enough to train a classifier in seconds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from negmerge_kit.data.drawing.figures import DIGITS, digit_rows, scans
from negmerge_kit.data.source import InMemorySource
from negmerge_kit.data.splits import Numbering
from negmerge_kit.data.transform import ImageSize
from negmerge_kit.image_set import ImageSet

SCANS = "scans"
_WHITE = 16  # the scans' grey levels run from 0 to 16


class ScansSource(InMemorySource):
    """The scans themselves, in the splits of the family `digits`: what its base and candidates see trains here.

    1,200 scans train (500 and 700 of `digits`), 240 validate and 357 test; no scan is in two splits of either.

    >>> source = ScansSource()
    >>> [tuple(source.images(split, image_size=8).images.shape) for split in source.splits]
    [(1200, 3, 8, 8), (240, 3, 8, 8), (357, 3, 8, 8)]
    """

    text = name = SCANS
    title = "Handwritten digits as they were scanned, 8 x 8"
    licence = "BSD-3-Clause (scikit-learn's scans)"
    flips = False
    size = (8, 8)
    classes = DIGITS
    templates = ("a photo of the digit {}.",)

    def originals(self, split: str) -> ImageSet:
        """The scans of a split, 8 x 8."""
        return _scanned(split)

    def numbering(self, *, image_size: ImageSize, corrupt: str = "refuse") -> Numbering:
        """As `sklearn.datasets.load_digits` numbers its 1,797 scans."""
        rows = {split: _rows(split) for split in self.splits}
        return Numbering(self.name, sum(map(len, rows.values())), rows)


@cache
def _scanned(split: str) -> ImageSet:
    import numpy as np
    import torch

    grey, labels = scans()
    rows = _rows(split)
    levels = np.round(grey[rows] * (255 / _WHITE)).astype(np.uint8)
    pixels = torch.from_numpy(levels)[:, None].expand(-1, 3, -1, -1).contiguous()
    images = ImageSet(SCANS, pixels, torch.from_numpy(labels[rows]), DIGITS, split)
    return replace(images, known=images.fingerprint())


def _rows(split: str) -> list[int]:
    return [int(row) for part in (("pretrain", "train") if split == "train" else (split,)) for row in digit_rows(part)]
