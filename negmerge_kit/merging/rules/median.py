"""Median: the middle of the task vectors at each weight, with no regard to signs (Yin et al., arXiv:1803.01498)."""

from __future__ import annotations

from torch import Tensor

from negmerge_kit.merging.deltas import Deltas, divided
from negmerge_kit.merging.rule import Rule, Settings


def combine(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """The coordinate-wise median of τk; of an even number of candidates, the mean of the two in the middle.

    >>> import torch
    >>> combine(Deltas(torch.zeros(2), [torch.tensor([1.0, -1.0]), torch.tensor([9.0, 1.0]), torch.ones(2)]), {}, None)
    tensor([1., 1.])
    """
    ordered = deltas.rows.sort(0).values
    return divided(ordered[(len(deltas) - 1) // 2] + ordered[len(deltas) // 2], 2)


MEDIAN = Rule(
    name="median",
    title="Median",
    paper="https://arxiv.org/abs/1803.01498",
    explains="Takes the middle of the candidates at each weight: what one of them does alone counts for nothing.",
    parameters=(),
    combine=combine,
    control=True,
)
