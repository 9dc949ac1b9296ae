"""Consensus over parts of a pool: how it shrinks as candidates join, and whether two halves find the same one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.deltas import divided
from negmerge_kit.merging.layout import check_alike
from negmerge_kit.merging.sources import SURVEY_CHUNK, Sources
from negmerge_kit.types import Weights

Order = Sequence[int]


@dataclass(frozen=True)
class Chain:
    """Candidates joining one by one: `unanimous[n-1]` elements agree among the first n, `moved[n-1]` moved at all.

    >>> Chain(unanimous=(4, 3), moved=(4, 6)).shares
    (1.0, 0.5)
    """

    unanimous: tuple[int, ...]
    moved: tuple[int, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """unanimous / moved for 1, 2, … candidates; 0 where nothing moved."""
        return tuple(u / m if m else 0.0 for u, m in zip(self.unanimous, self.moved, strict=True))


@dataclass(frozen=True)
class Halves:
    """The two halves' consensus compared, over all elements.

    `first` and `second` elements are unanimous in either half, `same` in both with one sign, `opposite` in both with
    two; `moved` moved in at least one candidate. `cosine` is that of the two merged deltas, 0 where one is empty.

    >>> halves = Halves(first=40, second=40, same=20, opposite=0, moved=100, cosine=0.5)
    >>> round(halves.overlap, 3), round(halves.chance, 3)
    (0.333, 0.111)
    """

    first: int
    second: int
    same: int
    opposite: int
    moved: int
    cosine: float

    @property
    def overlap(self) -> float:
        """Jaccard: same / (first + second - same)."""
        return _jaccard(self.same, self.first, self.second)

    @property
    def chance(self) -> float:
        """The overlap of sets of these sizes drawn independently from what moved, with signs by coin."""
        return _jaccard(self.first * self.second / self.moved / 2 if self.moved else 0.0, self.first, self.second)


def agreement_along(base: Weights, candidates: Sequence[Weights], orders: Sequence[Order]) -> list[Chain]:
    """Unanimity among the first 1, 2, … candidates of each order: one streamed pass for all orders.

    An order is a sequence of distinct candidate positions; its first n are a subset of size n, so random orders give
    random subsets of every size. Raises ParameterError for positions that do not exist, and as `check_alike` does.

    >>> tuned = [{"w": torch.tensor([1.0, -1.0, 0.0])}, {"w": torch.tensor([3.0, 1.0, 0.0])}]
    >>> agreement_along({"w": torch.zeros(3)}, tuned, [[1, 0]])
    [Chain(unanimous=(2, 1), moved=(2, 2))]
    """
    _check(candidates, orders)
    counts = [torch.zeros(2, len(order), dtype=torch.int64) for order in orders]
    for signs, _ in _signs(base, candidates):
        for order, count in zip(orders, counts, strict=True):
            rows = signs[list(order)]
            up, down, still = (_all_so_far(votes) for votes in (rows > 0, rows < 0, rows == 0))
            count += torch.stack([up + down, rows.shape[1] - still])
    return [Chain(tuple(count[0].tolist()), tuple(count[1].tolist())) for count in counts]


def compare_halves(base: Weights, candidates: Sequence[Weights], splits: Sequence[tuple[Order, Order]]) -> list[Halves]:
    """The consensus of each split's two parts side by side: one streamed pass for all splits, sums in float64.

    Raises ParameterError for a part that is empty or holds positions that do not exist, and as `check_alike` does.

    >>> tuned = [{"w": torch.tensor([1.0, -1.0, 2.0])}, {"w": torch.tensor([3.0, 1.0, 2.0])}]
    >>> compare_halves({"w": torch.zeros(3)}, tuned, [([0], [1])])[0].overlap
    0.5
    """
    _check(candidates, [part for split in splits for part in split])
    counts = torch.zeros(len(splits), 5, dtype=torch.int64)
    products = torch.zeros(len(splits), 3, dtype=torch.float64)
    for signs, deltas in _signs(base, candidates):
        moved = int((signs != 0).any(0).sum())
        for number, (first, second) in enumerate(splits):
            (a, left), (b, right) = (_consensus(signs, deltas, part) for part in (first, second))
            both = torch.stack([(a != 0).sum(), (b != 0).sum(), (a * b > 0).sum(), (a * b < 0).sum()])
            counts[number] += torch.cat([both, torch.tensor([moved])])
            products[number] += torch.stack([left @ right, left @ left, right @ right])
    found = []
    for (first_n, second_n, same, opposite, all_moved), (dot, left_2, right_2) in zip(
        counts.tolist(), products.tolist(), strict=True
    ):
        length = (left_2 * right_2) ** 0.5
        found.append(Halves(first_n, second_n, same, opposite, all_moved, dot / length if length else 0.0))
    return found


def _all_so_far(votes: Tensor) -> Tensor:
    """Number of columns in which the first 1, 2, … rows are all true."""
    return votes.cumprod(0, dtype=torch.int8).sum(1)


def _consensus(signs: Tensor, deltas: Tensor, part: Order) -> tuple[Tensor, Tensor]:
    """The sign that all of a part share (0 where they do not), and their mean there in float64."""
    rows = signs[list(part)]
    sign = torch.where((rows == rows[0]).all(0), rows[0], 0)
    mean = divided(deltas[list(part)].double().sum(0), len(part))
    return sign, torch.where(sign != 0, mean, 0.0)


def _signs(base: Weights, candidates: Sequence[Weights]) -> Iterator[tuple[Tensor, Tensor]]:
    """Signs int8 [N, m] and task vectors [N, m] of each chunk in which anything moved."""
    check_alike(base, candidates)
    sources = Sources(base, candidates)
    for name in sources.counted():
        for chunk in sources.chunks(name, SURVEY_CHUNK):
            signs = chunk.rows.sign().char()
            if bool(signs.any()):
                yield signs, chunk.rows


def _check(candidates: Sequence[Weights], parts: Sequence[Order]) -> None:
    for part in parts:
        if not part or len(set(part)) < len(part) or not set(part) <= set(range(len(candidates))):
            raise ParameterError(
                f"{list(part)} is no choice among {len(candidates)} candidates: give distinct positions from 0."
            )


def _jaccard(same: float, first: float, second: float) -> float:
    return same / (first + second - same) if first + second else 0.0
