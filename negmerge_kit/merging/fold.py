"""The fold: one pass over the tensors, chunk by chunk, that turns candidates into one delta a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError
from negmerge_kit.merging.deltas import Deltas, Room
from negmerge_kit.merging.layout import label_of, peek
from negmerge_kit.merging.rule import Rule, Settings
from negmerge_kit.merging.sources import Sources
from negmerge_kit.types import Item


@dataclass
class MergeCounts:
    """What a merge did, complete once its iterator is exhausted.

    `elements` are those that take part, `moved` left the base in at least one candidate, `kept` are non-zero in the
    merged delta. `below_half_step` counts the moves, over all candidates, below half a rounding step of their
    narrower dtype (see `below_half_step`); it is known before the merge begins.

    >>> MergeCounts(elements=200, moved=100, kept=40).kept_of_moved
    0.4
    """

    elements: int = 0
    moved: int = 0
    kept: int = 0
    below_half_step: int = field(default=0, repr=False)

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
        self._room = Room()
        self._items = self._run()

    def __next__(self) -> Item:
        return next(self._items)

    def _run(self) -> Iterator[Item]:
        survey = self.rule.survey(self._sources.stream(), self.settings) if self.rule.survey else None
        for name in self._sources.names:
            yield name, self._merged(name, survey)

    def _merged(self, name: str, survey: Any) -> Tensor:
        with torch.inference_mode(False):  # the buffers outlive the caller's mode, which may be another one next time
            shape, dtype = self._sources.layout[name]
            merged = torch.empty(math.prod(shape), dtype=dtype, device=self._sources.device)
            if not merged.numel() or not self._sources.takes_part(name):
                return merged.zero_().reshape(shape)
            if self._sources.unmoved(name):
                self.counts.elements += merged.numel()
                if self._refuse:
                    self._check_unmoved(name)
                return merged.zero_().reshape(shape)
            if self.rule.measure is not None:
                survey = self.rule.measure(self._sources.stream(name), self.settings)
            moved = kept = quota = 0
            for deltas in self._sources.chunks(name, self._sources.chunk, self._room):
                part = merged[deltas.start : deltas.start + deltas.base.numel()]
                part.copy_(self.rule.combine(deltas, self.settings, survey))
                if self._refuse:
                    check_finite(deltas, self._sources)
                quota += int(self.rule.quota(deltas, self.settings)) if self.rule.quota else 0
                moved += int(deltas.moved().sum())
                kept += int(torch.ne(part, 0, out=deltas.take("kept")).sum())
            if self.rule.finish is not None:
                merged = self.rule.finish(merged, quota, name, self.settings)
                kept = int(merged.count_nonzero())
            self.counts.elements += merged.numel()
            self.counts.moved += moved
            self.counts.kept += kept
            return merged.reshape(shape)

    def _check_unmoved(self, name: str) -> None:
        if not math.isfinite(float(peek(self._sources.base, name).sum())):
            for deltas in self._sources.chunks(name):
                check_finite(deltas, self._sources)


def check_finite(deltas: Deltas, sources: Sources) -> None:
    """Refuse NaN and infinities: one anywhere in base or candidates reaches the sum of the task vectors.

    Raises:
        NotFiniteError: naming every file with such a value.
    """
    if math.isfinite(float(deltas.total.sum())) or bool(torch.isfinite(deltas.total).all()):
        return
    everyone = [
        (label_of(sources.base, "the base"), deltas.base),
        *(
            (label_of(weights, f"candidate {k}"), part)
            for k, (weights, part) in enumerate(zip(sources.candidates, deltas.candidates, strict=True), 1)
        ),
    ]
    where = [label for label, part in everyone if not bool(torch.isfinite(part).all())]
    remedy = "leave that checkpoint out"
    if not where:
        raise NotFiniteError(f"{deltas.name} holds numbers so large that their differences are infinite: {remedy}.")
    if where[0] == everyone[0][0]:
        remedy = f"keep the base's with --ignore {deltas.name}"
    raise NotFiniteError(
        f"{deltas.name} holds NaN or infinite values in {', '.join(where)}: {remedy}, or let them pass with "
        '--nonfinite pass (in Python, nonfinite="pass").'
    )
