"""Where chunks come from: base and candidates read side by side, in pieces that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from negmerge_kit.errors import DeviceError, ParameterError
from negmerge_kit.merging.alike import counted, layout_of
from negmerge_kit.merging.deltas import Deltas, compute_dtype
from negmerge_kit.merging.rule import Stream
from negmerge_kit.types import Weights

CHUNK = 1 << 15
"""Elements a chunk: all of a chunk stays in the cache, and torch runs each step on the calling thread alone."""
SURVEY_CHUNK = 1 << 18
"""Elements a chunk of a survey: long enough that counting outweighs clearing its counters."""
LARGE = 1 << 23
"""Elements times candidates of a tensor that is worth more than one thread."""

Answer = TypeVar("Answer")


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
    ) -> None:
        if chunk is not None and chunk < 1:
            raise ParameterError(f"chunk is {chunk}: give a number of elements of at least 1.")
        self.base = base
        self.candidates = candidates
        self.device = compute_device(device)
        self.buffers = buffers
        self.chunk = chunk or CHUNK
        self.layout = layout_of(base)
        self.given = [bool(getattr(candidate, "holds_deltas", False)) for candidate in candidates]

    def counted(self) -> Iterator[str]:
        """The names that take part in the merge, in the base's order."""
        for name, (_, dtype) in self.layout.items():
            if counted(name, dtype, self.buffers):
                yield name

    def whole(self, name: str) -> Deltas:
        """One tensor of everyone as a single chunk."""
        base = peek(self.base, name)
        return self._deltas(name, base.reshape(-1), [self._flat(k, name, base) for k in range(len(self.candidates))], 0)

    def chunks(self, name: str, size: int | None = None) -> Iterator[Deltas]:
        """One tensor of everyone, chunk after chunk; an empty tensor gives none."""
        size = size or self.chunk
        base = peek(self.base, name)
        flat = base.reshape(-1)
        candidates = [self._flat(position, name, base) for position in range(len(self.candidates))]
        for start in range(0, flat.numel(), size):
            stop = start + size
            yield self._deltas(name, flat[start:stop], [candidate[start:stop] for candidate in candidates], start)

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

    def spread(self, fold: Callable[[Deltas], Answer], name: str) -> Iterator[Answer]:
        """`fold` of every chunk of a tensor, in order; of a large one on as many threads as torch may use."""
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        if threads == 1 or math.prod(self.layout[name][0]) * len(self.candidates) < LARGE:
            yield from map(fold, self.chunks(name))
            return
        chunks = self.chunks(name)
        with ThreadPoolExecutor(threads) as pool:
            while batch := list(islice(chunks, 64 * threads)):
                yield from pool.map(fold, batch)

    def _flat(self, position: int, name: str, base: Tensor) -> Tensor:
        candidate = self.candidates[position]
        if self.given[position] and name not in candidate:
            return torch.zeros((), dtype=compute_dtype(base.dtype)).expand(base.numel())  # an adapter leaves it alone
        return peek(candidate, name).reshape(-1)

    def _deltas(self, name: str, base: Tensor, candidates: list[Tensor], start: int) -> Deltas:
        return Deltas(
            base.to(self.device),
            [candidate.to(self.device) for candidate in candidates],
            given=self.given,
            start=start,
            name=name,
        )


def peek(weights: Weights, name: str) -> Tensor:
    """The tensor without a copy where the mapping can show one: a lazy checkpoint's `view` of its mapped file."""
    view = getattr(weights, "view", None)
    tensor: Tensor = weights[name] if view is None else view(name)
    return tensor.detach()


def compute_device(device: str | torch.device) -> torch.device:
    """The device by its name; DeviceError when this machine has none of that kind.

    >>> compute_device("cpu")
    device(type='cpu')
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"there is no device {device!r}: choose cpu, cuda or mps.") from error
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(chosen.type, False):
        raise DeviceError(f"this machine has no {chosen.type} device: choose cpu.")
    return chosen
