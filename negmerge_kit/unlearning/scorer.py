"""Scorer: counts right answers by choice, scale and split, hardest images first, and scores no image twice.

long because counting, stopping early, remembering and charging are one loop over the same images.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError, SceneError, SplitError, check_scale
from negmerge_kit.models.classifier import BATCH, Classifier
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.early_stopping import NOT_BETTER, Least, Point, Scales, out_of_reach
from negmerge_kit.scoring.retention_floor import KEEP, Keep
from negmerge_kit.scoring.scale_search import Method, ScaleSearch, search_scale
from negmerge_kit.unlearning.answer_memory import AnswerMemory, Known
from negmerge_kit.unlearning.cost import Meter, metered
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.evaluation import Counts, ImageQueue, MarginForecast, Scores, chance_of
from negmerge_kit.unlearning.live_model import NEGATIVE_VARIANCE

FORGET, RETAIN = 0, 1

LONG = 0.4
"""Share of the retain images after which a scale that is given up is answered in full, once a choice: which images are
hard for this choice is then known, and its other scales are given up after few."""


@dataclass(frozen=True)
class Bound:
    """What a side's counts must meet: when to ask no more, and how few images could decide that.

    Attributes:
        missed: from right and unseen images by set, why it cannot be met any more, or None.
        needed: from the same, the fewest images that could show so.
    """

    missed: Callable[[Counts, Counts], str | None]
    needed: Callable[[Counts, Counts], int]

    @classmethod
    def at_most(cls, most: int) -> Bound:
        """At most so many images right."""
        return cls(
            lambda right, unseen: NOT_BETTER if sum(right.values()) > most else None,
            lambda right, unseen: most + 1 - sum(right.values()),
        )

    @classmethod
    def at_least(cls, least: Least) -> Bound:
        """At least so many images right, of all sets or of each named one."""

        def needed(right: Counts, unseen: Counts) -> int:
            if isinstance(least, int):
                return sum(right.values()) + sum(unseen.values()) - least + 1
            return min(right[name] + unseen[name] - count + 1 for name, count in least.items())

        return cls(lambda right, unseen: out_of_reach(least, right, unseen), needed)


class ScoringBackend(Protocol):
    """Source of merged models: a `Workbench`, or anything that yields a model at a scale."""

    def at(self, choice: Choice | None, scale: float) -> AbstractContextManager[Any]:
        """The model with scale times the choice's delta subtracted; None is the base."""

    def images(self, split: str) -> Splits:
        """The images of a split, on the model's device."""

    def yield_to_foreground(self) -> None:
        """Between two forward passes: let others use the model for a moment."""


@dataclass(frozen=True, eq=False)
class Answers:
    """One bool for each image, in the sets' order: whether the model answered its label."""

    forget: Tensor
    retain: Tensor
    split: str

    def accuracy(self) -> tuple[Accuracy, Accuracy]:
        """Forget accuracy and retain accuracy pooled over its images."""
        forget, retain = (Accuracy(int(side.sum()), len(side), self.split) for side in (self.forget, self.retain))
        return forget, retain


@dataclass(eq=False)
class Charge:
    """What the answers took that are known at the scales a block looked at, whenever they were given.

    So a search costs nothing less because another one ran before; after one that asked more images at the same scales,
    such as an exhaustive one, it costs what these took.

    Attributes:
        points: images and seconds by choice, scale and split; the base's are not counted.
        fresh: what was asked in the block itself.
        elapsed: seconds of the block; `asked`: those of them in which a model answered.
        peak: most bytes held while these answers were given (see `metered`).
        more: scales and images that were counted elsewhere and added.
    """

    points: dict[tuple[Choice, float, str], tuple[int, float]] = field(default_factory=dict)
    fresh: set[tuple[Choice | None, float, str]] = field(default_factory=set)
    elapsed: float = 0.0
    asked: float = 0.0
    peak: int | None = None
    more: tuple[int, int] = (0, 0)
    started: float = field(default_factory=time.perf_counter)

    def add(self, evaluations: int, images: int) -> None:
        """Count scales and images that no scorer answered for, such as those held against a retrained model."""
        self.more = self.more[0] + evaluations, self.more[1] + images

    def restart(self) -> None:
        """Leave out the seconds until now, which are counted elsewhere."""
        self.started = time.perf_counter()

    def beyond(self, other: Charge) -> tuple[int, float]:
        """(scales, seconds) that this block took and the other one did not."""
        seconds = sum(taken - other.points.get(key, (0, 0.0))[1] for key, (_, taken) in self.points.items())
        return len(self.points.keys() - other.points.keys()), self.elapsed - self.asked + seconds

    @property
    def evaluations(self) -> int:
        """How many scales were looked at, in full or in part."""
        return self.more[0] + len(self.points)

    @property
    def images(self) -> int:
        """How many images were answered at these scales."""
        return self.more[1] + sum(images for images, _ in self.points.values())

    @property
    def seconds(self) -> float:
        """What the block would have taken had nothing been known before it."""
        return self.elapsed - self.asked + sum(seconds for _, seconds in self.points.values())


class Scorer:
    """Count which images a choice gets right at a scale, and ask no image twice.

    Images that are likeliest to decide are asked first (see `MarginForecast`): a scale that keeps too little is given
    up soonest over the retain images nearest to being wrong, one that forgets too little over the surest forget images.
    The order changes no count. Every answer is remembered, also one to a scale that was given up (see `AnswerMemory`).

    Args:
        backend: yields models at a scale.
        memory: where answers are found again; by default this scorer's alone.

    Raises:
        SceneError: from every method, if a set of the split has no image.
        SplitError: from every method, if the backend's images of the split are another split's.
        NotFiniteError: from every method, if a model answers with NaN or infinity.
        ParameterError: from every method, if a scale is no finite number of 0 or more.
    """

    def __init__(self, backend: ScoringBackend, memory: AnswerMemory | None = None) -> None:
        self.backend = backend
        self.memory = memory or AnswerMemory()
        self._queues: dict[str, tuple[ImageQueue, ImageQueue]] = {}
        self._forecasts: dict[str, tuple[MarginForecast, MarginForecast]] = {}
        self._charged = threading.local()

    def through(self, backend: ScoringBackend) -> Scorer:
        """A scorer with the same memory and images and another backend for the same models."""
        other = Scorer(backend, self.memory)
        other._queues, other._forecasts = self._queues, self._forecasts
        return other

    @property
    def images(self) -> int:
        """How many images were answered."""
        return sum(queue.answered for queues in self._queues.values() for queue in queues)

    # --- in full ------------------------------------------------------------------------------

    def answers(self, choice: Choice | None, scale: float, split: str = "val") -> Answers:
        """Every image's answer; None, or scale 0, is the base."""
        forget, retain = (self._ask(choice, scale, split, side)[0] for side in (FORGET, RETAIN))
        return Answers(forget, retain, split)

    def scores(self, choice: Choice | None, scale: float, split: str = "val") -> Scores:
        """Forget and retain accuracy, and each set's."""
        answers, families = self.answers(choice, scale, split), {}
        for queue, side in zip(self._split(split), (answers.forget, answers.retain), strict=True):
            for images, right in zip(queue.sets, side.split(queue.sizes), strict=True):
                families[images.name] = Accuracy(int(right.sum()), len(images), split)
        return Scores.of(families)

    def retained(self, choice: Choice | None, scale: float, split: str = "val") -> int:
        """How many retain images are right."""
        return int(self._ask(choice, scale, split, RETAIN)[0].sum())

    def classes(self, choice: Choice | None, scale: float, split: str = "val") -> list[Tensor]:
        """The class index that the model gives each image, [n] for each set, asked now: only right or wrong is kept."""
        check_scale(scale)
        found = []
        with self._asking(choice if scale else None, scale, split) as (model, take):
            for side, queue in enumerate(self._split(split)):
                classes = queue.classes(model)
                right = torch.cat(classes) == queue.labels
                take(side, right, torch.ones_like(right))
                found += classes
        return found

    def found(self, choice: Choice, scale: float, split: str = "val") -> Point | None:
        """The point of a scale above 0 if both sides are known in full; asks nothing and loads no images."""
        known = self._known(choice, split).points.get(scale) if scale and split in self._queues else None
        if known is None or known.forget.asked is not None or known.retain.asked is not None:
            return None
        return self.scores(choice, scale, split).point(scale)

    def points(self, choice: Choice, split: str = "val") -> tuple[Point, ...]:
        """The scales above 0 at which both sides are known in full, upwards; asks nothing."""
        scales = sorted(self._known(choice, split).points.copy()) if split in self._queues else []
        return tuple(point for scale in scales if (point := self.found(choice, scale, split)) is not None)

    # --- until it is decided ------------------------------------------------------------------

    def keeps(self, choice: Choice, scale: float, least: int, split: str = "val") -> bool:
        """Whether at least `least` retain images are right; given up as soon as they cannot be."""
        _, stopped = self._ask(choice, scale, split, RETAIN, Bound.at_least(least))
        return stopped is None

    def point(
        self,
        choice: Choice | None,
        scale: float,
        split: str = "val",
        *,
        forget_at_most: int | None = None,
        retain_at_least: Least | None = None,
    ) -> Point:
        """One point of the curve for `search_scale`, stopped as soon as its counts prove that it cannot win.

        The side that is expected to miss its bound is asked first; where both are, or none is, the forget side.
        """
        bounds = {
            FORGET: None if forget_at_most is None else Bound.at_most(forget_at_most),
            RETAIN: None if retain_at_least is None else Bound.at_least(retain_at_least),
        }
        order = sorted(bounds, key=lambda side: self._expects(choice, scale, split, side, bounds[side]))
        for few in (True, False):  # what is known already may decide
            for side in order:
                _, stopped = self._ask(choice, scale, split, side, bounds[side], ask=not few)
                if stopped:
                    return Point(scale, None, None, stopped)
        return self.scores(choice, scale, split).point(scale)

    def _expects(self, choice: Choice | None, scale: float, split: str, side: int, bound: Bound | None) -> int:
        """0 for a side that is expected to miss its bound, 1 for one that may, 2 for one that has none."""
        if bound is None:
            return 2
        queue, forecast = self._split(split)[side], self._forecasts[split][side]
        if side == FORGET or scale == 0:
            return 1
        right = queue.counts(forecast.at(choice, scale) > 0)
        return 0 if bound.missed(right, dict.fromkeys(right, 0)) else 1

    def search(
        self,
        choice: Choice,
        *,
        keep: Keep = KEEP,
        scales: Scales = None,
        method: Method = "early",
        split: str = "val",
        limit: float = inf,
        on_point: Callable[[Point], None] | None = None,
    ) -> ScaleSearch:
        """The scale that forgets most on validation with retention at the floor (see `search_scale`).

        Args:
            limit: from this scale on nothing can be scored, because a merged running variance would be negative.
        """

        def score(scale: float, **bounds: Any) -> Point:
            if scale >= limit:
                return Point(scale, None, None, NEGATIVE_VARIANCE)
            return self.point(choice, scale, split, **bounds)

        chance = chance_of(self.backend.images(split))
        return search_scale(score, scales=scales, keep=keep, method=method, chance=chance, on_point=on_point)

    # --- what it took -------------------------------------------------------------------------

    @contextmanager
    def charge(self) -> Iterator[Charge]:
        """Add up what the answers that the block uses took, in this thread, whenever they were given."""
        charge = Charge()
        self._charges.append(charge)
        meter = Meter()
        try:
            with metered(self._device) as meter:
                yield charge
        finally:
            self._charges.remove(charge)
            charge.elapsed, charge.peak = time.perf_counter() - charge.started, meter.peak
            for who, scale, split in charge.fresh:
                point = self._known(who, split).at(scale)
                point.peak = _larger(point.peak, meter.peak)
                self.memory.changed(who, split, soon=True)
            for who, scale, split in charge.points:
                charge.peak = _larger(charge.peak, self._known(who, split).at(scale).peak)
            self.memory.flush()

    @property
    def _charges(self) -> list[Charge]:
        if not hasattr(self._charged, "charges"):
            self._charged.charges = []
        charges: list[Charge] = self._charged.charges
        return charges

    # --- asking -------------------------------------------------------------------------------

    def _ask(
        self,
        choice: Choice | None,
        scale: float,
        split: str,
        side: int,
        bound: Bound | None = None,
        *,
        ask: bool = True,
    ) -> tuple[Tensor, str | None]:
        """Which images of a side are right, and why no more of them were asked; None where all were."""
        scale, queue = check_scale(scale), self._split(split)[side]
        who = choice if scale else None

        def missed(right: Tensor, asked: Tensor) -> str | None:
            return None if bound is None else bound.missed(queue.counts(right & asked), queue.counts(~asked))

        def known() -> tuple[Tensor, Tensor, str | None]:
            point = self._known(who, split).at(scale)
            right, asked = (point.forget, point.retain)[side].bits()
            return right, asked, missed(right, asked)

        right, asked, stopped = known()
        if ask and stopped is None and not bool(asked.all()):
            with self._asking(who, scale, split) as (model, take):
                right, asked, stopped = known()  # another thread may have asked meanwhile
                if stopped is None:
                    for places in self._requests(model, who, scale, split, side, bound, asked, right):
                        classes, margins = queue.ask(model, places)
                        right[places], asked[places] = classes == queue.labels[places], True
                        self._forecasts[split][side].measure(who, scale, places, margins)
                        take(side, right, asked)
                    stopped = missed(right, asked)
        self._used(who, scale, split)
        return right, stopped

    def _requests(
        self,
        model: Classifier,
        who: Choice | None,
        scale: float,
        split: str,
        side: int,
        bound: Bound | None,
        asked: Tensor,
        right: Tensor,
    ) -> Iterator[Tensor]:
        """Places to ask next, until `asked` and `right`, which the caller fills in, are all or miss the bound.

        First come hardly more images than could decide, then whole passes.
        """
        queue, forecast, size = self._split(split)[side], self._forecasts[split][side], BATCH[model.device.type]
        order = forecast.at(who, scale).argsort(descending=side == FORGET, stable=True)
        order, step, least = order[~asked[order]], max(1, size // 3), 0
        while len(order):
            count = model.at_once
            if bound is not None:
                counts = queue.counts(right & asked), queue.counts(~asked)
                if bound.missed(*counts):
                    long = who is not None and side == RETAIN and int(asked.sum()) > LONG * len(queue)
                    if not long or forecast.complete(who):
                        return
                    bound = None
                    continue
                if least <= 0:
                    least, step = -(-max(1, bound.needed(*counts)) // step) * step, size
                count = min(count, least)
                least -= count
            yield order[:count]
            order = order[count:]

    @contextmanager
    def _asking(
        self, who: Choice | None, scale: float, split: str
    ) -> Iterator[tuple[Any, Callable[[int, Tensor, Tensor], None]]]:
        """The model at a scale, and where its answers go; what it took is kept with them."""
        started, known = time.perf_counter(), self._known(who, split)

        def take(side: int, right: Tensor, asked: Tensor) -> None:
            point = known.at(scale)
            (point.forget, point.retain)[side].take(right, asked)

        try:
            with self.backend.at(who, scale) as model, _naming(who, scale):
                yield model, take
        finally:
            seconds = time.perf_counter() - started
            known.at(scale).seconds += seconds
            if who is None and known.at(scale).retain.asked is None:
                known.margins = [forecast.base.clone() for forecast in self._forecasts[split]]
            for charge in self._charges:
                charge.asked += seconds
                charge.fresh.add((who, scale, split))
            self.memory.changed(who, split, soon=bool(self._charges))

    def _used(self, who: Choice | None, scale: float, split: str) -> None:
        """Charge a point to the blocks at work."""
        if who is None:
            return
        for charge in self._charges:
            point = self._known(who, split).at(scale)
            charge.points[who, scale, split] = point.images, point.seconds

    def _known(self, choice: Choice | None, split: str) -> Known:
        forget, retain = self._split(split)
        return self.memory.known(choice, split, (len(forget), len(retain)))

    @property
    def _device(self) -> Any:
        return self.backend.images("val").forget.images.device

    def _split(self, split: str) -> tuple[ImageQueue, ImageQueue]:
        if split not in self._queues:
            splits = self.backend.images(split)
            for images in splits:
                if not len(images):
                    raise SceneError(f"{images.name} has no {split} image, so nothing can be scored: add some.")
                if images.split != split:
                    raise SplitError(
                        f"images of {images.name} asked for as {split} are {images.split} images: nothing is chosen or "
                        "measured by them; build the pool again."
                    )
            queues = tuple(
                ImageQueue(sets, between=self.backend.yield_to_foreground) for sets in ((splits.forget,), splits.retain)
            )
            forecasts = tuple(MarginForecast(queue.sizes) for queue in queues)
            margins = self.memory.known(None, split, (len(queues[0]), len(queues[1]))).margins
            for forecast, side in zip(forecasts, margins or (), strict=False):
                forecast.base = side.clone()
            self._forecasts[split] = forecasts[0], forecasts[1]
            self._queues[split] = queues[0], queues[1]
        return self._queues[split]


@contextmanager
def _naming(choice: Choice | None, scale: float) -> Iterator[None]:
    """Name the weights that answer with NaN, and the remedy."""
    try:
        yield
    except NotFiniteError as error:
        who = f"{choice.rule} at scale {scale:g}" if choice else "the base"
        raise NotFiniteError(
            f"{who} answers with NaN or infinity: its weights are damaged, or the scale is far too large; "
            "leave that rule out or give smaller scales."
        ) from error


def _larger(a: int | None, b: int | None) -> int | None:
    return max((x for x in (a, b) if x is not None), default=None)
