"""Consensus of TALL masks: keep what matters to several candidates (arXiv:2405.07813)."""

from __future__ import annotations

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.rule import Parameter, Rule, Settings


def combine(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """The mean where at least `k` candidates have |τk| > lam · |Σ τ - τk|, zero elsewhere.

    The paper takes the sum; all rules here give a mean, so that one grid of scales serves all. With fewer than `k`
    candidates all of them must agree. The paper searches `lam` in 0.2 to 0.6 for each task; candidates of one task
    point the same way, so that all others together move an element farther than different tasks do, and a
    smaller value belongs in the search.

    >>> chunk = Deltas(torch.zeros(2), [torch.tensor([1.0, 4.0]), torch.tensor([1.0, 0.1])])
    >>> combine(chunk, {"lam": 0.4, "k": 2}, None)
    tensor([1., 0.])
    """
    votes = torch.zeros_like(deltas.total, dtype=torch.int32)
    for delta in deltas:
        votes += delta.abs() > (deltas.total - delta).abs() * settings["lam"]
    return torch.where(votes >= min(settings["k"], len(deltas)), deltas.mean(), torch.zeros_like(deltas.total))


CONSENSUS_MASK = Rule(
    name="consensus-mask",
    title="Consensus of TALL masks",
    paper="https://arxiv.org/abs/2405.07813",
    explains="Keeps the mean where a weight matters to at least k candidates, next to what the others do to it.",
    caution="Votes 2 was chosen for adding different tasks; the paper searches the threshold for each task.",
    parameters=(
        Parameter(
            "lam",
            "Mask threshold",
            "How large a candidate's move must be, as a share of what all others do.",
            0.4,
            "float",
            low=0.0,
            high=2.0,
            step=0.05,
            tries=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        ),
        Parameter(
            "k", "Votes", "How many candidates must find the weight important.", 2, "int", low=1, high=100, step=1
        ),
    ),
    combine=combine,
)
