"""The fold: one pass over the tensors, chunk by chunk, that turns candidates into one delta a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError
from negmerge_kit.merging.cpu_threads import side_by_side
from negmerge_kit.merging.deltas import Deltas, Rooms
from negmerge_kit.merging.layout import label_of, peek
from negmerge_kit.merging.rule import Rule, Settings
from negmerge_kit.merging.sources import AHEAD, Sources
from negmerge_kit.merging.staging import Piece
from negmerge_kit.types import Item

NOTHING = torch.empty(0)


@dataclass
class MergeCounts:
    """What a merge did, complete once its iterator is exhausted.

    `elements` are those that take part, `moved` left the base in at least one candidate, `kept` are non-zero in the
    merged delta. `below_half_step` counts the moves, over all candidates, below half a rounding step of their
    narrower dtype (see `half_steps`); it is known before the merge begins.

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
        self._rooms = Rooms()
        self._items = self._run()

    def __next__(self) -> Item:
        return next(self._items)

    def _run(self) -> Iterator[Item]:
        survey = self.rule.survey(self._sources.stream(), self.settings) if self.rule.survey else None
        names = self._sources.names
        # Where tensors are made on access, only those of one name are in memory at a time.
        for group in [names] if self._sources.in_place else [[name] for name in names]:
            parts = (part for name in group for part in self._parts(name, survey))
            for part, *counts in side_by_side(self._fold, parts, self._sources.threads, ahead=AHEAD):
                part.whole.add(*counts)
                if part.last:
                    yield part.whole.name, self._finished(part.whole, moved=part.piece is not None)

    def _parts(self, name: str, survey: Any) -> Iterator[_Part]:
        shape, _ = self._sources.layout[name]
        whole = _Whole(name, NOTHING, survey, math.prod(shape))
        if not self._sources.takes_part(name) or self._sources.unmoved(name) or not whole.elements:
            yield _Part(whole, None)  # its zeros are made when it is handed on: many of these are asked ahead
            return
        whole.merged = self._room_of(name)
        if self.rule.measure is not None:
            whole.survey = self.rule.measure(self._sources.stream(name), self.settings)
        for piece in self._sources.pieces(name, self._sources.chunk):
            yield _Part(whole, piece)

    def _fold(self, part: _Part) -> tuple[_Part, int, int, int]:
        """Merge one chunk into its place: how many elements moved, how many are kept, and the rule's quota."""
        whole, piece = part
        if piece is None:
            if self._refuse and self._sources.takes_part(whole.name):
                self._check_unmoved(whole.name)
            return part, 0, 0, 0
        deltas = self._sources.deltas(piece, self._rooms.room)
        merged = whole.merged[piece.start : piece.start + piece.base.numel()]
        merged.copy_(self.rule.combine(deltas, self.settings, whole.survey))
        if self._refuse:
            check_finite(deltas, self._sources)
        quota = int(self.rule.quota(deltas, self.settings)) if self.rule.quota else 0
        kept = torch.ne(merged, 0, out=deltas.take("kept"))
        return part, int(deltas.moved().sum()), int(kept.sum()), quota

    def _check_unmoved(self, name: str) -> None:
        if not math.isfinite(float(peek(self._sources.base, name).sum())):
            for deltas in self._sources.chunks(name):
                check_finite(deltas, self._sources)

    def _room_of(self, name: str) -> Tensor:
        shape, dtype = self._sources.layout[name]
        with torch.inference_mode(False):  # threads write into it, and the caller's mode does not apply to them
            return torch.empty(math.prod(shape), dtype=dtype, device=self._sources.device)

    def _finished(self, whole: _Whole, *, moved: bool) -> Tensor:
        if not moved:
            whole.merged = self._room_of(whole.name).zero_()
        # Keep no reference while the caller has the tensor: its memory is free once the caller drops it.
        merged, whole.merged = whole.merged, NOTHING
        if self.rule.finish is not None:
            merged = self.rule.finish(merged, whole.quota, whole.name, self.settings)
            whole.kept = int(merged.count_nonzero())
        if self._sources.takes_part(whole.name):
            self.counts.elements += whole.elements
            self.counts.moved += whole.moved
            self.counts.kept += whole.kept
        return merged.reshape(self._sources.layout[whole.name][0])


@dataclass
class _Whole:
    """A tensor of the merged delta, filled part by part."""

    name: str
    merged: Tensor
    survey: Any
    elements: int
    moved: int = 0
    kept: int = 0
    quota: int = 0

    def add(self, moved: int, kept: int, quota: int) -> None:
        self.moved += moved
        self.kept += kept
        self.quota += quota


class _Part(NamedTuple):
    """A chunk of a tensor; None for all of one that no candidate moved."""

    whole: _Whole
    piece: Piece | None

    @property
    def last(self) -> bool:
        return self.piece is None or self.piece.start + self.piece.base.numel() == self.whole.elements


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
