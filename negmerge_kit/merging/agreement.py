"""Sign agreement: how many candidates move each element the same way, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas, masked, sum_in_parts
from negmerge_kit.merging.layout import check_alike, check_buffers, check_voters
from negmerge_kit.merging.sources import Sources
from negmerge_kit.types import Weights


@dataclass(frozen=True)
class LayerAgreement:
    """The votes of one tensor: `histogram[k]` counts the moved elements whose majority sign has k votes, k = 0…N.

    `elements` counts all, `moved` those that left the base in at least one candidate; an element that did not move
    is in no bin. `square` is |m|², the squared length of the plain average m = Σk τk / N, and `unanimous_square` that
    of its unanimous elements.

    >>> layer = LayerAgreement("w", elements=10, moved=8, histogram=(0, 2, 6), square=4.0, unanimous_square=3.6)
    >>> layer.unanimous, layer.unanimous_fraction, layer.unanimous_of_moved, layer.unanimous_of_length
    (6, 0.6, 0.75, 0.9)
    """

    name: str
    elements: int
    moved: int
    histogram: tuple[int, ...]
    # Not compared: their last digits depend on how the tensor was cut into chunks.
    square: float = field(default=0.0, compare=False)
    unanimous_square: float = field(default=0.0, compare=False)

    @property
    def unanimous(self) -> int:
        """Elements that every candidate moves the same way: what NegMerge keeps."""
        return self.histogram[-1]

    @property
    def unanimous_fraction(self) -> float:
        """unanimous / elements, 0 for an empty tensor."""
        return self.unanimous / self.elements if self.elements else 0.0

    @property
    def unanimous_of_moved(self) -> float:
        """unanimous / moved, 0 where nothing moved: the share to hold against `chance`."""
        return self.unanimous / self.moved if self.moved else 0.0

    @property
    def unanimous_of_length(self) -> float:
        """unanimous_square / square, 0 for a plain average of zero, NaN where a candidate holds NaN."""
        return self.unanimous_square / self.square if self.square else 0.0


def sign_agreement(
    base: Weights,
    candidates: Sequence[Weights],
    *,
    device: str | torch.device = "cpu",
    buffers: str = "keep",
    ignore: Sequence[str] = (),
) -> Iterator[LayerAgreement]:
    """The agreement of each counted tensor: floating entries, without running statistics unless `buffers="merge"`.

    sign(0) = 0, as in the authors' code (https://arxiv.org/abs/2410.05583). Raises ParameterError for no candidates,
    MismatchError for candidates that do not hold the base's tensors.

    >>> tuned = [{"w": torch.tensor([1.0, -1.0, 0.0])}, {"w": torch.tensor([3.0, 1.0, 0.0])}]
    >>> list(sign_agreement({"w": torch.zeros(3)}, tuned))
    [LayerAgreement(name='w', elements=3, moved=2, histogram=(0, 1, 1), square=4.0, unanimous_square=4.0)]
    """
    check_alike(base, candidates, ignore=ignore)
    check_voters(candidates)
    sources = Sources(base, candidates, device=device, buffers=check_buffers(buffers), ignore=ignore)
    return (_layer(sources, name) for name in sources.counted())


def total(layers: Iterable[LayerAgreement]) -> LayerAgreement:
    """All layers as one, named "all".

    >>> total([LayerAgreement("a", 3, 2, (0, 1, 1), 3.0, 2.0), LayerAgreement("b", 1, 1, (0, 0, 1), 1.0, 1.0)])
    LayerAgreement(name='all', elements=4, moved=3, histogram=(0, 1, 2), square=4.0, unanimous_square=3.0)
    """
    layers = list(layers)
    columns = zip(*(layer.histogram for layer in layers), strict=True)
    return LayerAgreement(
        "all",
        sum(layer.elements for layer in layers),
        sum(layer.moved for layer in layers),
        tuple(sum(column) for column in columns) or (0,),
        sum(layer.square for layer in layers),
        sum(layer.unanimous_square for layer in layers),
    )


def majority_votes(deltas: Deltas) -> Tensor:
    """Votes of each element's majority sign, 0 where no candidate moved it.

    >>> majority_votes(Deltas(torch.zeros(2), [torch.tensor([1.0, 0.0]), torch.tensor([2.0, -1.0])]))
    tensor([2, 1], dtype=torch.int16)
    """
    up = torch.zeros(deltas.base.shape, dtype=torch.int16, device=deltas.base.device)
    down = torch.zeros_like(up)
    for delta in deltas:
        up += delta > 0
        down += delta < 0
    return torch.maximum(up, down)


class VoteCounter:
    """The votes of one tensor, added up chunk by chunk.

    >>> counter = VoteCounter("w", 2)
    >>> counter.add(Deltas(torch.zeros(2), [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])]))
    >>> counter.layer(2)
    LayerAgreement(name='w', elements=2, moved=2, histogram=(0, 1, 1), square=4.0, unanimous_square=4.0)
    """

    def __init__(self, name: str, candidates: int) -> None:
        self._name, self._n = name, candidates
        self._histogram = torch.zeros(candidates + 1, dtype=torch.int64)
        self._squares = torch.zeros(2, dtype=torch.float64)

    def add(self, deltas: Deltas) -> None:
        """Count a chunk."""
        votes = majority_votes(deltas)
        self._histogram += torch.bincount(votes.to(torch.int64), minlength=self._n + 1).cpu()
        squares = deltas.mean().square_()
        whole = sum_in_parts(squares)
        self._squares += torch.stack([whole, sum_in_parts(masked(squares, (votes == self._n).to(squares.dtype)))]).cpu()

    def layer(self, elements: int) -> LayerAgreement:
        """What was counted in a tensor of so many elements."""
        _, *counts = self._histogram.tolist()  # what did not move has no majority
        return LayerAgreement(self._name, elements, sum(counts), (0, *counts), *self._squares.tolist())


def _layer(sources: Sources, name: str) -> LayerAgreement:
    counter = VoteCounter(name, len(sources.candidates))
    for deltas in sources.chunks(name, sources.chunk):
        counter.add(deltas)
    return counter.layer(prod(sources.layout[name][0]))
