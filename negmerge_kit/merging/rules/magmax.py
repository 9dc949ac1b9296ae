"""MagMax: the value of largest magnitude (arXiv:2407.06322)."""

from __future__ import annotations

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.rule import Rule, Settings


def combine(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """The τk with the largest |τk|; on a tie the later candidate, as in the authors' code.

    >>> combine(Deltas(torch.zeros(2), [torch.tensor([1.0, -3.0]), torch.tensor([-1.0, 2.0])]), {}, None)
    tensor([-1., -3.])
    """
    best = deltas[0]
    for position in range(1, len(deltas)):
        delta = deltas[position]
        best = torch.where(delta.abs() >= best.abs(), delta, best)
    return best


MAGMAX = Rule(
    name="magmax",
    title="MagMax",
    paper="https://arxiv.org/abs/2407.06322",
    explains="Takes, for every weight, the candidate that moved it farthest.",
    parameters=(),
    combine=combine,
)
