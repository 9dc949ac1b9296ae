"""One resident model whose weights follow a choice and a scale, updated in place."""

from __future__ import annotations

from typing import NamedTuple

import torch

from negmerge_kit.checkpoints.pool import Pool
from negmerge_kit.lab.resident import Choice, ResidentDeltas
from negmerge_kit.lab.running_statistics import RunningStatistics
from negmerge_kit.merging import subtract
from negmerge_kit.vision.classifier import Classifier


class Place(NamedTuple):
    """What a model stands at: a choice less whose delta it is, and whether that is exact; no choice is the base."""

    choice: Choice | None = None
    scale: float = 0.0
    exact: bool = True


BASE = Place()


class Placing:
    """A model that holds the base minus scale times one merged delta; a move touches only what the two deltas hold.

    Attributes:
        place: where the model stands; None after an update that failed half-way.
    """

    def __init__(self, model: Classifier, deltas: ResidentDeltas, statistics: RunningStatistics) -> None:
        self._model, self._deltas, self._statistics = model, deltas, statistics
        self._touched: set[str] = set()
        self.place: Place | None = BASE

    def move(self, pool: Pool, place: Place) -> None:
        """Bring the model there; when the device runs out of memory, once more without what is resident beside it."""
        place = place if place.choice is not None and place.scale else BASE
        if place == self.place:
            return
        try:
            self._update(pool, place)
        except torch.OutOfMemoryError:
            fits = False
        else:
            fits = True
        if not fits:  # outside of the handler, which holds the tensors of the update that failed
            self._deltas.stream()
            self._update(pool, place)

    def _update(self, pool: Pool, place: Place) -> None:
        choice, scale, exact = place
        delta = self._deltas.merged(pool, choice, exact=exact).delta if choice else {}
        statistics = self._statistics.changed_by(choice)
        # If this fails half-way, the next update restores all that it touched.
        self._touched |= delta.keys() | statistics
        self.place = None
        base = self._deltas.base
        updated = (
            (name, subtract(base[name], delta[name].to(base[name].device), scale) if name in delta else base[name])
            for name in self._touched
        )
        self._model.load(updated, partial=True)
        self._statistics.settle(choice, base, delta, scale)
        self._touched = delta.keys() | statistics
        self.place = place
