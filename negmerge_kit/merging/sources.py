"""Where chunks come from: base and candidates read side by side, in pieces that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.devices import pick_merge_device
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.alike import counted, layout_of, matches, merges, peek
from negmerge_kit.merging.deltas import Deltas, compute_dtype
from negmerge_kit.merging.rule import Stream
from negmerge_kit.merging.staging import Piece, staged
from negmerge_kit.types import Weights

CHUNK = 1 << 15
"""Elements a chunk: all of it stays in the cache, and torch runs each step on the calling thread alone."""
LONG_CHUNK = 1 << 21
"""Elements a chunk of a large tensor: long enough that waking a second thread for each step costs nothing."""
LARGE = 1 << 20
"""Elements of a large tensor."""
RUN = 1 << 24
"""Elements of neighbouring tensors that are folded in one call."""
GPU_CHUNK = 1 << 23
"""Elements a chunk on a GPU: enough to keep it busy, few enough that thirty candidates' buffers fit."""
SURVEY_CHUNK = 1 << 18
"""Elements a chunk of a survey: long enough that counting outweighs clearing its counters."""


class Sources:
    """Base and candidates as chunks of task vectors, on the device that computes.

    A tensor is never copied whole: chunks are views of it. On a lazy checkpoint they are views of the mapped file.
    """

    def __init__(
        self,
        base: Weights,
        candidates: Sequence[Weights],
        *,
        device: str | torch.device = "cpu",
        buffers: str = "keep",
        chunk: int | None = None,
        ignore: Sequence[str] = (),
    ) -> None:
        if chunk is not None and chunk < 1:
            raise ParameterError(f"chunk is {chunk}: give a number of elements of at least 1.")
        self.base = base
        self.candidates = candidates
        self.device = pick_merge_device(device)
        self.buffers = buffers
        self.chunk = chunk
        self.layout = layout_of(base)
        self._ignored = {name for name in self.layout if matches(name, ignore)} if ignore else set[str]()
        self._everyone: list[Any] = [base, *candidates]
        self.given = [bool(getattr(candidate, "holds_deltas", False)) for candidate in candidates]

    def counted(self) -> Iterator[str]:
        """The names that take part in the merge, in the base's order."""
        return filter(self.takes_part, self.layout)

    def takes_part(self, name: str) -> bool:
        """Whether an entry merges; one that does not is the base's in every result."""
        return name not in self._ignored and counted(name, self.layout[name][1], self.buffers)

    def unmoved(self, name: str) -> bool:
        """True where every candidate holds the base's own tensor object, or is an adapter that leaves it alone.

        Its delta is zero without being read: most of a fine-tuned CLIP in a workbench, whose text tower is shared.
        Only objects that are held while they are compared say so: the address of a tensor that a mapping made when
        asked is the next one's as soon as it is dropped. A mapped file makes its views when asked and shares nothing.
        """
        here = self.base[name] if isinstance(self.base, dict) else None
        return all(
            name not in one if given else here is not None and not hasattr(one, "view") and one[name] is here
            for one, given in zip(self.candidates, self.given, strict=True)
        )

    def chunks(self, name: str, size: int | None = None) -> Iterator[Deltas]:
        """One tensor of everyone, chunk after chunk; an empty tensor gives none."""
        base = peek(self.base, name).reshape(-1)
        candidates = [self._flat(position, name, base) for position in range(len(self.candidates))]
        return self._chunks(name, base, candidates, size)

    def runs(self) -> Iterator[list[str]]:
        """The base's floating names in order, neighbours together: tensors that lie side by side in everyone's file.

        A model of hundreds of small tensors is then a few long arrays, and a call costs nothing beside its work.
        """
        run: list[str] = []
        elements = 0
        for name, (shape, dtype) in self.layout.items():
            if not merges(dtype):
                continue
            elements += math.prod(shape)
            if run and (elements > RUN or not self._adjoin(run[-1], name)):
                yield run
                run, elements = [], math.prod(shape)
            run.append(name)
        if run:
            yield run

    def joined(self, run: Sequence[str], size: int) -> Iterator[Deltas]:
        """A run of neighbours as one flat array, chunk after chunk."""
        if len(run) == 1:
            return self.chunks(run[0], size)
        spans: list[Tensor] = [weights.span(run[0], run[-1]) for weights in self._everyone]
        return self._chunks(run[0], spans[0], spans[1:], size)

    def _adjoin(self, first: str, second: str) -> bool:
        if not all(map(self.takes_part, (first, second))):
            return False
        return all(hasattr(weights, "adjoins") and weights.adjoins(first, second) for weights in self._everyone)

    def stream(self, *names: str) -> Stream:
        """Passes over some tensors or all counted ones, on a grid of its own: a survey does not depend on `chunk`."""
        chosen = names or tuple(self.counted())

        def chunks() -> Iterator[Deltas]:
            for name in chosen:
                yield from self.chunks(name, SURVEY_CHUNK)

        return Stream(
            chunks,
            sum(math.prod(self.layout[name][0]) for name in chosen),
            len(self.candidates),
            any(self.layout[name][1] is torch.float64 for name in chosen),
        )

    def _chunks(self, name: str, base: Tensor, candidates: Sequence[Tensor], size: int | None) -> Iterator[Deltas]:
        if size is None:
            size = self.chunk or self._usual(base.numel())
        elif self.device.type == "cuda":
            size = min(size, GPU_CHUNK)
        pieces: Iterator[Piece] = (
            Piece(start, base[start : start + size], [candidate[start : start + size] for candidate in candidates])
            for start in range(0, base.numel(), size)
        )
        if self.device.type == "cuda":
            pieces = staged(pieces, self.device)
        for start, part, parts in pieces:
            yield Deltas(
                part.to(self.device),
                [candidate.to(self.device) for candidate in parts],
                given=self.given,
                start=start,
                name=name,
            )

    def _usual(self, elements: int) -> int:
        if self.device.type != "cpu":
            return GPU_CHUNK
        return CHUNK if elements < LARGE else LONG_CHUNK

    def _flat(self, position: int, name: str, base: Tensor) -> Tensor:
        candidate = self.candidates[position]
        if self.given[position] and name not in candidate:
            return torch.zeros((), dtype=compute_dtype(base.dtype)).expand(base.numel())  # an adapter leaves it alone
        return peek(candidate, name).reshape(-1)
