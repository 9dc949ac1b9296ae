"""Exact k-th values of streams: digit by digit, so that no model is ever concatenated or sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

DIGIT = 16
"""Bits settled by one pass: 65,536 counters a stream."""
GATHER = 1 << 17
"""Elements counted together."""


def magnitude_codes(values: Tensor, *, wide: bool = False) -> Tensor:
    """|values| as integers in the same order: the bits of a float without its sign rise with its magnitude.

    31 bits a value, or 63 when `wide` (float64).

    >>> magnitude_codes(torch.tensor([-2.0, 0.0, 1.0])).argsort()
    tensor([1, 2, 0])
    """
    if wide:
        return values.to(torch.float64).abs().view(torch.int64)
    return values.to(torch.float32).abs().view(torch.int32).to(torch.int64)


def magnitude_of(code: int, *, wide: bool = False) -> float:
    """The magnitude that `magnitude_codes` turned into `code`.

    >>> magnitude_of(int(magnitude_codes(torch.tensor([0.1]))[0])) == float(torch.tensor(0.1))
    True
    """
    if wide:
        return float(torch.tensor([code], dtype=torch.int64).view(torch.float64)[0])
    return float(torch.tensor([code], dtype=torch.int32).view(torch.float32)[0])


def code_bits(wide: bool) -> int:
    """Bits of a magnitude code."""
    return 63 if wide else 31


def kth_smallest(stream: Callable[[], Iterable[Sequence[Tensor]]], ranks: Sequence[int], bits: int) -> list[int]:
    """For each of several streams of codes, the value at its 1-based rank, exactly.

    `stream()` gives one more pass: chunks that hold one tensor of codes in [0, 2^bits) for each rank asked. Each pass
    settles sixteen bits of every answer by counting, from the highest, so memory does not grow with the model.

    >>> codes = torch.tensor([5, 900_000, 7, 7])
    >>> kth_smallest(lambda: [(codes[:2], codes[:2]), (codes[2:], codes[2:])], [3, 4], bits=31)
    [7, 900000]
    """
    head = list(islice(_gathered(stream()), 2))
    if len(head) == 1:  # all of it at hand: a small tensor is quicker sorted than counted
        return [int(codes.kthvalue(rank).values) for codes, rank in zip(head[0], ranks, strict=True)]
    found = [0] * len(ranks)
    left = list(ranks)
    for shift in range((bits - 1) // DIGIT * DIGIT, -1, -DIGIT):
        counts = [torch.zeros(1 << DIGIT, dtype=torch.int64) for _ in ranks]
        for chunk in _gathered(stream()):
            for position, codes in enumerate(chunk):
                high = codes >> shift
                digits = high[(high >> DIGIT) == found[position]] & ((1 << DIGIT) - 1)
                counts[position] += torch.bincount(digits, minlength=1 << DIGIT).cpu()
        for position, count in enumerate(counts):
            reached = count.cumsum(0)
            digit = int(torch.searchsorted(reached, left[position]))
            left[position] -= int(reached[digit - 1]) if digit else 0
            found[position] = found[position] << DIGIT | digit
    return found


def _gathered(chunks: Iterable[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """Chunks joined until counting them outweighs clearing the counters: a model has many small tensors."""
    waiting: list[Sequence[Tensor]] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += chunk[0].numel()
        if size >= GATHER:
            yield [torch.cat(column) for column in zip(*waiting, strict=True)]
            waiting, size = [], 0
    if waiting:
        yield [torch.cat(column) for column in zip(*waiting, strict=True)]
