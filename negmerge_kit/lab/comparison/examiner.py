"""Which images a choice gets right at a scale: asked hardest image first, and never asked twice."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError, ParameterError, SceneError
from negmerge_kit.lab.resident import Choice, Merged
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.scale import BELOW_FLOOR, NOT_BETTER, Point, Score
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.scene import Splits


class Stand(Protocol):
    """Where merged models answer: a `Workbench`, or anything that lends a model out at a scale."""

    def at(self, choice: Choice | None, scale: float) -> AbstractContextManager[Any]:
        """The model with scale times the choice's delta subtracted; None is the base."""

    def images(self, split: str) -> Splits:
        """The images of a split, on the model's device."""

    def merged(self, choice: Choice) -> Merged:
        """The choice's delta and what it keeps."""


@dataclass(frozen=True, eq=False)
class Hits:
    """One bool for each image, in the sets' order: whether the model answered its label."""

    forget: Tensor
    retain: Tensor
    split: str

    def accuracy(self) -> tuple[Accuracy, Accuracy]:
        """Forget accuracy and retain accuracy pooled over its images."""
        forget, retain = (Accuracy(int(side.sum()), len(side), self.split) for side in (self.forget, self.retain))
        return forget, retain


@dataclass
class _Side:
    """The sets of one side of a split; `hardness` counts how often each image's answer was `telling`."""

    sets: tuple[ImageSet, ...]
    telling: bool
    hardness: Tensor
    block: int
    known: dict[tuple[Choice | None, float], Tensor] = field(default_factory=dict)

    def place(self, order: Tensor) -> list[tuple[ImageSet, Tensor, Tensor]]:
        """For each set that has images in `order`: its indices there, and their positions in `order`."""
        parts, first = [], 0
        for images in self.sets:
            inside = ((order >= first) & (order < first + len(images))).nonzero().flatten()
            if len(inside):
                parts.append((images, order[inside] - first, inside))
            first += len(images)
        return parts


class Examiner:
    """Asks one stand for all rules: images stay where they are, one model is updated in place.

    Images that failed most often so far are asked first, so a scale that cannot be chosen is given up after a few
    batches. What was answered in full is kept for whoever asks next.

    Attributes:
        evaluations: how many scales were looked at, in full or in part, each once a split.
        images: how many images were answered.

    Raises:
        SceneError: from every method, if a side of the split has no image.
        NotFiniteError: from every method, if the model answers with NaN or infinity.
    """

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.evaluations = 0
        self.images = 0
        self._sides: dict[str, tuple[_Side, _Side]] = {}
        self._looked: set[tuple[Choice | None, float, str]] = set()
        self._below: dict[tuple[Choice | None, float, str], int] = {}

    def hits(self, choice: Choice | None, scale: float, split: str = "val") -> Hits:
        """Every image's answer; scale 0 is the base, whatever the choice."""
        forget, retain = (self._ask(side, choice, scale, split) for side in self._split(split))
        assert forget is not None and retain is not None
        return Hits(forget, retain, split)

    def retained(self, choice: Choice | None, scale: float, split: str = "val") -> int:
        """How many retain images are right, counted in full."""
        answers = self._ask(self._split(split)[1], choice, scale, split)
        assert answers is not None
        return int(answers.sum())

    def keeps(self, choice: Choice, scale: float, least: int, split: str = "val") -> bool:
        """Whether at least `least` retain images are right; given up as soon as they cannot be."""
        if self._below.get((choice, scale, split), least + 1) <= least:
            return False
        answers = self._ask(self._split(split)[1], choice, scale, split, at_least=least)
        return answers is not None and int(answers.sum()) >= least

    def score(self, choice: Choice, split: str = "val") -> Score:
        """What `search_scale` asks, for this choice."""

        def score(scale: float, *, forget_at_most: int | None = None, retain_at_least: Any = None) -> Point:
            forget, retain = self._split(split)
            if isinstance(retain_at_least, Mapping):
                raise ParameterError("a comparison holds one floor over all retain images: give --keep one number.")
            right = self._ask(forget, choice, scale, split, at_most=forget_at_most)
            if right is None or (forget_at_most is not None and int(right.sum()) > forget_at_most):
                return Point(scale, None, None, NOT_BETTER)
            forgotten = Accuracy(int(right.sum()), len(right), split)
            if retain_at_least is not None and not self.keeps(choice, scale, retain_at_least, split):
                return Point(scale, forgotten, None, BELOW_FLOOR)
            kept = self.retained(choice, scale, split)
            return Point(scale, forgotten, Accuracy(kept, len(retain.hardness), split))

        return score

    def points(self, choice: Choice, split: str = "val") -> tuple[Point, ...]:
        """The scales above 0 at which this choice's retention is known in full, upwards; forget images are few."""
        _, retain = self._split(split)
        scales = sorted(scale for who, scale in retain.known if who == choice)
        return tuple(Point(scale, *self.hits(choice, scale, split).accuracy()) for scale in scales)

    def _split(self, split: str) -> tuple[_Side, _Side]:
        if split not in self._sides:
            splits = self.stand.images(split)
            sides = []
            for what, sets, telling in (("forget", (splits.forget,), True), ("retain", splits.retain, False)):
                n = sum(len(images) for images in sets)
                if n == 0:
                    raise SceneError(f"split {split} has no {what} images: a comparison needs both sides.")
                device = sets[0].images.device
                block = 120 if device.type == "cpu" else 480
                sides.append(_Side(sets, telling, torch.zeros(n, device=device), block))
            self._sides[split] = sides[0], sides[1]
        return self._sides[split]

    def _ask(
        self,
        side: _Side,
        choice: Choice | None,
        scale: float,
        split: str,
        *,
        at_most: int | None = None,
        at_least: int | None = None,
    ) -> Tensor | None:
        """Answers on the CPU, or None as soon as more than `at_most` are right or `at_least` cannot be any more."""
        key = (choice if scale else None, scale)
        if key in side.known:
            return side.known[key]
        if (*key, split) not in self._looked:
            self._looked.add((*key, split))
            self.evaluations += 1
        order = side.hardness.argsort(descending=True, stable=True)
        answers = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        right = seen = 0
        with self.stand.at(*key) as model:
            for block in order.split(side.block):
                answers[block] = self._answer(model, side, block, key)
                right, seen = right + int(answers[block].sum()), seen + len(block)
                self.images += len(block)
                side.hardness[block] += (answers[block] == side.telling).float()
                if at_most is not None and right > at_most:
                    return None
                if at_least is not None and right + len(order) - seen < at_least:
                    self._below[*key, split] = min(at_least, self._below.get((*key, split), at_least))
                    return None
        side.known[key] = answers.cpu()
        return side.known[key]

    def _answer(self, model: Any, side: _Side, block: Tensor, key: tuple[Choice | None, float]) -> Tensor:
        parts = side.place(block)
        features = model.features(torch.cat([images.images[inside] for images, inside, _ in parts]))
        right = torch.empty(len(block), dtype=torch.bool, device=block.device)
        start = 0
        for images, inside, where in parts:
            logits = features[start : start + len(inside)] @ model.head(images.name).T
            if not bool(torch.isfinite(logits).all()):
                who = f"{key[0].rule} at scale {key[1]:g}" if key[0] else "the base"
                raise NotFiniteError(
                    f"{who} answers with NaN or infinity: its weights are damaged, or the scale is far too large; "
                    "leave that rule out or give smaller scales."
                )
            right[where] = logits.argmax(dim=1) == images.labels[inside]
            start += len(inside)
        return right
