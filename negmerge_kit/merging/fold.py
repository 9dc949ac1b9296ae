"""The fold: one pass over the tensors, chunk by chunk, that turns candidates into one delta a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError
from negmerge_kit.merging.alike import label_of
from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.fused import LEAST, PIECE, FusedUnavailable, Kernel, find_kernel
from negmerge_kit.merging.outputs import Outputs
from negmerge_kit.merging.rule import Rule, Settings
from negmerge_kit.merging.sources import Sources
from negmerge_kit.types import Item


@dataclass
class MergeCounts:
    """What a merge did, complete once its iterator is exhausted.

    `elements` are those that take part, `moved` left the base in at least one candidate, `kept` are non-zero in the
    merged delta. `below_half_step` counts the moves, over all candidates, that their narrower dtype cannot tell from
    rounding (see `half_steps`); it is known before the merge begins.

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

    def __init__(
        self, sources: Sources, rule: Rule, settings: Settings, *, refuse_nonfinite: bool = True, engine: str = "auto"
    ) -> None:
        self.counts = MergeCounts()
        self.rule = rule
        self.settings = settings
        self._sources = sources
        self._refuse = refuse_nonfinite
        self._outputs = Outputs()
        self._engine = engine
        self._items = self._run()

    def __next__(self) -> Item:
        return next(self._items)

    def _run(self) -> Iterator[Item]:
        stream = self._sources.stream()
        survey = self.rule.survey(stream, self.settings) if self.rule.survey else None
        find = partial(
            find_kernel,
            self.rule,
            self.settings,
            self._sources.given,
            self._sources.device.type,
            stream.elements * stream.candidates,
            self._engine,
        )
        for run in self._sources.runs():
            kernel = find(self._sources.layout[run[0]][1])
            if len(run) > 1 and kernel:
                if joined := self._fused(run, kernel):
                    yield from joined
                    continue
                kernel = None
            for name in run:
                # Nothing here holds the tensor while the caller has it: its memory is free again once it is dropped.
                yield name, self._alone(name, kernel, survey)

    def _alone(self, name: str, kernel: Kernel | None, survey: Any) -> Tensor:
        shape, dtype = self._sources.layout[name]
        if not self._sources.takes_part(name):
            return torch.zeros(shape, dtype=dtype, device=self._sources.device)
        if self._sources.unmoved(name):
            return self._zero(name)
        if kernel and math.prod(shape) >= LEAST and (items := self._fused([name], kernel)):
            return items[0][1]
        return self._plain(name, survey)

    def _fused(self, run: list[str], kernel: Kernel) -> list[Item] | None:
        """A run of neighbours through the compiled loop, or None where compiling failed."""
        layout = [self._sources.layout[name] for name in run]
        sizes = [math.prod(shape) for shape, _ in layout]
        merged = self._outputs.take(sum(sizes), layout[0][1], self._sources.device)
        moved = kept = 0
        try:
            for deltas in self._sources.joined(run, PIECE):
                piece = merged[deltas.start : deltas.start + deltas.base.numel()]
                counts = kernel(deltas.base, deltas.candidates, piece)
                if self._refuse and not math.isfinite(float(counts[2])):
                    for name in run:
                        for chunk in self._sources.chunks(name):
                            check_finite(chunk, self._sources)
                moved, kept = moved + int(counts[0]), kept + int(counts[1])
        except FusedUnavailable:
            return None
        self._count(merged, moved, kept)
        parts = zip(run, merged.split(sizes), layout, strict=True)
        return [(name, part.reshape(shape)) for name, part, (shape, _) in parts]

    def _plain(self, name: str, survey: Any) -> Tensor:
        merged = self._empty(name)
        if self.rule.measure is not None:
            survey = self.rule.measure(self._sources.stream(name), self.settings)

        def fold(deltas: Deltas) -> tuple[int, int, int]:
            piece = merged[deltas.start : deltas.start + deltas.base.numel()]
            piece.copy_(self.rule.combine(deltas, self.settings, survey))
            if self._refuse:
                check_finite(deltas, self._sources)
            quota = int(self.rule.quota(deltas, self.settings)) if self.rule.quota else 0
            return int(deltas.moved().count_nonzero()), int(piece.count_nonzero()), quota

        moved = kept = quota = 0
        for counts in map(fold, self._sources.chunks(name)):
            moved, kept, quota = moved + counts[0], kept + counts[1], quota + counts[2]
        if self.rule.finish is not None:
            merged = self.rule.finish(merged, quota, name, self.settings)
            kept = int(merged.count_nonzero())
        self._count(merged, moved, kept)
        return merged.reshape(self._sources.layout[name][0])

    def _empty(self, name: str) -> Tensor:
        shape, dtype = self._sources.layout[name]
        return self._outputs.take(math.prod(shape), dtype, self._sources.device)

    def _zero(self, name: str) -> Tensor:
        shape, dtype = self._sources.layout[name]
        if self._refuse and not math.isfinite(float(self._sources.base[name].sum())):
            return self._plain(name, None)  # which says where the NaN or infinity is
        merged = torch.zeros(shape, dtype=dtype, device=self._sources.device)
        self._count(merged, 0, 0)
        return merged

    def _count(self, merged: Tensor, moved: int, kept: int) -> None:
        self.counts.elements += merged.numel()
        self.counts.moved += moved
        self.counts.kept += kept


def check_finite(deltas: Deltas, sources: Sources) -> None:
    """Refuse NaN and infinities: one anywhere in base or candidates reaches the sum of the task vectors.

    Raises:
        NotFiniteError: it names every file that holds one there.
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
