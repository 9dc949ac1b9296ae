"""Which images a choice gets right at a scale: asked hardest image first, and never asked twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError, ParameterError, SceneError, SplitError
from negmerge_kit.lab.hardest import Side
from negmerge_kit.lab.resident import Choice, Merged
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.scale import BELOW_FLOOR, NOT_BETTER, Point, Score
from negmerge_kit.vision.scene import Splits


class Stand(Protocol):
    """Where merged models answer: a `Workbench`, or anything that lends a model out at a scale."""

    def at(self, choice: Choice | None, scale: float) -> AbstractContextManager[Any]:
        """The model with scale times the choice's delta subtracted; None is the base."""

    def images(self, split: str) -> Splits:
        """The images of a split, on the model's device."""

    def merged(self, choice: Choice) -> Merged:
        """The choice's delta and what it keeps."""

    def give_way(self) -> None:
        """Between two forward passes: let others use the model for a moment."""


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


@dataclass(frozen=True)
class _Asked:
    """One side of a split and what was answered in full: one bool an image, by choice and scale."""

    side: Side
    known: dict[tuple[Choice | None, float], Tensor] = field(default_factory=dict)


class Examiner:
    """Asks one stand for all rules: images stay where they are, one model is updated in place.

    Images that are likeliest to decide are asked first (see `hardest.Side`), so a scale that cannot be chosen is given
    up after a few batches. What was answered in full is kept for whoever asks next.

    Attributes:
        evaluations: how many scales were looked at, in full or in part, each once a split.

    Raises:
        SceneError: from every method, if a side of the split has no image.
        SplitError: from every method, if the stand's images of the split are another split's.
        NotFiniteError: from every method, if the model answers with NaN or infinity.
    """

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.evaluations = 0
        self._sides: dict[str, tuple[_Asked, _Asked]] = {}
        self._looked: set[tuple[Choice | None, float, str]] = set()
        self._below: dict[tuple[Choice | None, float, str], int] = {}

    @property
    def images(self) -> int:
        """How many images were answered."""
        return sum(asked.side.answered for sides in self._sides.values() for asked in sides)

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

    def decided(self, choice: Choice, least: int, split: str = "val") -> list[float]:
        """The scales above 0 at which `keeps` needs to ask nothing, upwards."""
        counted = {scale for who, scale in self._split(split)[1].known if who == choice}
        below = {scale for (who, scale, at), n in self._below.items() if (who, at) == (choice, split) and n <= least}
        return sorted(counted | below)

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
            return Point(scale, forgotten, Accuracy(kept, retain.side.n, split))

        return score

    def points(self, choice: Choice, split: str = "val") -> tuple[Point, ...]:
        """The scales above 0 at which both sides are known in full for this choice, upwards."""
        forget, retain = self._split(split)
        both = sorted(scale for who, scale in retain.known if who == choice and (who, scale) in forget.known)
        return tuple(Point(scale, *self.hits(choice, scale, split).accuracy()) for scale in both)

    def _split(self, split: str) -> tuple[_Asked, _Asked]:
        if split not in self._sides:
            splits = self.stand.images(split)
            for what, sets in (("forget", (splits.forget,)), ("retain", splits.retain)):
                if not any(len(images) for images in sets):
                    raise SceneError(f"split {split} has no {what} images: a comparison needs both sides.")
                if read := {images.split for images in sets} - {split}:
                    raise SplitError(
                        f"{what} images asked for as {split} are {', '.join(read)} images: nothing is "
                        "chosen or measured by them; build the pool anew."
                    )
            self._sides[split] = (
                _Asked(Side((splits.forget,), surest_first=True, between=self.stand.give_way)),
                _Asked(Side(splits.retain, surest_first=False, between=self.stand.give_way)),
            )
        return self._sides[split]

    def _ask(
        self,
        asked: _Asked,
        choice: Choice | None,
        scale: float,
        split: str,
        *,
        at_most: int | None = None,
        at_least: int | None = None,
    ) -> Tensor | None:
        """Answers on the CPU, or None as soon as more than `at_most` are right or `at_least` cannot be any more."""
        key = (choice if scale else None, scale)
        if key in asked.known:
            return asked.known[key]
        if (*key, split) not in self._looked:
            self._looked.add((*key, split))
            self.evaluations += 1
        answers = torch.zeros(asked.side.n, dtype=torch.bool)
        right, unseen = 0, asked.side.n
        with self.stand.at(*key) as model, _naming(*key):
            for block, hit in asked.side.answers(model):
                answers[block.cpu()] = hit.cpu()
                right, unseen = right + int(hit.sum()), unseen - len(block)
                if at_most is not None and right > at_most:
                    return None
                if at_least is not None and right + unseen < at_least:
                    self._below[*key, split] = min(at_least, self._below.get((*key, split), at_least))
                    return None
        asked.known[key] = answers
        return answers


@contextmanager
def _naming(choice: Choice | None, scale: float) -> Iterator[None]:
    """Say whose weights answer with NaN, and what to do about it."""
    try:
        yield
    except NotFiniteError as error:
        who = f"{choice.rule} at scale {scale:g}" if choice else "the base"
        raise NotFiniteError(
            f"{who} answers with NaN or infinity: its weights are damaged, or the scale is far too large; "
            "leave that rule out or give smaller scales."
        ) from error
