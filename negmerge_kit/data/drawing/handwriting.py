"""Real handwritten digits: scikit-learn's 1,797 scans of 8x8, made smooth enough to be drawn at any size.

The scans are enlarged by Catmull-Rom weights at eighths, which are exact in float64, and read as a level set: the pen's
edge is where the enlarged scan crosses 7 of 16 grey levels. That gives a distance-like field for the renderer.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.data.drawing.render import GRID, REACH, Floats

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
