"""The fold: one pass over the tensors, chunk by chunk, that turns candidates into one delta a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging.alike import counted
from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.rule import Rule, Settings
from negmerge_kit.merging.sources import Sources
from negmerge_kit.types import Item


@dataclass
class MergeCounts:
    """What a merge did, complete once its iterator is exhausted.

    `elements` are those that take part, `moved` left the base in at least one candidate, `kept` are non-zero in the
    merged delta.

    >>> MergeCounts(elements=200, moved=100, kept=40).kept_of_moved
    0.4
    """

    elements: int = 0
    moved: int = 0
    kept: int = 0

    @property
    def kept_fraction(self) -> float:
        """kept / elements, 0 for an empty model."""
        return self.kept / self.elements if self.elements else 0.0

    @property
    def kept_of_moved(self) -> float:
        """kept / moved, 0 where nothing moved."""
        return self.kept / self.moved if self.moved else 0.0


class Merge(Iterator[Item]):
    """The stream of `(name, delta)` over every floating key of the base, with its `counts`."""

    def __init__(self, sources: Sources, rule: Rule, settings: Settings, *, refuse_nonfinite: bool = True) -> None:
        self.counts = MergeCounts()
        self.rule = rule
        self.settings = settings
        self._sources = sources
        self._refuse = refuse_nonfinite
        self._items = self._run()

    def __next__(self) -> Item:
        return next(self._items)

    def _run(self) -> Iterator[Item]:
        survey = self.rule.survey(self._sources.stream(), self.settings) if self.rule.survey else None
        for name, (shape, dtype) in self._sources.layout.items():
            if not dtype.is_floating_point:
                continue
            if counted(name, dtype, self._sources.buffers):
                yield name, self._tensor(name, survey).reshape(shape)
            else:
                yield name, torch.zeros(shape, dtype=dtype, device=self._sources.device)

    def _tensor(self, name: str, survey: Any) -> Tensor:
        shape, dtype = self._sources.layout[name]
        merged = torch.empty(math.prod(shape), dtype=dtype, device=self._sources.device)
        if self.rule.measure is not None:
            survey = self.rule.measure(self._sources.stream(name), self.settings)
        quota = 0
        for deltas in self._sources.chunks(name):
            piece = merged[deltas.start : deltas.start + deltas.base.numel()]
            piece.copy_(self.rule.combine(deltas, self.settings, survey))
            if self._refuse:
                check_finite(deltas)
            self.counts.moved += int(deltas.moved().count_nonzero())
            if self.rule.quota is not None:
                quota += int(self.rule.quota(deltas, self.settings))
        if self.rule.finish is not None:
            merged = self.rule.finish(merged, quota, name, self.settings)
        self.counts.elements += merged.numel()
        self.counts.kept += int(merged.count_nonzero())
        return merged


def check_finite(deltas: Deltas) -> None:
    """Refuse NaN and infinities: one anywhere in base or candidates reaches the sum of the task vectors."""
    if math.isfinite(float(deltas.total.sum())) or bool(torch.isfinite(deltas.total).all()):
        return
    raise CheckpointError(
        f"{deltas.name} holds NaN or infinite values in the base or a candidate: "
        "leave that checkpoint out, or let them pass with nonfinite=\"pass\"."
    )
