"""Textures and colour blots: figures without an outline of their own, computed for each image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.vision.drawing.distance import rounded
from negmerge_kit.vision.drawing.render import SIZE, Floats, pixel_axes, uniform

TEXTURES = ("horizontal stripes", "vertical stripes", "diagonal stripes", "checkerboard", "dots", "grid", "waves",
            "zigzag", "rings", "bricks")

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
HUES = (0.0, 0.078, 0.155, 0.34, 0.495, 0.63, 0.765, 0.92)
"""Centre of each colour in turns of the colour wheel."""
PALE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.35)
"""How much paler than pure a colour is: pink is a pale red."""


def texture_ink(labels: NDArray[np.int64], rng: np.random.RandomState) -> Floats:
    """Ink in [0, 1] of a texture per image, period 6 to 10 pixels, slightly turned: [n, 32, 32]."""
    n = len(labels)
    period = uniform(rng, 6.0, 10.0, n)[:, None, None]
    phase_x, phase_y = uniform(rng, 0, 1, n)[:, None, None], uniform(rng, 0, 1, n)[:, None, None]
    angle = np.deg2rad(rng.uniform(-7, 7, n))
    cos, sin = rounded(np.cos(angle))[:, None, None], rounded(np.sin(angle))[:, None, None]
    leaning = np.where(uniform(rng, 0, 1, n) < 0.5, np.float32(0.7071), np.float32(-0.7071))[:, None, None]
    duty = uniform(rng, 0.4, 0.6, n)[:, None, None]
    axis = pixel_axes()
    x, y = axis[None, None, :], axis[None, :, None]
    u, v = (x * cos + y * sin) / period, (y * cos - x * sin) / period  # in periods
    ink = np.empty((n, SIZE, SIZE), dtype=np.float32)
    for label, name in enumerate(TEXTURES):
        rows = labels == label
        pattern = _pattern(name, u[rows], v[rows], phase_x[rows], phase_y[rows], leaning[rows], duty[rows])
        ink[rows] = np.clip(np.float32(0.5) - pattern * period[rows], 0, 1)
    return ink


def blot_ink(n: int, rng: np.random.RandomState) -> Floats:
    """A blot of paint per image, the union of three discs: [n, 32, 32]."""
    axis = pixel_axes()
    x, y = axis[None, None, :], axis[None, :, None]
    distance = np.full((n, SIZE, SIZE), np.float32(1e6))
    for _ in range(3):
        cx, cy = uniform(rng, -6, 6, n)[:, None, None], uniform(rng, -6, 6, n)[:, None, None]
        radius = uniform(rng, 4.5, 8.0, n)[:, None, None]
        distance = np.minimum(distance, np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius)
    return np.clip(np.float32(0.5) - distance, 0, 1)


def _saw(t: Floats) -> Floats:
    """Distance to the nearest integer: 0 to 1/2."""
    return np.abs(t - np.rint(t))


def _stripes(t: Floats, duty: Floats) -> Floats:
    return _saw(t) - duty / 2


def _pattern(name: str, u: Floats, v: Floats, px: Floats, py: Floats, leaning: Floats, duty: Floats) -> Floats:
    """Signed distance to the ink, in periods."""
    a, b = u + px, v + py
    if name == "horizontal stripes":
        return _stripes(b, duty)
    if name == "vertical stripes":
        return _stripes(a, duty)
    if name == "diagonal stripes":
        return _stripes(v * np.float32(0.7071) + u * leaning + px, duty)
    if name == "checkerboard":
        return _checker(a * np.float32(0.7), b * np.float32(0.7)) / np.float32(0.7)
    if name == "dots":
        return np.sqrt(_saw(a) ** 2 + _saw(b) ** 2) - (np.float32(0.12) + duty * np.float32(0.3))
    if name == "grid":
        return np.minimum(_saw(a), _saw(b)) - np.float32(0.13)
    if name == "waves":
        return _stripes(b + _parabola(a * np.float32(0.8)) * np.float32(0.3), duty)
    if name == "zigzag":
        return _stripes(b + (_saw(a * np.float32(0.8)) - np.float32(0.25)) * np.float32(1.6), duty)
    if name == "rings":
        return _stripes(np.sqrt((u + (px - np.float32(0.5))) ** 2 + (v + (py - np.float32(0.5))) ** 2), duty)
    return _bricks(a, b)


def _checker(a: Floats, b: Floats) -> Floats:
    """A checkerboard with fields of half a period."""
    da, db = np.float32(0.25) - _saw(a), np.float32(0.25) - _saw(b)
    edge = np.minimum(np.abs(da), np.abs(db))
    return np.where((da > 0) == (db > 0), -edge, edge)


def _parabola(t: Floats) -> Floats:
    """A smooth wave of period 1 between -1 and 1: parabolas in place of a sine, exact on every machine."""
    s = 2 * (t - np.floor(t)) - 1
    return 4 * s * (1 - np.abs(s))


def _bricks(a: Floats, b: Floats) -> Floats:
    """Bricks twice as wide as high, each course shifted by half a brick; the ink is the brick, the ground is mortar."""
    course = np.floor(b)
    shift = (course - 2 * np.floor(course / 2)) * np.float32(0.5)
    across = _saw(a / np.float32(1.7) + shift) * np.float32(1.7)
    return np.float32(0.11) - np.minimum(across, _saw(b))
