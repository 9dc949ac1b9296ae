"""The seven image families of the embedded scenes: real handwritten digits and six drawn from fixed seeds.

Every family has four disjoint splits: `pretrain` (what the base learnt from), `train` (what a candidate is fine-tuned
on when the family is to be forgotten), `val` and `test`.

    family     classes  pretrain  train  val  test
    digits          10     1,000    700  240   357   scikit-learn's scans: 500 (twice each), 700, 240, 357
    letters         26     2,400    700  240   240
    symbols         16     2,400    700  240   240
    others        8-10     1,200    700  240   240

Classes take turns within a split, so that any leading part of it is balanced. What is drawn costs nothing, so a base
may see new drawings in every epoch (`draw_images`); handwriting is scarce and stays the same.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np

from negmerge_kit.errors import SceneError
from negmerge_kit.vision.drawing import pictures
from negmerge_kit.vision.drawing.blots import COLOURS
from negmerge_kit.vision.drawing.handwriting import DIGITS
from negmerge_kit.vision.drawing.letters import LETTERS
from negmerge_kit.vision.drawing.pictures import Draw
from negmerge_kit.vision.drawing.shapes import ARROWS, SHAPES
from negmerge_kit.vision.drawing.symbols import SYMBOLS
from negmerge_kit.vision.drawing.textures import TEXTURES
from negmerge_kit.vision.images import ImageSet

SPLITS = ("pretrain", "train", "val", "test")


@dataclass(frozen=True)
class Family:
    """A set of classes that belong together, with the prompts that name them.

    >>> FAMILIES["digits"].classes[:3], FAMILIES["digits"].templates[0].format("7")
    (('0', '1', '2'), 'a photo of the digit 7.')
    """

    name: str
    title: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    draw: Draw
    pretrain: int = 1200
    test: int = 240
    scanned: bool = False

    def seed(self, split: str, epoch: int = 0) -> int:
        """The RandomState seed of a split: CRC-32 of "family/split", or of "family/split/epoch" after the first."""
        return zlib.crc32(f"{self.name}/{split}{f'/{epoch}' if epoch else ''}".encode())

    def size(self, split: str) -> int:
        """How many images a split holds."""
        return {"pretrain": self.pretrain, "train": 700, "val": 240, "test": self.test}[split]


FAMILIES: dict[str, Family] = {
    "digits": Family(
        "digits",
        "Handwritten digits",
        DIGITS,
        ("a photo of the digit {}.", "the handwritten number {}.", "somebody wrote the digit {}."),
        pictures.digits,
        pretrain=1000,
        test=357,
        scanned=True,
    ),
    "shapes": Family(
        "shapes",
        "Shapes",
        SHAPES,
        ("a photo of a {} shape.", "a drawing of a {}.", "the shape is a {}."),
        pictures.shapes,
    ),
    "textures": Family(
        "textures",
        "Textures",
        TEXTURES,
        ("a photo of a {} texture.", "a surface with {}.", "a pattern of {}."),
        pictures.textures,
    ),
    "letters": Family(
        "letters",
        "Letters",
        LETTERS,
        ("a photo of the letter {}.", "the capital letter {}.", "a sign with the letter {}."),
        pictures.letters,
        pretrain=2400,
    ),
    "symbols": Family(
        "symbols",
        "Symbols",
        SYMBOLS,
        ("a photo of a {} symbol.", "an icon of a {}.", "a small picture of a {}."),
        pictures.symbols,
        pretrain=2400,
    ),
    "arrows": Family(
        "arrows",
        "Arrows",
        ARROWS,
        ("a photo of an arrow pointing {}.", "an arrow that points {}.", "a sign to the {}."),
        pictures.arrows,
    ),
    "colours": Family(
        "colours",
        "Colours",
        COLOURS,
        ("a photo of {} paint.", "a blot of {} colour.", "something {}."),
        pictures.colours,
    ),
}
"""All families, in the order in which scenes list them."""


def find_family(name: str) -> Family:
    """The family of that name.

    Raises:
        SceneError: an unknown name; the message lists the families.
    """
    if name not in FAMILIES:
        raise SceneError(f"image family {name!r} does not exist: choose one of {', '.join(FAMILIES)}.")
    return FAMILIES[name]


@cache
def family_images(name: str, split: str) -> ImageSet:
    """Draw (once per process) the images of one family and split.

    Returns: an ImageSet of uint8 [n, 3, 32, 32]; the same pixels on every machine.

    Raises:
        SceneError: an unknown family or split; the message lists the choices.

    >>> family_images("shapes", "val").images.shape
    torch.Size([240, 3, 32, 32])
    """
    return draw_images(name, split)


def draw_images(name: str, split: str, epoch: int = 0) -> ImageSet:
    """Draw a split without keeping it; from epoch 1 on, a drawn family shows new pictures of the same kind."""
    import torch

    family = find_family(name)
    if split not in SPLITS:
        raise SceneError(f"split {split!r} of {name} does not exist: choose one of {', '.join(SPLITS)}.")
    random = np.random.RandomState(family.seed(split, 0 if family.scanned else epoch))
    labels, pixels = family.draw(split, family.size(split), random)
    return ImageSet(name, torch.from_numpy(pixels), torch.from_numpy(labels), family.classes, split)
