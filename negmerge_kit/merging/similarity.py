"""Similarity of candidates: cosines of their task vectors, and a warning where a merge has nothing to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from negmerge_kit.merging.agreement import LayerAgreement, VoteCounter, total
from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.health import health
from negmerge_kit.merging.layout import check_alike, check_buffers
from negmerge_kit.merging.signs import chance
from negmerge_kit.merging.sources import Sources
from negmerge_kit.types import Json, Weights

DUPLICATE = 0.999
"""Cosine above which two candidates count as one."""
MOSTLY_ZERO = 0.95
"""Share of the moved elements that may fall away before the pool is called too uneven."""


@dataclass(frozen=True)
class Likeness:
    """One tensor's votes and the candidates' inner products there: `products[i][j]` = τi · τj, in float64.

    `moves[i]` counts the elements that candidate i moved. Tensors add up, element for element.
    """

    agreement: LayerAgreement
    products: tuple[tuple[float, ...], ...]
    moves: tuple[int, ...]

    @property
    def cosines(self) -> tuple[tuple[float, ...], ...]:
        """τi · τj / (|τi| |τj|), 0 for a candidate that did not move.

        >>> Likeness(LayerAgreement("w", 2, 2, (0, 0, 2)), ((4.0, 2.0), (2.0, 4.0)), (2, 2)).cosines
        ((1.0, 0.5), (0.5, 1.0))
        """
        lengths = [row[i] ** 0.5 for i, row in enumerate(self.products)]
        return tuple(
            tuple(x / (a * b) if a and b else 0.0 for x, b in zip(row, lengths, strict=True))
            for row, a in zip(self.products, lengths, strict=True)
        )


def likeness(
    base: Weights, candidates: Sequence[Weights], *, device: str | torch.device = "cpu", buffers: str = "keep"
) -> Iterator[Likeness]:
    """Agreement and inner products of each counted tensor, in one streamed pass. Raises as `sign_agreement` does.

    >>> tuned = [{"w": torch.tensor([1.0, -1.0])}, {"w": torch.tensor([3.0, 1.0])}]
    >>> [layer.products for layer in likeness({"w": torch.zeros(2)}, tuned)]
    [((2.0, 2.0), (2.0, 10.0))]
    """
    check_alike(base, candidates)
    sources = Sources(base, candidates, device=device, buffers=check_buffers(buffers))
    return (_layer(sources, name) for name in sources.counted())


def inner_products(
    base: Weights, candidates: Sequence[Weights], *, device: str | torch.device = "cpu"
) -> list[list[float]]:
    """`pooled(likeness(...)).products` without counting votes, which takes most of its time.

    >>> tuned = [{"w": torch.tensor([1.0, -1.0])}, {"w": torch.tensor([3.0, 1.0])}]
    >>> inner_products({"w": torch.zeros(2)}, tuned)
    [[2.0, 2.0], [2.0, 10.0]]
    """
    check_alike(base, candidates)
    sources = Sources(base, candidates, device=device)
    gram = torch.zeros(len(candidates), len(candidates), dtype=torch.float64)
    for name in sources.counted():
        for deltas in _chunks(sources, name):
            gram += _gram(deltas.rows)
    found: list[list[float]] = gram.tolist()
    return found


def pooled(layers: Iterable[Likeness]) -> Likeness:
    """All layers as one; their agreement is named "all"."""
    layers = list(layers)
    return Likeness(
        total(layer.agreement for layer in layers),
        tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*(x.products for x in layers), strict=True)),
        tuple(map(sum, zip(*(layer.moves for layer in layers), strict=True))),
    )


@dataclass(frozen=True)
class PoolCheck:
    """Pairwise cosines, share of elements that each candidate moved, agreement over all, and causes for doubt.

    `cosines[i][j]` is τi · τj / (|τi| |τj|), 0 for a candidate that did not move.
    """

    cosines: tuple[tuple[float, ...], ...]
    moved_fraction: tuple[float, ...]
    agreement: LayerAgreement
    warnings: tuple[str, ...]

    def as_json(self) -> Json:
        """Plain values, as a verb prints them."""
        return {
            "cosines": [list(row) for row in self.cosines],
            "moved_fraction": list(self.moved_fraction),
            "unanimous_fraction": self.agreement.unanimous_fraction,
            "unanimous_of_moved": self.agreement.unanimous_of_moved,
            "chance": chance(len(self.moved_fraction)),
            "histogram": list(self.agreement.histogram),
            "warnings": list(self.warnings),
        }


def check_pool(
    base: Weights,
    candidates: Sequence[Weights],
    *,
    names: Sequence[str] = (),
    base_hashes: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> PoolCheck:
    """Check candidates before they are merged: one streamed pass, sums in float64.

    Warns of near-duplicates, of odd candidates (see `health`), of a merge that would be zero in more than 95 % of the
    moved elements, and, when each candidate's record of its base is given as `base_hashes`, of candidates of different
    bases. Raises as `sign_agreement` does.

    >>> base = {"w": torch.zeros(4)}
    >>> tuned = [{"w": torch.tensor([1.0, 2.0, 0.0, 1.0])}, {"w": torch.tensor([2.0, 4.0, 0.0, 2.0])}]
    >>> check_pool(base, tuned, names=["a", "b"]).warnings
    ('a and b are near-duplicates (cosine 1.0000): vary their hyperparameters more.',)
    """
    found = pooled(likeness(base, candidates, device=device))
    agreement, cosines = found.agreement, found.cosines
    shares = tuple(moves / max(agreement.elements, 1) for moves in found.moves)
    labels = list(names) or [f"candidate {number}" for number in range(1, len(candidates) + 1)]
    return PoolCheck(cosines, shares, agreement, tuple(_doubts(labels, found, base_hashes)))


def _chunks(sources: Sources, name: str) -> Iterator[Deltas]:
    """Long chunks of a long tensor: a matrix product of long rows is faster."""
    # Another size would change the sums in their last digit.
    return sources.chunks(name, 1 << 21 if prod(sources.layout[name][0]) >= 1 << 20 else None)


def _gram(rows: Tensor) -> Tensor:
    """The rows' inner products, [n, n] float64 on the CPU; Apple's GPUs have no float64, and multiply in float32."""
    if not rows.any():
        return torch.zeros(len(rows), len(rows), dtype=torch.float64)
    rows = rows if rows.device.type == "mps" else rows.to(torch.float64)
    return (rows @ rows.T).cpu().to(torch.float64)


def _layer(sources: Sources, name: str) -> Likeness:
    n = len(sources.candidates)
    gram = torch.zeros(n, n, dtype=torch.float64)
    moves = torch.zeros(n, dtype=torch.int64)
    counter = VoteCounter(name, n)
    for deltas in _chunks(sources, name):
        gram += _gram(deltas.rows)
        moves += (deltas.rows != 0).sum(1).cpu()
        counter.add(deltas)
    agreement = counter.layer(prod(sources.layout[name][0]))
    return Likeness(agreement, tuple(map(tuple, gram.tolist())), tuple(moves.tolist()))


def _doubts(names: Sequence[str], found: Likeness, base_hashes: Sequence[str]) -> list[str]:
    doubts, cosines, agreement = [], found.cosines, found.agreement
    if len(set(base_hashes)) > 1:
        doubts.append("candidates were fine-tuned from different bases: merge only those of one base.")
    doubts += [
        f"{names[i]} and {names[j]} are near-duplicates (cosine {cosines[i][j]:.4f}): vary their hyperparameters more."
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if cosines[i][j] > DUPLICATE
    ]
    doubts += [row.sentence(name) for name, row in zip(names, health(found.products), strict=True) if row.is_odd]
    zeros = 1 - agreement.unanimous_of_moved
    if agreement.moved and zeros > MOSTLY_ZERO:
        doubts.append(
            f"{100 * zeros:.1f} % of the moved elements would become zero: use fewer candidates or less agreement."
        )
    return doubts
