"""What fills an image: ten textures, as signed distances in periods of the pattern, and paint in eight colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.data.drawing.render import SIZE, Floats, hue_colours, pixel_axes, rounded, uniform


@dataclass(frozen=True)
class Sheet:
    """Where the pixels of some images lie on their pattern, each array [n, 32, 32] or [n, 1, 1]."""

    u: Floats  # from the middle to the right, in periods
    v: Floats  # from the middle downwards
    shift: Floats  # phase in 0..1
    drop: Floats  # phase in 0..1
    duty: Floats  # share of the period that is ink
    lean: Floats  # +-sqrt(1/2): which way a diagonal runs

    @property
    def a(self) -> Floats:
        """Across, with its phase."""
        return self.u + self.shift

    @property
    def b(self) -> Floats:
        """Down, with its phase."""
        return self.v + self.drop


def saw(t: Floats) -> Floats:
    """Distance to the nearest integer: 0 to 1/2."""
    distance: Floats = np.abs(t - np.rint(t))
    return distance


def stripes(t: Floats, sheet: Sheet) -> Floats:
    """Bands of ink around each integer."""
    return saw(t) - sheet.duty * np.float32(0.5)


def checkerboard(sheet: Sheet) -> Floats:
    """Fields of 0.7 periods."""
    across, down = (np.float32(0.25) - saw(t * np.float32(0.7)) for t in (sheet.a, sheet.b))
    edge: Floats = np.minimum(np.abs(across), np.abs(down)) / np.float32(0.7)
    ink: Floats = np.where((across > 0) == (down > 0), -edge, edge)
    return ink


def waves(sheet: Sheet) -> Floats:
    """Bands along a wave of parabolas, which replace a sine because they are exact on every machine."""
    t = sheet.a * np.float32(0.8)
    s = 2 * (t - np.floor(t)) - 1
    return stripes(sheet.b + s * (1 - np.abs(s)) * np.float32(1.2), sheet)


def rings(sheet: Sheet) -> Floats:
    """Bands around a centre near the middle."""
    x, y = sheet.a - np.float32(0.5), sheet.b - np.float32(0.5)
    return stripes(np.sqrt(x * x + y * y), sheet)


def bricks(sheet: Sheet) -> Floats:
    """Bricks 1.7 times as wide as high, every second course shifted by half a brick; the mortar is the ground."""
    course = np.floor(sheet.b)
    shift = (course - 2 * np.floor(course / 2)) * np.float32(0.5)
    across = saw(sheet.a / np.float32(1.7) + shift) * np.float32(1.7)
    joint: Floats = np.minimum(across, saw(sheet.b))
    return np.float32(0.11) - joint


PATTERNS: dict[str, Callable[[Sheet], Floats]] = {
    "horizontal stripes": lambda s: stripes(s.b, s),
    "vertical stripes": lambda s: stripes(s.a, s),
    "diagonal stripes": lambda s: stripes(s.v * np.float32(0.7071) + s.u * s.lean + s.shift, s),
    "checkerboard": checkerboard,
    "dots": lambda s: np.sqrt(saw(s.a) ** 2 + saw(s.b) ** 2) - (np.float32(0.12) + s.duty * np.float32(0.3)),
    "grid": lambda s: np.minimum(saw(s.a), saw(s.b)) - np.float32(0.13),
    "waves": waves,
    "zigzag": lambda s: stripes(s.b + (saw(s.a * np.float32(0.8)) - np.float32(0.25)) * np.float32(1.6), s),
    "rings": rings,
    "bricks": bricks,
}

TEXTURES = tuple(PATTERNS)


def texture_ink(labels: NDArray[np.int64], rng: np.random.RandomState) -> Floats:
    """Ink in [0, 1] of one texture per image, with a period of 6 to 10 pixels, slightly turned: [n, 32, 32]."""
    n = len(labels)
    period, shift, drop, duty = (
        uniform(rng, low, high, n)[:, None, None] for low, high in ((6.0, 10.0), (0, 1), (0, 1), (0.4, 0.6))
    )
    angle = np.deg2rad(rng.uniform(-7, 7, n))
    cos, sin = rounded(np.cos(angle))[:, None, None], rounded(np.sin(angle))[:, None, None]
    lean = np.where(uniform(rng, 0, 1, n) < 0.5, np.float32(0.7071), np.float32(-0.7071))[:, None, None]
    axis = pixel_axes()
    x, y = axis[None, None, :], axis[None, :, None]
    u, v = (x * cos + y * sin) / period, (y * cos - x * sin) / period
    ink = np.empty((n, SIZE, SIZE), dtype=np.float32)
    for label, pattern in enumerate(PATTERNS.values()):
        rows = labels == label
        sheet = Sheet(*(values[rows] for values in (u, v, shift, drop, duty, lean)))
        ink[rows] = np.clip(np.float32(0.5) - pattern(sheet) * period[rows], 0, 1)
    return ink


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
