"""The embedded image families as data: drawn from their seeds, at any size."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from negmerge_kit.data.drawing.figures import (
    ARROWS,
    DIGITS,
    LETTERS,
    SHAPES,
    SYMBOLS,
    arrow_fields,
    digit_rows,
    handwriting_fields,
    letter_fields,
    scans,
    shape_fields,
    symbol_fields,
)
from negmerge_kit.data.drawing.render import (
    COLOURS,
    TEXTURES,
    Floats,
    Pen,
    Pixels,
    Pose,
    blot_ink,
    bright,
    coverage,
    dark,
    paint,
    paints,
    texture_ink,
)
from negmerge_kit.data.source import InMemorySource
from negmerge_kit.errors import SceneError
from negmerge_kit.image_set import ImageSet

Labels = NDArray[np.int64]
Draw = Callable[[str, int, RandomState], tuple[Labels, Pixels]]
"""Split, number of images and random numbers to labels [n] and pixels uint8 [n, 3, 32, 32]."""


def draw_digits(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """The scans of the split, each in a random colour, over and over until there are `n` images."""
    rows = np.resize(digit_rows(split), n)
    pose = Pose(radius=(9.5, 11.0), shift=1.5, turn=5, stretch=0.05)
    ink = coverage(handwriting_fields(rows), np.arange(len(rows)), rng, pose, Pen(offset=(-0.02, 0.04)))
    return scans()[1][rows], paint(ink, bright(rng, len(rows)), dark(rng, len(rows)), rng)


def draw_shapes(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Filled shapes, one in three as an outline."""
    return _figures(shape_fields(), n, rng, Pose(radius=(8.5, 12.5)), Pen(outline=1 / 3))


def draw_letters(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Letters by a thin or a fat pen, upright or slanted."""
    pose = Pose(radius=(9.5, 13.0), turn=10, stretch=0.15, slant=0.25)
    return _figures(letter_fields(), n, rng, pose, Pen(offset=(0.1, 0.21)))


def draw_symbols(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Filled symbols."""
    return _figures(symbol_fields(), n, rng, Pose(radius=(10.0, 13.0), turn=10), Pen(offset=(-0.03, 0.04)))


def draw_arrows(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Arrows of three builds."""
    return _figures(arrow_fields(), n, rng, Pose(radius=(9.0, 13.0), turn=12), Pen(outline=0.2, width=(0.07, 0.1)))


def draw_textures(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Two-coloured patterns that fill the image."""
    labels = _in_turn(n, len(TEXTURES))
    return labels, paint(texture_ink(labels, rng), bright(rng, n), dark(rng, n), rng)


def draw_colours(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Blots of paint whose hue strays around the colour that they are called."""
    labels = _in_turn(n, len(COLOURS))
    return labels, paint(blot_ink(n, rng), paints(labels, rng), dark(rng, n), rng)


def _figures(fields: Floats, n: int, rng: RandomState, pose: Pose, pen: Pen) -> tuple[Labels, Pixels]:
    """Classes in turn, each from one of its templates [C, styles, GRID, GRID]."""
    classes, styles = fields.shape[:2]
    labels = _in_turn(n, classes)
    ink = coverage(fields, labels * styles + rng.randint(0, styles, n), rng, pose, pen)
    return labels, paint(ink, bright(rng, n), dark(rng, n), rng)


def _in_turn(n: int, classes: int) -> Labels:
    return np.arange(n, dtype=np.int64) % classes


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
        draw_digits,
        pretrain=1000,
        test=357,
        scanned=True,
    ),
    "shapes": Family(
        "shapes", "Shapes", SHAPES, ("a photo of a {} shape.", "a drawing of a {}.", "the shape is a {}."), draw_shapes
    ),
    "textures": Family(
        "textures",
        "Textures",
        TEXTURES,
        ("a photo of a {} texture.", "a surface with {}.", "a pattern of {}."),
        draw_textures,
    ),
    "letters": Family(
        "letters",
        "Letters",
        LETTERS,
        ("a photo of the letter {}.", "the capital letter {}.", "a sign with the letter {}."),
        draw_letters,
        pretrain=2400,
    ),
    "symbols": Family(
        "symbols",
        "Symbols",
        SYMBOLS,
        ("a photo of a {} symbol.", "an icon of a {}.", "a small picture of a {}."),
        draw_symbols,
        pretrain=2400,
    ),
    "arrows": Family(
        "arrows",
        "Arrows",
        ARROWS,
        ("a photo of an arrow pointing {}.", "an arrow that points {}.", "a sign to the {}."),
        draw_arrows,
    ),
    "colours": Family(
        "colours", "Colours", COLOURS, ("a photo of {} paint.", "a blot of {} colour.", "something {}."), draw_colours
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
