"""Shapes, arrows, letters, symbols and handwritten digits as signed distance fields.

Digits are scikit-learn's 1,797 scans, enlarged by Catmull-Rom weights at eighths, which are exact in float64, and read
as a level set: the pen's edge is where the enlarged scan crosses 7 of 16 grey levels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.data.drawing.render import (
    GRID,
    REACH,
    Field,
    Floats,
    Points,
    arc,
    box,
    circle,
    cut,
    ellipse,
    line,
    polygon,
    regular,
    rounded,
    strokes,
    union,
)

SHAPES = ("circle", "oval", "triangle", "square", "diamond", "pentagon", "hexagon", "star", "cross", "semicircle")

ARROWS = ("right", "lower right", "down", "lower left", "left", "upper left", "up", "upper right")
"""Clockwise by 45 degrees, beginning at the right."""

_CROSS: Points = [
    (-0.32, -0.95),
    (0.32, -0.95),
    (0.32, -0.32),
    (0.95, -0.32),
    (0.95, 0.32),
    (0.32, 0.32),
    (0.32, 0.95),
    (-0.32, 0.95),
    (-0.32, 0.32),
    (-0.95, 0.32),
    (-0.95, -0.32),
    (-0.32, -0.32),
]


@cache
def shape_fields() -> NDArray[np.float32]:
    """Each shape once: [10, 1, GRID, GRID]."""
    fields = {
        "circle": circle(0, 0, 0.92),
        "oval": ellipse(0, 0, 1.05, 0.62),
        "triangle": polygon([(0, -0.95), (1.0, 0.8), (-1.0, 0.8)]),
        "square": polygon([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
        "diamond": polygon([(0, -1.05), (0.75, 0), (0, 1.05), (-0.75, 0)]),
        "pentagon": polygon(regular(5)),
        "hexagon": polygon(regular(6, turn=0)),
        "star": polygon(regular(5, radius=1.1, inner=0.45)),
        "cross": polygon(_CROSS),
        "semicircle": polygon(arc(0, 0.5, 1.05, 1.05, 180, 360, 25)),
    }
    return np.stack([fields[name][None] for name in SHAPES])


@cache
def arrow_fields() -> NDArray[np.float32]:
    """Each direction in three builds (slim, block, wedge): [8, 3, GRID, GRID]."""
    builds = [
        _arrow(shaft=0.14, head=0.55, neck=0.25),
        _arrow(shaft=0.3, head=0.8, neck=0.0),
        _arrow(shaft=0.2, head=0.7, neck=0.35),
    ]
    return np.stack([np.stack([polygon(_turn(build, 45 * k)) for build in builds]) for k in range(len(ARROWS))])


def _arrow(shaft: float, head: float, neck: float) -> Points:
    return [(-1.0, -shaft), (neck, -shaft), (neck, -head), (1.05, 0.0), (neck, head), (neck, shaft), (-1.0, shaft)]


def _turn(points: Points, degrees: float) -> Points:
    angle = np.deg2rad(np.array([degrees, degrees]))
    cos, sin = float(rounded(np.cos(angle))[0]), float(rounded(np.sin(angle))[0])
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

_W, _H = 0.62, 0.9  # half width and half height of a capital


def _skeletons() -> dict[str, list[Points]]:
    w, h = _W, _H
    stem = [(-w, -h), (-w, h)]
    bowl = [(-w, -h), (0.1, -h), *arc(0.1, -0.45, 0.5, 0.45, -90, 90), (-w, 0.0)]
    round_ = arc(0, 0, w + 0.1, h, 0, 360, 25)
    return {
        "A": [[(-w, h), (0, -h), (w, h)], [(-0.38, 0.3), (0.38, 0.3)]],
        "B": [stem, bowl, [(0.1, 0.0), *arc(0.12, 0.45, 0.54, 0.45, -90, 90), (-w, h)]],
        "C": [arc(0.05, 0, w + 0.05, h, 310, 50, 21)],
        "D": [stem, [(-w, -h), (-0.1, -h), *arc(-0.1, 0, w + 0.15, h, -90, 90, 17), (-w, h)]],
        "E": [stem, [(-w, -h), (w - 0.05, -h)], [(-w, 0), (0.4, 0)], [(-w, h), (w - 0.05, h)]],
        "F": [stem, [(-w, -h), (w - 0.05, -h)], [(-w, 0), (0.4, 0)]],
        "G": [arc(0.02, 0, w + 0.05, h, 312, 30, 21), [(0.15, 0.12), (w, 0.12), (w, 0.6)]],
        "H": [stem, [(w, -h), (w, h)], [(-w, 0), (w, 0)]],
        "I": [[(0, -h), (0, h)], [(-0.3, -h), (0.3, -h)], [(-0.3, h), (0.3, h)]],
        "J": [[(0.4, -h), (0.4, 0.4), *arc(-0.05, 0.4, 0.45, 0.5, 0, 165)]],
        "K": [stem, [(w, -h), (-w, 0.12)], [(-0.2, -0.2), (w, h)]],
        "L": [stem, [(-w, h), (w - 0.05, h)]],
        "M": [[(-w - 0.1, h), (-w - 0.1, -h), (0, 0.3), (w + 0.1, -h), (w + 0.1, h)]],
        "N": [[(-w, h), (-w, -h), (w, h), (w, -h)]],
        "O": [round_],
        "P": [stem, bowl],
        "Q": [round_, [(0.15, 0.4), (0.75, 1.0)]],
        "R": [stem, bowl, [(-0.05, 0.0), (w, h)]],
        "S": [[*arc(0, -0.45, 0.55, 0.45, -25, -270, 15), *arc(0, 0.45, 0.58, 0.45, -90, 155, 15)]],
        "T": [[(0, -h), (0, h)], [(-w - 0.05, -h), (w + 0.05, -h)]],
        "U": [[(-w, -h), (-w, 0.3), *arc(0, 0.3, w, 0.6, 180, 0, 15), (w, -h)]],
        "V": [[(-w - 0.05, -h), (0, h), (w + 0.05, -h)]],
        "W": [[(-w - 0.25, -h), (-0.42, h), (0, -0.4), (0.42, h), (w + 0.25, -h)]],
        "X": [[(-w, -h), (w, h)], [(w, -h), (-w, h)]],
        "Y": [[(-w, -h), (0, 0.05), (w, -h)], [(0, 0.05), (0, h)]],
        "Z": [[(-w, -h), (w, -h), (-w, h), (w, h)]],
    }


@cache
def letter_fields() -> NDArray[np.float32]:
    """Distance to the skeleton of each letter: [26, 1, GRID, GRID]."""
    skeletons = _skeletons()
    return np.stack([strokes(skeletons[letter])[None] for letter in LETTERS])


SYMBOLS = (
    "heart",
    "moon",
    "sun",
    "cloud",
    "house",
    "tree",
    "flower",
    "fish",
    "key",
    "umbrella",
    "lightning bolt",
    "music note",
    "smiley",
    "envelope",
    "drop",
    "crown",
)


@cache
def symbol_fields() -> NDArray[np.float32]:
    """Each symbol once: [16, 1, GRID, GRID]."""
    fields: dict[str, Field] = {
        "heart": polygon([*arc(-0.48, -0.38, 0.52, 0.5, 150, 345), *arc(0.48, -0.38, 0.52, 0.5, 195, 390), (0, 0.98)]),
        "moon": cut(circle(-0.1, 0, 0.98), circle(0.38, -0.12, 0.82)),
        "sun": union(
            circle(0, 0, 0.48),
            *(
                line([ray[0], ray[1]], 0.16)
                for ray in zip(arc(0, 0, 0.72, 0.72, 0, 315, 8), arc(0, 0, 1.05, 1.05, 0, 315, 8), strict=True)
            ),
        ),
        "cloud": union(
            circle(-0.55, 0.2, 0.45), circle(0.0, -0.15, 0.58), circle(0.6, 0.22, 0.42), box(-0.55, 0.1, 0.6, 0.64)
        ),
        "house": cut(
            union(polygon([(0, -1.0), (1.05, -0.1), (-1.05, -0.1)]), box(-0.75, -0.15, 0.75, 0.9)),
            box(-0.2, 0.3, 0.2, 0.95),
        ),
        "tree": union(
            polygon([(0, -1.05), (0.55, -0.35), (-0.55, -0.35)]),
            polygon([(0, -0.7), (0.72, 0.15), (-0.72, 0.15)]),
            polygon([(0, -0.2), (0.88, 0.65), (-0.88, 0.65)]),
            box(-0.16, 0.6, 0.16, 1.05),
        ),
        "flower": cut(
            union(*(circle(x, y, 0.4) for x, y in arc(0, 0, 0.62, 0.62, -90, 198, 5)), circle(0, 0, 0.4)),
            circle(0, 0, 0.26),
        ),
        "fish": cut(
            union(ellipse(-0.2, 0, 0.8, 0.5), polygon([(0.35, 0), (1.05, -0.55), (1.05, 0.55)])),
            circle(-0.6, -0.12, 0.13),
        ),
        "key": union(
            cut(circle(-0.6, 0, 0.45), circle(-0.6, 0, 0.2)),
            box(-0.2, -0.12, 1.05, 0.12),
            box(0.78, 0, 1.02, 0.45),
            box(0.4, 0, 0.62, 0.38),
        ),
        "umbrella": union(
            polygon(
                [
                    *arc(0, 0, 1.05, 0.95, 180, 360, 21),
                    *arc(0.7, 0, 0.35, 0.2, 0, -180, 7),
                    *arc(0, 0, 0.35, 0.2, 0, -180, 7),
                    *arc(-0.7, 0, 0.35, 0.2, 0, -180, 7),
                ]
            ),
            line([(0, -0.2), (0, 0.75), *arc(-0.2, 0.75, 0.2, 0.2, 0, 180, 9)], 0.16),
        ),
        "lightning bolt": polygon(
            [(0.25, -1.1), (-0.65, 0.2), (-0.05, 0.2), (-0.3, 1.1), (0.65, -0.25), (0.05, -0.25)]
        ),
        "music note": union(
            ellipse(-0.5, 0.7, 0.32, 0.25),
            ellipse(0.55, 0.55, 0.32, 0.25),
            line([(-0.26, 0.7), (-0.26, -0.75)], 0.14),
            line([(0.79, 0.55), (0.79, -0.9)], 0.14),
            polygon([(-0.33, -0.8), (0.86, -1.0), (0.86, -0.65), (-0.33, -0.45)]),
        ),
        "smiley": cut(
            circle(0, 0, 1.0),
            circle(-0.36, -0.28, 0.17),
            circle(0.36, -0.28, 0.17),
            line(arc(0, 0.1, 0.55, 0.5, 20, 160), 0.17),
        ),
        "envelope": cut(box(-1.05, -0.7, 1.05, 0.7), line([(-1.05, -0.7), (0, 0.15), (1.05, -0.7)], 0.16)),
        "drop": polygon([(0, -1.1), *arc(0, 0.3, 0.68, 0.68, -28, 208, 21)]),
        "crown": union(
            polygon([(-1.0, -0.6), (-0.5, 0.0), (0, -0.85), (0.5, 0.0), (1.0, -0.6), (0.8, 0.65), (-0.8, 0.65)]),
            circle(-1.0, -0.65, 0.13),
            circle(0, -0.92, 0.13),
            circle(1.0, -0.65, 0.13),
        ),
    }
    return np.stack([fields[name][None] for name in SYMBOLS])


DIGITS = tuple("0123456789")

_SCAN = 8
_ENLARGE = 8  # template points per scan pixel
_EDGE = 7.0  # grey level (of 16) at the pen's edge


@cache
def scans() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Grey levels 0..16 [1797, 8, 8] and labels [1797]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images.astype(np.int64), data.target.astype(np.int64)


def digit_rows(split: str) -> NDArray[np.int64]:
    """The scans of a split, digits taking turns; every scan belongs to exactly one split."""
    shares = {"pretrain": slice(0, 50), "train": slice(50, 120), "val": slice(120, 144), "test": slice(144, None)}
    queues = [order[shares[split]] for order in _shuffled()]
    longest = max(len(queue) for queue in queues)
    return np.array([queue[k] for k in range(longest) for queue in queues if k < len(queue)], dtype=np.int64)


@cache
def _shuffled() -> tuple[NDArray[np.int64], ...]:
    """The scans of each digit in one fixed order, of which the splits are slices."""
    labels = scans()[1]
    rng = np.random.RandomState(1797)
    return tuple(rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10))


def handwriting_fields(rows: NDArray[np.int64]) -> Floats:
    """Fields of the chosen scans: negative inside the pen stroke, in template units: [n, GRID, GRID]."""
    grey = np.pad(scans()[0][rows], ((0, 0), (2, 2), (2, 2))).astype(np.float64)  # 12 x 12: margins are paper
    weights = _catmull_rom(_SCAN + 4)
    large = weights @ grey @ weights.T  # exact: every product is a dyadic rational of few bits
    slope = 2 * float(REACH) / (_SCAN + 4) / 7.0  # a stroke's flank climbs about seven levels per scan pixel
    return ((_EDGE - large) * slope).astype(np.float32)


@cache
def _catmull_rom(size: int) -> NDArray[np.float64]:
    """Interpolation from `size` samples to `size * 8`, borders repeated."""
    matrix = np.zeros((size * _ENLARGE, size))
    for row in range(size * _ENLARGE):
        position = (row + 0.5) / _ENLARGE - 0.5
        first = int(np.floor(position))
        t = position - first
        taps = (
            ((-t + 2) * t - 1) * t / 2,
            ((3 * t - 5) * t * t + 2) / 2,
            ((-3 * t + 4) * t + 1) * t / 2,
            (t - 1) * t * t / 2,
        )
        for k, tap in enumerate(taps):
            matrix[row, min(max(first - 1 + k, 0), size - 1)] += tap
    if matrix.shape[0] != GRID:
        raise ValueError(f"templates have {GRID} points, the enlarged scan {matrix.shape[0]}")
    return matrix
