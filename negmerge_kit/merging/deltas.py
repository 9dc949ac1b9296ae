"""One chunk of every candidate's task vector, and the statistics of it that rules use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

SHORT_CHUNK = 1 << 15
"""Elements that torch works on without sharing them between its threads."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of differences and sums: float32, or float64 where the base is float64.

    >>> compute_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.float64 if dtype is torch.float64 else torch.float32


class Room:
    """Scratch memory that all chunks reuse: allocated once, for the largest, because fresh pages cost more than the
    arithmetic does.

    >>> room = Room()
    >>> first, second = (room.take("low", (3,), torch.zeros(1)) for _ in range(2))
    >>> first.data_ptr() == second.data_ptr()
    True
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, use: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised tensor of `like`'s dtype and device; it overwrites the last one of the same `use`."""
        count = math.prod(shape)
        held = self._held.get(use)
        if held is None or held.numel() < count or held.dtype != like.dtype or held.device != like.device:
            held = self._held[use] = torch.empty(count, dtype=like.dtype, device=like.device)
        return held[:count].view(shape)


class Deltas:
    """The task vectors τk = θk - θ0 of one chunk, computed on first use.

    Iterating gives one tensor a candidate, in the candidates' order. `start` is the chunk's first element in its
    flattened tensor; `given` marks the candidates that are deltas already (adapters). Everything that is asked for is
    computed once and lives in `room`, which the next chunk uses again: rules never write into it and keep nothing of
    it but what they return, which is copied.

    >>> chunk = Deltas(torch.zeros(3), [torch.tensor([1.0, -1.0, 0.0]), torch.tensor([3.0, 1.0, 2.0])])
    >>> chunk.mean()
    tensor([2., 0., 1.])
    >>> chunk.low, chunk.high
    (tensor([ 1., -1.,  0.]), tensor([3., 1., 2.]))
    >>> chunk.unanimous(), chunk.moved()
    (tensor([1., 0., 0.]), tensor([1., 1., 1.]))
    """

    def __init__(
        self,
        base: Tensor,
        candidates: list[Tensor],
        *,
        given: Sequence[bool] = (),
        start: int = 0,
        name: str = "",
        room: Room | None = None,
    ) -> None:
        self.name = name
        self.start = start
        self.dtype = compute_dtype(base.dtype)
        self.base = base
        self.candidates = candidates
        self._given = given or [False] * len(candidates)
        self._room = room or Room()
        self._origin = base.to(self.dtype)
        self._rows = self.take("rows", len(candidates))
        self._filled = [False] * len(candidates)

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[Tensor]:
        for position in range(len(self)):
            yield self[position]

    def __getitem__(self, position: int) -> Tensor:
        row = self._rows[position]
        if not self._filled[position]:
            candidate = self.candidates[position].to(self.dtype)
            if self._given[position]:
                row.copy_(candidate)
            else:
                torch.sub(candidate, self._origin, out=row)
            self._filled[position] = True
        return row

    def take(self, use: str, *rows: int) -> Tensor:
        """Scratch tensor of one or several numbers an element, in the precision of the differences."""
        return self._room.take(use, (*rows, self.base.numel()), self._origin)

    @property
    def rows(self) -> Tensor:
        """All task vectors, [N, elements]."""
        for _ in self:
            pass
        return self._rows

    @cached_property
    def total(self) -> Tensor:
        """Σk τk, added one candidate after another."""
        if len(self) == 1:
            return self[0]
        total = torch.add(self[0], self[1], out=self.take("total"))
        for position in range(2, len(self)):
            total += self[position]  # in the candidates' order: a reduction over rows may choose another one
        return total

    @cached_property
    def low(self) -> Tensor:
        """The smallest τk of each element: above 0 where all candidates went up."""
        return torch.amin(self.rows, 0, out=self.take("low"))

    @cached_property
    def high(self) -> Tensor:
        """The largest τk of each element: below 0 where all candidates went down."""
        return torch.amax(self.rows, 0, out=self.take("high"))

    def mean(self) -> Tensor:
        """Σk τk / N, divided once."""
        return divided(self.total, len(self), out=self.take("mean"))

    def unanimous(self) -> Tensor:
        """1 where all candidates moved the same way, 0 elsewhere."""
        return torch.minimum(self._fall, self.high, out=self.take("unanimous")).lt_(0)

    def moved(self) -> Tensor:
        """1 where at least one candidate left the base, 0 elsewhere."""
        return torch.maximum(self._fall, self.high, out=self.take("moved")).gt_(0)

    @cached_property
    def _fall(self) -> Tensor:
        """-low: below 0 where all candidates went up, above 0 where one went down."""
        return torch.neg(self.low, out=self.take("fall"))


def sum_in_parts(values: Tensor) -> Tensor:
    """The sum in float64, in parts too short for torch to share between threads: the same on any number of them.

    >>> sum_in_parts(torch.ones(100_000))
    tensor(100000., dtype=torch.float64)
    """
    if values.device.type == "mps":  # Apple's GPUs have no float64
        values = values.cpu()
    return torch.stack([part.sum(dtype=torch.float64) for part in values.split(SHORT_CHUNK)]).sum()


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where the mask is 1, and 0 where it is 0, whatever the value there; both are written over.

    As `torch.where`, which on a CPU branches at every element: where candidates disagree nobody predicts the branch,
    and that takes ten times as long as multiplying the values' bits by 0 or 1.

    >>> masked(torch.tensor([-1.5, torch.nan, -2.0]), torch.tensor([1.0, 0.0, 0.0]))
    tensor([-1.5000,  0.0000,  0.0000])
    """
    whole = torch.int64 if values.dtype is torch.float64 else torch.int32
    one = mask.view(whole).bitwise_right_shift_(8 * mask.itemsize - 3)  # the first bits of 1.0 are 001
    values.view(whole).mul_(one)
    return values


def divided(total: Tensor, n: int, out: Tensor | None = None) -> Tensor:
    """`total / n`, rounded alike on every device.

    CUDA multiplies by the reciprocal when the divisor is a plain number, so the divisor travels as a tensor.
    """
    return torch.div(total, torch.full((), n, dtype=total.dtype, device=total.device), out=out)
