"""One pool, one floor, one scorer: every rule is searched, matched and measured alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import torch

from negmerge_kit.comparison.greedy import best_single, greedy, left_over
from negmerge_kit.comparison.matched_retention import (
    AtTestRetention,
    FloorCrossing,
    at_test_retention,
    matched_retention_scale,
)
from negmerge_kit.comparison.methods import SEARCHES, Method
from negmerge_kit.comparison.row import Matched, Row
from negmerge_kit.pools.pool import Pool
from negmerge_kit.scoring.accuracy import Pair
from negmerge_kit.scoring.early_stopping import FARTHEST, scale_grid, unscorable
from negmerge_kit.scoring.scale_search import KEEP, Point, Scales, ScaleSearch, outcome
from negmerge_kit.unlearning.cost import Cost
from negmerge_kit.unlearning.delta_cache import Choice, Merged
from negmerge_kit.unlearning.live_model import largest_scale
from negmerge_kit.unlearning.scorer import Charge, Scorer, ScoringBackend

FRONTIER = 10
"""Scales of a row on the live subset, an eighth of the way to its floor apart."""


class PoolBackend(ScoringBackend, Protocol):
    """A backend that has a pool to choose from, and the scorer that remembers its answers: a `Workbench`."""

    pool: Pool
    scorer: Scorer

    def merged(self, choice: Choice) -> Merged:
        """The choice's delta and what it keeps."""

    def choose(
        self,
        candidates: Iterable[str] | None = None,
        rule: str = "negmerge",
        params: Mapping[str, Any] | None = None,
        *,
        buffers: str = "keep",
    ) -> Choice:
        """Check a selection and fill in the rule's defaults."""


@dataclass(frozen=True)
class _Searched:
    """A scale search, the seconds of its merge, and what a search takes that starts from nothing."""

    found: ScaleSearch
    merge: float
    charge: Charge


class ComparisonRunner:
    """Compares rules on one backend, at one retention floor.

    Args:
        keep: share of the base's retention to keep.
        scales: the protocol's scales and no others; None for the paper's grid, and on beyond it (see `search_scale`).
            Their grid is also the first steps towards the crossing.
        buffers: what becomes of running statistics in every row that merges.
    """

    def __init__(
        self, backend: PoolBackend, *, keep: float = KEEP, scales: Scales = None, buffers: str = "keep"
    ) -> None:
        self.backend = backend
        self.keep = keep
        self.scales = scales
        self.grid = tuple(scale_grid(scales))
        self.buffers = buffers
        self.scorer = backend.scorer
        self._searched: dict[Choice, _Searched] = {}
        self._crossed: dict[Choice, Matched | None] = {}

    def base(self, split: str) -> Pair:
        """The base's own scores."""
        return self._pair(None, 0.0, split)

    @property
    def floor(self) -> float:
        """Retain images of validation to keep; need not be whole."""
        return self.keep * self.base("val").retain.correct

    def row(self, method: Method, ids: Sequence[str] | None = None) -> Row:
        """Search on validation, score once on test, find the crossing: one row."""
        ids = tuple(self.backend.pool.distinct if ids is None else ids)
        choice, used = self.choose(method, ids)
        merged = self.backend.merged(choice)
        found = self.search(choice).found
        best = found.best
        empty = merged.counts.kept == 0
        crossing = None if empty else self.matched(choice)
        good = best is not None and not empty
        return Row(
            method,
            choice.candidates,
            {} if method.rule in SEARCHES else dict(choice.params),
            "empty" if empty else found.status,
            best.scale if best and good else None,
            Pair(best.forget, best.retain) if good and best and best.forget and best.retain else None,
            self._pair(choice, best.scale, "test") if best and good else None,
            crossing,
            merged.counts.kept_fraction,
            self.curve(choice),
            self._cost(ids, used),
            reach=found.range,
            ended=found.ended,
            outcome=None if empty else outcome(found),
            frontier=() if empty else self.frontier(choice),
            equal=None if empty else self.at_test_retention(choice),
        )

    def curve(self, choice: Choice) -> tuple[Point, ...]:
        """What is known in full of a choice on validation."""
        return self.scorer.points(choice)

    def frontier(self, choice: Choice) -> tuple[Point, ...]:
        """The choice on the live subset of validation, at even steps from 0 to a quarter beyond its floor.

        What a search knows in full are single points with wide gaps; these are enough to draw a line through.
        """
        matched, best = self.matched(choice), self.search(choice).found.best
        end = matched.crossing.scale if matched else best.scale if best and best.scale else self.grid[-1]
        scales = [scale for k in range(1, 1 + FRONTIER) if (scale := round(end * k / 8, 4)) < self.limit(choice)]
        return tuple(Point(scale, *self.scorer.answers(choice, scale, "live").accuracy()) for scale in scales)

    def at_test_retention(self, choice: Choice) -> AtTestRetention | None:
        """Forgetting where test retention crosses its floors, around the crossing on validation; None without one."""
        matched = self.matched(choice)
        if matched is None:
            return None

        def measure(scale: float) -> Pair:
            return self._pair(choice, scale, "test")

        limit = min(FARTHEST, 0.999 * self.limit(choice))
        return at_test_retention(measure, self.base("test"), matched.crossing.scale, limit=limit)

    def finished(self, row: Row) -> bool:
        """Whether a row that was kept has all that this runner gives."""
        return True

    def choose(self, method: Method, ids: Sequence[str]) -> tuple[Choice, list[Choice]]:
        """What the method subtracts, and every choice that it searched to find it."""
        if method.rule not in SEARCHES:
            tried = [self.subtracted(ids, method.rule, params) for params in method.settings]
            if len(tried) == 1:
                return tried[0], tried
            return min(tried, key=lambda choice: left_over(self.search(choice).found)), tried
        used: dict[Choice, None] = {}

        def search(subset: tuple[str, ...]) -> ScaleSearch:
            choice = self.subtracted(subset, "uniform")
            used[choice] = None
            return self.search(choice).found

        selection = (best_single if method.rule == "single" else greedy)(ids, search)
        return self.subtracted(selection.candidates, "uniform"), list(used)

    def subtracted(self, ids: Sequence[str], rule: str, params: Mapping[str, Any] | None = None) -> Choice:
        """The choice with this runner's policy for running statistics."""
        return self.backend.choose(ids, rule, params, buffers=self.buffers)

    def limit(self, choice: Choice) -> float:
        """The scale from which on nothing can be scored, because a merged running variance would be negative."""
        if choice.buffers != "merge":
            return inf
        return largest_scale(self.backend.pool.base, self.backend.merged(choice).delta)

    def search(self, choice: Choice) -> _Searched:
        """The protocol's scale search of a choice, run once."""
        if choice not in self._searched:
            self.base("val")  # measured once, charged to no row
            with self.scorer.charge() as charge:
                merged = self.backend.merged(choice)
                charge.restart()
                found = self.find_scale(choice, charge)
            self._searched[choice] = _Searched(found, merged.seconds, charge)
        return self._searched[choice]

    def find_scale(self, choice: Choice, charge: Charge) -> ScaleSearch:
        """The protocol's scale for a choice, searched on validation; what no scorer answers adds itself to `charge`."""
        return self.scorer.search(choice, scales=self.scales, keep=self.keep, limit=self.limit(choice))

    def crossing(self, choice: Choice) -> FloorCrossing | None:
        """Where the choice's retention first falls below the floor on validation, at any scale.

        Every fourth scale of the grid is tried, and in between the best one of the protocol's search with the next one
        if that keeps too little. What else is answered already does not matter: a row is the same whenever it is made.
        """
        scorer, floor = self.scorer, self.floor
        least = -int(-(floor - 1e-9) // 1)  # the smallest whole count that reaches it
        farthest = min(FARTHEST, 0.999 * self.limit(choice))
        scales = [scale for scale in self.grid[::-4] if scale <= farthest]
        return matched_retention_scale(
            lambda scale: scorer.retained(choice, scale),
            lambda scale: scorer.keeps(choice, scale, least),
            floor=least if abs(least - floor) < 1e-9 else floor,
            scales=scales if any(scales) else [farthest],
            known=self._decided(choice, least),
            farthest=farthest,
        )

    def _decided(self, choice: Choice, least: int) -> list[float]:
        found = self.search(choice).found
        if found.choose == "gap":
            return [point.scale for point in found.curve]
        best = found.best.scale if found.best else 0.0
        above = [point for point in found.curve if point.scale > best][:1]
        tried = [point.scale for point in above if not unscorable(point)]
        return [best, *(scale for scale in tried if not self.scorer.keeps(choice, scale, least))]

    @property
    def _device(self) -> torch.device:
        return self.backend.images("val").forget.images.device

    def matched(self, choice: Choice) -> Matched | None:
        """The choice where retention meets the floor, found once; None if it never falls below."""
        if choice not in self._crossed:
            self._crossed[choice] = self._cross(choice)
        return self._crossed[choice]

    def _cross(self, choice: Choice) -> Matched | None:
        searched = self.search(choice).charge
        with self.scorer.charge() as charge:
            crossing = self.crossing(choice)
            if crossing is None:
                return None
            above, below = (self._pair(choice, end[0], "val").forget.value for end in (crossing.above, crossing.below))
        looked, seconds = charge.beyond(searched)
        test = self._pair(choice, crossing.scale, "test")
        return Matched(crossing, crossing.between(above, below), test, looked, seconds)

    def _pair(self, choice: Choice | None, scale: float, split: str) -> Pair:
        return Pair(*self.scorer.answers(choice, scale, split).accuracy())

    def _cost(self, ids: Sequence[str], used: Sequence[Choice]) -> Cost:
        runs = [self._searched[choice] for choice in used]
        peaks = [run.charge.peak for run in runs if run.charge.peak is not None]
        return Cost(
            train=sum(self.backend.pool.entry(id).seconds for id in ids),
            merge=sum(run.merge for run in runs),
            search=sum(run.charge.seconds for run in runs),
            device=str(self._device),
            peak_memory=max(peaks, default=None),
            evaluations=sum(run.charge.evaluations for run in runs),
            images=sum(run.charge.images for run in runs),
        )
