"""Signed distance fields on one template grid: how far each point lies outside a figure (negative inside).

Glyphs live in a square where x grows to the right, y grows downwards and the figure fills [-1, 1]. Curves are sampled
by `arc`, whose cosines are rounded to twelve bits: after that only +, -, *, / and sqrt are used, which IEEE 754 defines
to the last bit, so a field never depends on the machine or the NumPy version that drew it.
"""

from __future__ import annotations

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
