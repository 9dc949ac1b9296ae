"""Sign agreement: how many candidates move each element the same way, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.layout import check_alike, check_buffers, check_voters
from negmerge_kit.merging.sources import Sources
from negmerge_kit.types import Weights


@dataclass(frozen=True)
class LayerAgreement:
    """The votes of one tensor: `histogram[k]` counts the moved elements whose majority sign has k votes, k = 0…N.

    `elements` counts all, `moved` those that left the base in at least one candidate; an element that did not move
    is in no bin.

    >>> layer = LayerAgreement("w", elements=10, moved=8, histogram=(0, 2, 6))
    >>> layer.unanimous, layer.unanimous_fraction, layer.unanimous_of_moved
    (6, 0.6, 0.75)
    """

    name: str
    elements: int
    moved: int
    histogram: tuple[int, ...]

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
    [LayerAgreement(name='w', elements=3, moved=2, histogram=(0, 1, 1))]
    """
    check_alike(base, candidates, ignore=ignore)
    check_voters(candidates)
    sources = Sources(base, candidates, device=device, buffers=check_buffers(buffers), ignore=ignore)
    return (_layer(sources, name) for name in sources.counted())


def total(layers: Iterable[LayerAgreement]) -> LayerAgreement:
    """All layers as one, named "all".

    >>> total([LayerAgreement("a", 3, 2, (0, 1, 1)), LayerAgreement("b", 1, 1, (0, 0, 1))])
    LayerAgreement(name='all', elements=4, moved=3, histogram=(0, 1, 2))
    """
    layers = list(layers)
    columns = zip(*(layer.histogram for layer in layers), strict=True)
    return LayerAgreement(
        "all",
        sum(layer.elements for layer in layers),
        sum(layer.moved for layer in layers),
        tuple(sum(column) for column in columns) or (0,),
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


def _layer(sources: Sources, name: str) -> LayerAgreement:
    n = len(sources.candidates)
    histogram = torch.zeros(n + 1, dtype=torch.int64)
    for deltas in sources.chunks(name, sources.chunk):
        histogram += torch.bincount(majority_votes(deltas).to(torch.int64), minlength=n + 1).cpu()
    histogram[0] = 0  # what did not move has no majority
    counts = tuple(int(count) for count in histogram)
    return LayerAgreement(name, prod(sources.layout[name][0]), sum(counts), counts)
