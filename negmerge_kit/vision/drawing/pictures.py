"""How each family is drawn: which fields, how far they may stray, with which pen and colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from negmerge_kit.vision.drawing.blots import COLOURS, blot_ink, paints
from negmerge_kit.vision.drawing.handwriting import digit_rows, handwriting_fields, scans
from negmerge_kit.vision.drawing.letters import letter_fields
from negmerge_kit.vision.drawing.render import Floats, Pen, Pixels, Pose, bright, coverage, dark, paint
from negmerge_kit.vision.drawing.shapes import arrow_fields, shape_fields
from negmerge_kit.vision.drawing.symbols import symbol_fields
from negmerge_kit.vision.drawing.textures import TEXTURES, texture_ink

Labels = NDArray[np.int64]
Draw = Callable[[str, int, RandomState], tuple[Labels, Pixels]]
"""Split, number of images and random numbers to labels [n] and pixels uint8 [n, 3, 32, 32]."""


def digits(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """The scans of the split, each in a random colour, over and over until there are `n` images."""
    rows = np.resize(digit_rows(split), n)
    pose = Pose(radius=(9.5, 11.0), shift=1.5, turn=5, stretch=0.05)
    ink = coverage(handwriting_fields(rows), np.arange(len(rows)), rng, pose, Pen(offset=(-0.02, 0.04)))
    return scans()[1][rows], paint(ink, bright(rng, len(rows)), dark(rng, len(rows)), rng)


def shapes(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Filled shapes, one in three as an outline."""
    return _figures(shape_fields(), n, rng, Pose(radius=(8.5, 12.5)), Pen(outline=1 / 3))


def letters(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Letters by a thin or a fat pen, upright or slanted."""
    pose = Pose(radius=(9.5, 13.0), turn=10, stretch=0.15, slant=0.25)
    return _figures(letter_fields(), n, rng, pose, Pen(offset=(0.1, 0.21)))


def symbols(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Filled symbols."""
    return _figures(symbol_fields(), n, rng, Pose(radius=(10.0, 13.0), turn=10), Pen(offset=(-0.03, 0.04)))


def arrows(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Arrows of three builds."""
    return _figures(arrow_fields(), n, rng, Pose(radius=(9.0, 13.0), turn=12), Pen(outline=0.2, width=(0.07, 0.1)))


def textures(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
    """Two-coloured patterns that fill the image."""
    labels = _in_turn(n, len(TEXTURES))
    return labels, paint(texture_ink(labels, rng), bright(rng, n), dark(rng, n), rng)


def colours(split: str, n: int, rng: RandomState) -> tuple[Labels, Pixels]:
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
