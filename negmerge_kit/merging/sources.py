"""Chunks of base and candidates, read together in pieces that stay in the cache."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from negmerge_kit.devices import pick_merge_device
from negmerge_kit.merging.deltas import SHORT_CHUNK, Deltas, Room, compute_dtype
from negmerge_kit.merging.layout import counted, layout_of, matches, merges, peek
from negmerge_kit.merging.rule import Stream
from negmerge_kit.merging.staging import Piece, staged
from negmerge_kit.types import Weights

CHUNK = 3 << 16
"""Elements a chunk of up to eight candidates: few enough that their differences stay in the processor's cache, enough
that the work outweighs torch's calls and the wait of its threads for each other."""
GPU_CHUNK = 1 << 22
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
        ignore: Sequence[str] = (),
    ) -> None:
        self.base = base
        self.candidates = candidates
        self.device = pick_merge_device(device)
        self.buffers = buffers
        self.layout = layout_of(base)
        self._ignored = {name for name in self.layout if matches(name, ignore)} if ignore else set[str]()
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

    @property
    def names(self) -> list[str]:
        """Names that a merge yields, in the base's order: every entry of a dtype that merges."""
        return [name for name, (_, dtype) in self.layout.items() if merges(dtype)]

    @property
    def chunk(self) -> int:
        """Elements of a chunk of the fold on a CPU."""
        return max(SHORT_CHUNK, CHUNK * 8 // max(len(self.candidates), 8))

    def chunks(self, name: str, size: int | None = None, room: Room | None = None) -> Iterator[Deltas]:
        """Yield one tensor's task vectors by chunk, none for an empty tensor. Each chunk overwrites the one before."""
        room = room or Room()
        return (self.deltas(piece, room) for piece in self.pieces(name, size or SHORT_CHUNK))

    def pieces(self, name: str, size: int) -> Iterator[Piece]:
        """Cut a tensor of base and candidates into chunks; for a GPU, of GPU_CHUNK elements and copied one ahead."""
        base = peek(self.base, name).reshape(-1)
        candidates = [self._flat(position, name, base) for position in range(len(self.candidates))]
        size = size if self.device.type == "cpu" else GPU_CHUNK
        pieces: Iterator[Piece] = (
            Piece(name, start, base[start : start + size], [each[start : start + size] for each in candidates])
            for start in range(0, base.numel(), size)
        )
        return staged(pieces, self.device) if self.device.type == "cuda" else pieces

    def deltas(self, piece: Piece, room: Room) -> Deltas:
        """A chunk's task vectors, computed in `room`."""
        base, *candidates = (part.to(self.device) for part in (piece.base, *piece.candidates))
        return Deltas(base, candidates, given=self.given, start=piece.start, name=piece.name, room=room)

    def stream(self, *names: str) -> Stream:
        """Passes over some tensors or all counted ones, on their own grid of chunks."""
        chosen = names or tuple(self.counted())

        def chunks() -> Iterator[Deltas]:
            room = Room()
            for name in chosen:
                yield from self.chunks(name, SURVEY_CHUNK, room)

        return Stream(
            chunks,
            sum(math.prod(self.layout[name][0]) for name in chosen),
            len(self.candidates),
            any(self.layout[name][1] is torch.float64 for name in chosen),
        )

    def _flat(self, position: int, name: str, base: Tensor) -> Tensor:
        candidate = self.candidates[position]
        if self.given[position] and name not in candidate:
            return torch.zeros((), dtype=compute_dtype(base.dtype)).expand(base.numel())  # an adapter leaves it alone
        return peek(candidate, name).reshape(-1)


HALF = (torch.float16, torch.bfloat16)


def below_half_step(sources: Sources) -> tuple[int, int]:
    """Count the moves below half a rounding step of their candidate's dtype, and all moves, over all candidates.

    Counted where a candidate is stored in fewer bits than the base: |θk - θ0| is below half a step of its dtype
    exactly where θ0, rounded to that dtype, is θk. All candidates of one dtype round alike there, so such moves agree.
    One more pass over the files, only where a candidate is narrower.

    >>> base = {"w": torch.tensor([1.0, 1.001, 1.001])}
    >>> below_half_step(Sources(base, [{"w": torch.tensor([1.0, 1.0, 2.0]).bfloat16()}]))
    (1, 2)
    """
    small = moved = 0
    layouts = [layout_of(weights) for weights in sources.candidates]
    for name in sources.counted():
        width = sources.layout[name][1].itemsize
        if all(
            given or layout[name][1].itemsize >= width for layout, given in zip(layouts, sources.given, strict=True)
        ):
            continue
        for deltas in sources.chunks(name):
            for candidate, given in zip(deltas.candidates, sources.given, strict=True):
                if not given and candidate.dtype.itemsize < width:
                    left = candidate != deltas.base
                    moved += int(left.count_nonzero())
                    small += int((left & (deltas.base.to(candidate.dtype) == candidate)).count_nonzero())
    return small, moved


def warn_of_half(sources: Sources, stacklevel: int = 3) -> tuple[int, int]:
    """Warn if base or candidates are stored in half precision; return the counts of `below_half_step`."""
    stored = {dtype for _, dtype in sources.layout.values()}
    for candidate in sources.candidates:
        stored |= {dtype for _, dtype in layout_of(candidate).values()}
    if not stored & {*HALF}:
        return 0, 0
    small, moved = below_half_step(sources)
    counted = (
        f"; {small:,} of {moved:,} moves ({100 * small / moved:.1f} %) are smaller than half a step of the candidates' "
        "dtype, so they may be rounding alone, in which candidates agree"
        if small
        else ""
    )
    warnings.warn(
        "weights are stored in half precision: small moves round to exactly zero and break unanimity"
        f"{counted}; keep candidates in float32 where you can.",
        stacklevel=stacklevel,
    )
    return small, moved
