"""The live curve of a choice in a notebook; the workbench remembers its points, so that no scale is scored twice."""

from __future__ import annotations

from negmerge_kit.plots.scale_curve import LARGEST_SCALE
from negmerge_kit.scoring.scale_search import Point
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench

SCALES = tuple(round(LARGEST_SCALE * step / 10, 3) for step in range(1, 11))
"""Scales of a live curve."""


def live_point(bench: Workbench, choice: Choice | None, scale: float) -> Point:
    """The point of a choice at a scale on the live subset; no choice is the base."""
    return bench.score(choice, scale, "live").point(scale)


def live_curve(bench: Workbench, choice: Choice, end: float = LARGEST_SCALE) -> list[Point]:
    """The live curve of a choice, to the end of its axis."""
    farther = [end * step / 8 for step in range(1, 9)] if end > LARGEST_SCALE else []
    return [live_point(bench, choice, scale) for scale in sorted({*SCALES, *farther})]
