"""Capital letters as pen strokes: 26 skeletons, drawn with whatever pen an image asks for."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.vision.drawing.distance import Points, arc, strokes

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
