"""One chunk of every candidate's task vector, and what rules ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of differences and sums: float32, or float64 where the base is float64.

    >>> compute_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.float64 if dtype is torch.float64 else torch.float32


class Deltas:
    """The task vectors τk = θk - θ0 of one chunk, computed when they are asked for.

    Iterating gives one fresh tensor a candidate, in the candidates' order, so that a rule needs memory for what it
    keeps and no more. `start` is the chunk's first element in its flattened tensor; `given` marks the candidates
    that are deltas already (adapters). Rules never write into what they get here: it may be the file itself.

    >>> chunk = Deltas(torch.zeros(3), [torch.tensor([1.0, -1.0, 0.0]), torch.tensor([3.0, 1.0, 2.0])])
    >>> chunk.mean()
    tensor([2., 0., 1.])
    >>> chunk.low, chunk.high
    (tensor([ 1., -1.,  0.]), tensor([3., 1., 2.]))
    """

    def __init__(
        self, base: Tensor, candidates: list[Tensor], *, given: Sequence[bool] = (), start: int = 0, name: str = ""
    ) -> None:
        self.name = name
        self.start = start
        self.dtype = compute_dtype(base.dtype)
        self.base = base
        self.candidates = candidates
        self._given = given or [False] * len(candidates)
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[Tensor]:
        for position in range(len(self)):
            yield self[position]

    def __getitem__(self, position: int) -> Tensor:
        candidate = self.candidates[position].to(self.dtype)
        return candidate if self._given[position] else candidate - self.base.to(self.dtype)

    def _difference(self, position: int, room: Tensor) -> Tensor:
        """One task vector, in `room` where nothing has to be converted first."""
        candidate = self.candidates[position]
        if self._given[position] or not (candidate.dtype == self.base.dtype == self.dtype):
            return self[position]
        return torch.sub(candidate, self.base, out=room)

    def _tally(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._sums is None:
            total = low = high = self[0]
            if len(self) > 1:
                # Four tensors for any number of candidates: fresh memory would cost more than the arithmetic.
                total, low, high, room = total.clone(), total.clone(), total.clone(), torch.empty_like(total)
            for position in range(1, len(self)):
                delta = self._difference(position, room)
                torch.minimum(low, delta, out=low)
                torch.maximum(high, delta, out=high)
                total += delta  # added one by one in the candidates' order: a stacked reduction may reorder
            self._sums = total, low, high
        return self._sums

    @property
    def total(self) -> Tensor:
        """Σk τk, added one candidate after another."""
        return self._tally()[0]

    @property
    def low(self) -> Tensor:
        """The smallest τk of each element: above 0 where all candidates went up."""
        return self._tally()[1]

    @property
    def high(self) -> Tensor:
        """The largest τk of each element: below 0 where all candidates went down."""
        return self._tally()[2]

    def mean(self) -> Tensor:
        """Σk τk / N, divided once."""
        return divided(self.total, len(self))

    def moved(self) -> Tensor:
        """True where at least one candidate left the base."""
        return (self.low < 0) | (self.high > 0)


def divided(total: Tensor, n: int) -> Tensor:
    """`total / n`, rounded alike on every device.

    CUDA multiplies by the reciprocal when the divisor is a plain number, so the divisor travels as a tensor.
    """
    return total / torch.full((), n, dtype=total.dtype, device=total.device)
