"""DARE: drop at random and rescale (arXiv:2311.03099)."""

from __future__ import annotations

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas, divided
from negmerge_kit.merging.hashing import value_codes
from negmerge_kit.merging.rule import Parameter, Rule, Settings

SEED = Parameter(
    "seed",
    "Seed",
    "Another seed draws another random choice; the same seed always draws the same.",
    0,
    "int",
    low=0,
    high=2**31 - 1,
    step=1,
)


def combine(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """Mean of the τk after each lost a share `drop` of its elements and the rest was divided by 1 - drop.

    The draw of an element depends on seed, tensor name, place and value, never on chunk, device or candidate order.

    >>> chunk = Deltas(torch.zeros(1000), [torch.ones(1000)])
    >>> combine(chunk, {"drop": 0.5, "seed": 0}, None).unique()
    tensor([0., 2.])
    """
    index = torch.arange(deltas.start, deltas.start + deltas.base.numel(), device=deltas.base.device)
    limit = round(settings["drop"] * 2**32)
    total: Tensor | None = None
    for delta in deltas:
        survives = value_codes(settings["seed"], deltas.name, index, delta) >= limit
        kept = torch.where(survives, delta, torch.zeros_like(delta))
        total = kept if total is None else total + kept
    mean = divided(deltas.total if total is None else total, len(deltas))
    return mean / torch.full((), 1.0 - settings["drop"], dtype=mean.dtype, device=mean.device)


DARE = Rule(
    name="dare",
    title="DARE (random drop)",
    paper="https://arxiv.org/abs/2311.03099",
    explains="Drops a random share of every candidate's moves, enlarges the rest to make up for it, and averages.",
    caution="Drop 0.5 is a library's default for adding different tasks, not for negating one.",
    parameters=(
        Parameter(
            "drop",
            "Drop",
            "Share of each candidate's elements that are dropped at random.",
            0.5,
            "float",
            low=0.0,
            high=0.99,
            step=0.05,
        ),
        SEED,
    ),
    combine=combine,
)
