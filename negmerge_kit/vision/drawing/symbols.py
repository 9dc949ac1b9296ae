"""Sixteen everyday symbols as signed distance fields: unions and cuts of discs, polygons and pen lines."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.vision.drawing.distance import Field, arc, box, circle, cut, ellipse, line, polygon, union

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
