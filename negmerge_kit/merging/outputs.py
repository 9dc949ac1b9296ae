"""Memory for results, used again once nobody holds them: fresh pages cost more than the arithmetic does."""

from __future__ import annotations

import mmap
import sys

import torch
from torch import Tensor

SMALL = 1 << 20
"""Bytes below which torch's own allocator is as good."""
ROOMY = 4
"""How many times too large a buffer may be: a small result must not keep a large one's memory."""
SPARE = 3
"""Free buffers that are kept for later tensors."""


def _references(buffers: list[mmap.mmap]) -> list[int]:
    """How many references there are to each, those of this very count among them."""
    return [sys.getrefcount(buffer) for buffer in buffers]


FREE = _references([mmap.mmap(-1, 1)])[0]
"""References to a buffer that no tensor shows. Counted here, not assumed: how many a call adds is Python's own affair,
and one too many would hand out memory that a tensor still shows."""


class Outputs:
    """Hands out uninitialised tensors; a tensor that the caller has dropped gives its memory to a later one.

    A merge that streams into a file then touches the same few pages over and over, while one that is collected in a
    dict gets fresh memory for every tensor.

    >>> outputs = Outputs()
    >>> first = outputs.take(1 << 20, torch.float32)
    >>> address = first.data_ptr()
    >>> second = outputs.take(1 << 20, torch.float32)
    >>> del first
    >>> outputs.take(1 << 20, torch.float32).data_ptr() == address != second.data_ptr()
    True
    """

    def __init__(self) -> None:
        self._buffers: list[mmap.mmap] = []

    def take(self, count: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """A tensor of `count` elements whose values are anything."""
        size = count * dtype.itemsize
        if size < SMALL or (device is not None and device.type != "cpu") or not hasattr(mmap, "MAP_ANONYMOUS"):
            return torch.empty(count, dtype=dtype, device=device)
        return torch.frombuffer(self._buffer(size), dtype=dtype, count=count)

    def _buffer(self, size: int) -> mmap.mmap:
        # Every storage that shows a buffer holds a reference to it, so counting them is enough.
        held: list[mmap.mmap] = []
        free: list[mmap.mmap] = []
        for buffer, count in zip(self._buffers, _references(self._buffers), strict=True):
            (held if count > FREE else free).append(buffer)
        free = [buffer for buffer in free if len(buffer) <= ROOMY * size]
        fitting = [buffer for buffer in free if len(buffer) >= size]
        chosen = min(fitting, key=len) if fitting else _allocated(size)
        # Smaller ones wait for smaller tensors; what is too large goes back to the system.
        self._buffers = [*held, *[buffer for buffer in free if buffer is not chosen][-SPARE:], chosen]
        return chosen


def _allocated(size: int) -> mmap.mmap:
    # Rounded up, so that tensors of nearly one size share; pages that are never touched cost nothing.
    buffer = mmap.mmap(-1, 1 << (size - 1).bit_length(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer
