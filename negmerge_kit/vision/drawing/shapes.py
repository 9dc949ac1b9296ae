"""Plain shapes and arrows as signed distance fields."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.vision.drawing.distance import Points, arc, circle, ellipse, polygon, regular, rounded

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
