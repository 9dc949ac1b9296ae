"""Blots of paint in eight colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.vision.drawing.render import SIZE, Floats, hue_colours, pixel_axes, uniform

WHEEL = {
    "red": (0.0, 0.0),
    "orange": (0.078, 0.0),
    "yellow": (0.155, 0.0),
    "green": (0.34, 0.0),
    "cyan": (0.495, 0.0),
    "blue": (0.63, 0.0),
    "purple": (0.765, 0.0),
    "pink": (0.92, 0.35),
}
"""Where each colour lies on the colour wheel, in turns, and how much paler than pure it is."""

COLOURS = tuple(WHEEL)


def blot_ink(n: int, rng: np.random.RandomState) -> Floats:
    """The union of three discs near the middle of each image, in [0, 1]: [n, 32, 32]."""
    axis = pixel_axes()
    x, y = axis[None, None, :], axis[None, :, None]
    ink = np.zeros((n, SIZE, SIZE), dtype=np.float32)
    for _ in range(3):
        cx, cy, radius = (uniform(rng, low, high, n)[:, None, None] for low, high in ((-6, 6), (-6, 6), (4.5, 8)))
        disc = radius - np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
        ink = np.maximum(ink, np.clip(disc + np.float32(0.5), 0, 1))
    return ink


def paints(labels: NDArray[np.int64], rng: np.random.RandomState) -> Floats:
    """RGB in 0..255 of a paint that strays around the colour it is called: [n, 3]."""
    hue, paleness = np.array(list(WHEEL.values()), dtype=np.float32)[labels].T
    n = len(labels)
    return hue_colours(
        hue + uniform(rng, -0.03, 0.03, n), uniform(rng, 0.7, 1.0, n) - paleness, uniform(rng, 0.8, 1.0, n)
    )
