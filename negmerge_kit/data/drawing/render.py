"""Signed distance fields, and from them 32x32 pixels: place the figure, give it a pen and two colours, add grain.

A field says how far each point of one template grid lies outside a figure (negative inside). Figures fill [-1, 1]; x
grows to the right, y downwards. Curves are sampled by `arc`, whose cosines are rounded to twelve bits: after that only
+, -, *, / and sqrt are used, so a field never depends on the machine or the NumPy version that drew it.

Every step is float32 arithmetic that IEEE 754 defines exactly and every random number comes from RandomState, whose
stream NumPy keeps for ever, so that an image family has one fingerprint everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Points = list[tuple[float, float]]

GRID = 96
"""Template points per side."""
REACH = np.float32(1.5)
"""The template spans [-REACH, REACH] both ways."""

_axis = (((2 * np.arange(GRID) + 1) / GRID - 1) * REACH).astype(np.float32)
X, Y = np.meshgrid(_axis, _axis)


def rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round to 1/4096, so that the last bits of a platform's sine cannot reach a pixel."""
    return (np.round(values * 4096) / 4096).astype(np.float32)


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, points: int = 13) -> Points:
    """Points on an ellipse from `start` to `end` degrees; 0 is right, 90 is down."""
    angles = np.deg2rad(np.linspace(start, end, points))
    return [
        (float(a), float(b))
        for a, b in zip(rounded(x + rx * np.cos(angles)), rounded(y + ry * np.sin(angles)), strict=True)
    ]


def regular(corners: int, radius: float = 1.0, turn: float = -90.0, inner: float | None = None) -> Points:
    """A regular polygon whose first corner points to `turn` degrees; with `inner`, a star."""
    steps = corners * (1 if inner is None else 2)
    radii = [radius if inner is None or k % 2 == 0 else inner for k in range(steps)]
    return [arc(0, 0, r, r, turn + 360 * k / steps, turn + 360 * k / steps, 1)[0] for k, r in enumerate(radii)]


def stroke(points: Points) -> Field:
    """Distance to a polyline."""
    return np.sqrt(_squared(points))


def strokes(lines: list[Points]) -> Field:
    """Distance to the nearest of several polylines: the skeleton of a letter."""
    return union(*(stroke(points) for points in lines))


def polygon(points: Points) -> Field:
    """Signed distance to a closed polygon, by even-odd crossings."""
    closed = [*points, points[0]]
    inside = np.zeros(X.shape, dtype=bool)
    for (ax, ay), (bx, by) in pairwise(closed):
        if ay != by:
            crossing = (ay > Y) != (by > Y)
            inside ^= crossing & (X < np.float32(bx - ax) * (Y - np.float32(ay)) / np.float32(by - ay) + np.float32(ax))
    distance = stroke(closed)
    return np.where(inside, -distance, distance)


def circle(x: float, y: float, radius: float) -> Field:
    """Signed distance to a disc."""
    return np.sqrt((X - np.float32(x)) ** 2 + (Y - np.float32(y)) ** 2) - np.float32(radius)


def ellipse(x: float, y: float, rx: float, ry: float) -> Field:
    """Signed distance to an ellipse, as a polygon of 48 corners."""
    return polygon(arc(x, y, rx, ry, 0, 352.5, 48))


def box(x0: float, y0: float, x1: float, y1: float) -> Field:
    """Signed distance to an upright rectangle."""
    return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def union(*fields: Field) -> Field:
    """All the figures together."""
    nearest: Field = np.minimum.reduce(fields)
    return nearest


def cut(field: Field, *holes: Field) -> Field:
    """The figure without the holes."""
    left: Field = np.maximum.reduce([field, *(-hole for hole in holes)])
    return left


def line(points: Points, width: float) -> Field:
    """A polyline drawn with a round pen."""
    return stroke(points) - np.float32(width / 2)


def _squared(points: Points) -> Field:
    nearest = np.full(X.shape, np.float32(1e6))
    for (ax, ay), (bx, by) in pairwise(points):
        dx, dy = np.float32(bx - ax), np.float32(by - ay)
        length = dx * dx + dy * dy
        px, py = X - np.float32(ax), Y - np.float32(ay)
        along = np.clip((px * dx + py * dy) / length, 0, 1) if length > 0 else np.float32(0)
        nearest = np.minimum(nearest, (px - along * dx) ** 2 + (py - along * dy) ** 2)
    return nearest


SIZE = 32
"""Pixels per side of every embedded image."""

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_BATCH = 50  # images drawn at once: the working set stays in the processor's cache


@dataclass(frozen=True)
class Pose:
    """How much a figure may vary: ranges for one image, drawn uniformly."""

    radius: tuple[float, float] = (10.0, 13.0)  # pixels from the centre to 1 on the template
    shift: float = 2.0  # pixels either way
    turn: float = 8.0  # degrees either way
    stretch: float = 0.1  # relative change of the aspect
    slant: float = 0.0  # shear either way


@dataclass(frozen=True)
class Pen:
    """How a field becomes ink: filled, or a line of some width around the zero level."""

    offset: tuple[float, float] = (0.0, 0.0)  # template units by which the figure grows
    outline: float = 0.0  # share of images that show only the rim
    width: tuple[float, float] = (0.14, 0.22)  # half width of the rim, template units


def uniform(rng: np.random.RandomState, low: float, high: float, n: int) -> Floats:
    """Uniform float32 numbers, rounded so that float64 noise is gone before arithmetic begins."""
    return rounded(low + (high - low) * rng.random_sample(n))


def pixel_axes() -> Floats:
    """Pixel centres relative to the middle of the image: [32]."""
    return (np.arange(SIZE) - (SIZE - 1) / 2).astype(np.float32)


def coverage(fields: Floats, which: NDArray[np.int64], rng: np.random.RandomState, pose: Pose, pen: Pen) -> Floats:
    """Ink in [0, 1] for each image: template `which[i]` of fields [m, GRID, GRID], placed and penned: [n, 32, 32]."""
    n = len(which)
    radius = uniform(rng, *pose.radius, n)
    shift_x, shift_y = uniform(rng, -pose.shift, pose.shift, n), uniform(rng, -pose.shift, pose.shift, n)
    angle = np.deg2rad(rng.uniform(-pose.turn, pose.turn, n))
    cos, sin = rounded(np.cos(angle)), rounded(np.sin(angle))
    stretch = uniform(rng, 1 - pose.stretch, 1 + pose.stretch, n)
    slant = uniform(rng, -pose.slant, pose.slant, n)
    offset = uniform(rng, *pen.offset, n)
    width = uniform(rng, *pen.width, n)
    rim = uniform(rng, 0, 1, n) < pen.outline
    flat = np.ascontiguousarray(fields, dtype=np.float32).reshape(-1)
    ink = np.empty((n, SIZE, SIZE), dtype=np.float32)
    axis = pixel_axes()
    for start in range(0, n, _BATCH):
        batch = slice(start, start + _BATCH)
        r, c, s = (a[batch, None, None] for a in (radius, cos, sin))
        x = axis[None, None, :] - shift_x[batch, None, None]
        y = axis[None, :, None] - shift_y[batch, None, None]
        v: Floats = np.divide(y * c - x * s, r)
        u: Floats = np.divide(x * c + y * s, r * stretch[batch, None, None]) + slant[batch, None, None] * v
        distance = _sample(flat, which[batch], u, v) - offset[batch, None, None]
        w = width[batch, None, None]
        distance = np.where(rim[batch, None, None], np.abs(distance + w) - w, distance)
        ink[batch] = np.clip(np.float32(0.5) - distance * r, 0, 1)
    return ink


def paint(
    ink: Floats, front: Floats, back: Floats, rng: np.random.RandomState, grain: tuple[float, float] = (3.0, 18.0)
) -> Pixels:
    """Mix two colours [n, 3] in 0..255 by the ink, add grain of a random strength, round: uint8 [n, 3, 32, 32].

    The grain of a pixel is a sum of four random bytes, close to normal (Irwin-Hall) and exact on every machine.
    """
    n = len(ink)
    strength = uniform(rng, *grain, n) / np.float32(147.8)  # sd of a sum of four bytes
    pixels = np.empty((n, 3, SIZE, SIZE), dtype=np.uint8)
    for start in range(0, n, _BATCH):
        batch = slice(start, start + _BATCH)
        count = len(ink[batch])
        raw = np.frombuffer(rng.bytes(count * 3 * SIZE * SIZE * 4), dtype=np.uint8).reshape(4, count, 3, SIZE, SIZE)
        noise = (raw[0].astype(np.int16) + raw[1] + raw[2] + raw[3] - 510).astype(np.float32)
        base = back[batch, :, None, None]
        image = base + (front[batch, :, None, None] - base) * ink[batch, None]
        image += noise * strength[batch, None, None, None]
        pixels[batch] = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return pixels


def hue_colours(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """HSV (hue in turns, the rest in 0..1) to RGB in 0..255: [n, 3]."""
    turns = hue[:, None] + np.array([1, 2 / 3, 1 / 3], dtype=np.float32)[None]
    ramp = np.abs((turns - np.floor(turns)) * 6 - 3) - 1
    colours: Floats = 255 * value[:, None] * (1 + saturation[:, None] * (np.clip(ramp, 0, 1) - 1))
    return colours


def bright(rng: np.random.RandomState, n: int) -> Floats:
    """Random light colours for figures."""
    return hue_colours(uniform(rng, 0, 1, n), uniform(rng, 0.0, 0.65, n), uniform(rng, 0.8, 1.0, n))


def dark(rng: np.random.RandomState, n: int) -> Floats:
    """Random dark colours for grounds."""
    return hue_colours(uniform(rng, 0, 1, n), uniform(rng, 0.2, 0.8, n), uniform(rng, 0.06, 0.24, n))


def _sample(flat: Floats, which: NDArray[np.int64], u: Floats, v: Floats) -> Floats:
    """Bilinear values of the templates at points (u, v); outside the template its border goes on."""
    scale = np.float32(GRID / (2 * float(REACH)))
    x = np.clip((u + REACH) * scale - np.float32(0.5), 0, np.float32(GRID - 1.001))
    y = np.clip((v + REACH) * scale - np.float32(0.5), 0, np.float32(GRID - 1.001))
    column, row = x.astype(np.int32), y.astype(np.int32)
    fx, fy = x - column, y - row
    corner = which.astype(np.int32)[:, None, None] * (GRID * GRID) + row * GRID + column
    top = flat.take(corner) * (1 - fx) + flat.take(corner + 1) * fx
    low = flat.take(corner + GRID) * (1 - fx) + flat.take(corner + GRID + 1) * fx
    blend: Floats = top * (1 - fy) + low * fy
    return blend


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
