"""What a notebook has measured on the live subset, by choice, so that no scale is scored twice."""

from __future__ import annotations

from negmerge_kit.lab.resident import Choice
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.scoring.scale import Point
from negmerge_kit.views.plots import LARGEST_SCALE

SCALES = tuple(round(LARGEST_SCALE * step / 10, 3) for step in range(1, 11))
"""Scales of a live curve."""


class Measured:
    """Live points of a workbench, remembered."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._points: dict[tuple[Choice, float], Point] = {}

    @property
    def base(self) -> Point:
        """The base's live scores, as the point at scale 0."""
        scores = self.bench.base_scores("live")
        return Point(0.0, scores.forget, scores.retain)

    def point(self, choice: Choice, scale: float) -> Point:
        """The live point of a choice at a scale."""
        if (choice, scale) not in self._points:
            scores = self.bench.score(choice, scale, "live")
            self._points[choice, scale] = Point(scale, scores.forget, scores.retain)
        return self._points[choice, scale]

    def curve(self, choice: Choice, end: float = LARGEST_SCALE) -> list[Point]:
        """The live curve of a choice, to the end of its axis."""
        farther = [end * step / 8 for step in range(1, 9)] if end > LARGEST_SCALE else []
        return [self.point(choice, scale) for scale in sorted({*SCALES, *farther})]
