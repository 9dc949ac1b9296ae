"""What the page shows of each choice: the curves fill in from the workbench's scorers, which ask no image twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from torch import Tensor

from negmerge_kit.app.jobs import POLL_SECONDS, Job, Jobs
from negmerge_kit.errors import NegmergeError
from negmerge_kit.pipeline import on_test
from negmerge_kit.plots.before_after import Lost, lost_of, named_right
from negmerge_kit.plots.scale_curve import LARGEST_SCALE, reach
from negmerge_kit.scoring.scale_search import Point, ScaleSearch
from negmerge_kit.types import Json
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.fair_lock import background_priority
from negmerge_kit.unlearning.workbench import Workbench

REMEMBERED = 64

LIVE_SCALES = (1.0, 0.5, 1.5, 0.75, 0.25, 1.25, 0.1, 0.4, 0.6, 0.9, 1.1, 1.4)
"""Scales of the live curve, coarse first, so that its shape is there at once and then sharpens."""


@dataclass
class Known:
    """What was found for one choice, beyond the counts that the scorers remember.

    `end` is where its curve's axis ends: beyond LARGEST_SCALE once a search, or a link, has gone there.
    """

    said: dict[float, list[list[int]]] = field(default_factory=dict)
    lost: dict[float, dict[str, Lost]] = field(default_factory=dict)
    searches: dict[float, ScaleSearch] = field(default_factory=dict)
    end: float = LARGEST_SCALE

    def live_scales(self) -> tuple[float, ...]:
        """The scales that fill in the live curve, coarse first."""
        return LIVE_SCALES + (() if self.end == LARGEST_SCALE else tuple(self.end * k / 8 for k in (4, 2, 6, 3, 5, 7)))


class Scored:
    """A workbench and what was found on it, shared by all visitors: the same choice has the same numbers for all."""

    def __init__(self, bench: Workbench, jobs: Jobs | None = None) -> None:
        self.bench, self.jobs = bench, jobs or Jobs()
        self._known: OrderedDict[Choice | None, Known] = OrderedDict()
        self._turn = threading.Lock()
        self._places: list[list[int]] = []
        self._right: list[Tensor] = []

    def known(self, choice: Choice | None) -> Known:
        """What has been measured for this choice; the longest unused choice is forgotten first."""
        with self._turn:
            known = self._known.setdefault(choice, Known())
            self._known.move_to_end(choice)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return known

    def base(self, split: str) -> Point:
        """The base's scores as the point at scale 0."""
        scores = self.bench.base_scores(split)
        return Point(0.0, scores.forget, scores.retain)

    def live(self, choice: Choice) -> dict[float, Point]:
        """The points of the live curve, by scale; not those at numbers that only scripts send."""
        steps = self.known(choice).live_scales()
        points = self.bench.sliders.points(choice, "live")
        return {point.scale: point for point in points if point.scale in steps or round(point.scale, 2) == point.scale}

    def whole(self, choice: Choice) -> dict[float, Point]:
        """The points known on the whole validation split, by scale."""
        return {point.scale: point for point in self.bench.scorer.points(choice)}

    def watch(self, places: list[list[int]], right: list[Tensor]) -> None:
        """Note from now on what is said of the images at `places` of each live set; `right` is what the base knows."""
        self._places, self._right = places, right

    def look(self, choice: Choice | None, scale: float) -> tuple[Point, list[list[int]], dict[str, Lost]]:
        """The live point at this scale, the class indices at the watched places, and what is lost of what was right.

        The slider's steps are kept for the next visit; any other number, which only scripts send, is not.
        """
        known = self.known(choice)
        if (kept := known.said.get(scale)) is not None:
            return self.bench.score(choice, scale, "live").point(scale), kept, known.lost[scale]
        scores, indices = self.bench.look(choice, scale)
        said = [part[shown].tolist() for part, shown in zip(indices, self._places, strict=False)]
        point, lost = scores.point(scale), {}
        if self._right:
            lost = lost_of(self._right, named_right(indices, self.bench.images("live")))
        if round(scale, 2) == scale:
            known.lost[scale], known.said[scale] = lost, said
        return point, said, lost

    def fill_live(self, choice: Choice) -> Iterator[None]:
        """Score the scales that the live curve lacks, one a step."""
        known, limit = self.known(choice), self.bench.largest_scale(choice)
        for scale in known.live_scales():
            if scale < limit and not self.bench.sliders.found(choice, scale, "live"):
                with background_priority():
                    self.look(choice, scale)
                yield

    def fill_whole(self, choice: Choice, keep: float) -> Iterator[None]:
        """Score on the whole validation split what the search with this floor could leave out, one scale a step."""
        known, limit = self.known(choice), self.bench.largest_scale(choice)
        for scale in (point.scale for point in known.searches[keep].curve if 0 < point.scale <= known.end):
            if scale < limit and not self.bench.scorer.found(choice, scale):
                with background_priority():
                    self.bench.score(choice, scale, "val")
                yield

    def search(self, choice: Choice, keep: float) -> Iterator[Point | None]:
        """Search the scale on the whole validation split, yielding each point as it is known, and None while it waits.

        The outcome is in `known(choice)` afterwards, and has been scored once on test. A reader who stops early stops
        the search at its next point.
        """
        if keep in self.known(choice).searches:
            return
        news: SimpleQueue[Point | ScaleSearch | BaseException] = SimpleQueue()
        left = threading.Event()

        def tell(point: Point) -> None:
            news.put(point)
            if left.is_set():
                raise _LeftError

        def work(job: Job) -> None:
            try:
                if left.is_set():
                    raise _LeftError
                news.put(self.bench.search(choice, keep=keep, on_point=tell))
            except BaseException as error:  # handed over to the reader, who raises it
                news.put(error)

        try:
            self.jobs.begin(work)
            while True:
                try:
                    item = news.get(timeout=POLL_SECONDS)
                except Empty:
                    yield None
                    continue
                if isinstance(item, ScaleSearch):
                    break
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            left.set()
        if item.best:
            on_test(self.bench, choice, item.best.scale)
        known = self.known(choice)  # which others' choices may have pushed out meanwhile
        if item.best:
            known.end = max(known.end, reach(item.best.scale))
        known.searches[keep] = item

    def test(self, choice: Choice, keep: float) -> Json | None:
        """The scores on test of what a search found."""
        best = self.known(choice).searches[keep].best
        return on_test(self.bench, choice, best.scale) if best else None


class _LeftError(NegmergeError):
    """Ends a search that nobody reads any more."""
