"""Controls to compare consensus with: its opposite, a random choice and the largest moves."""

from __future__ import annotations

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.hashing import random_codes
from negmerge_kit.merging.kth_value import code_bits, kth_smallest, magnitude_codes
from negmerge_kit.merging.rule import Rule, Settings
from negmerge_kit.merging.rules.dare import SEED
from negmerge_kit.merging.rules.negmerge import AGREEMENT, consensus

STEP = 1 << 20
"""Elements that a pass over a finished tensor looks at together."""


def conflicting(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """The mean where NegMerge has zero, and zero where NegMerge keeps; with one candidate nothing is left.

    >>> chunk = Deltas(torch.zeros(2), [torch.tensor([1.0, -1.0]), torch.tensor([3.0, 2.0])])
    >>> conflicting(chunk, {"agreement": 1.0}, None)
    tensor([0.0000, 0.5000])
    """
    mean = deltas.mean()
    return torch.where(consensus(deltas, settings["agreement"]) == 0, mean, torch.zeros_like(mean))


def mean(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """The plain mean, of which `finish` keeps a part."""
    return deltas.mean()


def quota(deltas: Deltas, settings: Settings) -> Tensor:
    """How many elements of this chunk NegMerge keeps at the same agreement."""
    return consensus(deltas, settings["agreement"]).count_nonzero()


def keep_random(merged: Tensor, wanted: int, name: str, settings: Settings) -> Tensor:
    """Zero all but `wanted` elements, drawn at random among those that are not zero already."""
    if wanted == 0:
        return merged.zero_()

    def codes(start: int) -> Tensor:
        piece = merged[start : start + STEP]
        index = torch.arange(start, start + piece.numel(), device=piece.device)
        drawn = random_codes(settings["seed"], name, index)
        return torch.where(piece == 0, torch.full_like(drawn, 1 << 32), drawn)

    starts = range(0, merged.numel(), STEP)
    limit = kth_smallest(lambda: ((codes(start),) for start in starts), [wanted], 33)[0]
    for start in starts:
        merged[start : start + STEP].masked_fill_(codes(start) > limit, 0)
    return merged


def keep_largest(merged: Tensor, wanted: int, name: str, settings: Settings) -> Tensor:
    """Zero all but the `wanted` elements of largest magnitude; among equals the first ones stay."""
    if wanted == 0:
        return merged.zero_()
    wide = merged.dtype is torch.float64

    def codes(start: int) -> Tensor:
        return magnitude_codes(merged[start : start + STEP], wide=wide)

    starts = range(0, merged.numel(), STEP)
    rank = merged.numel() - wanted + 1
    limit = kth_smallest(lambda: ((codes(start),) for start in starts), [rank], code_bits(wide))[0]
    equals = wanted - sum(int((codes(start) > limit).sum()) for start in starts)
    for start in starts:
        found = codes(start)
        tied = found == limit
        keep = (found > limit) | (tied & (tied.cumsum(0) <= equals))
        equals -= int((tied & keep).sum())
        merged[start : start + STEP].masked_fill_(~keep, 0)
    return merged


CONFLICT = Rule(
    name="conflict",
    title="Control: conflict only",
    paper="https://arxiv.org/abs/2410.05583",
    explains="The opposite of NegMerge: the mean only where the candidates disagree.",
    parameters=(AGREEMENT,),
    combine=conflicting,
    control=True,
)
RANDOM_MASK = Rule(
    name="random-mask",
    title="Control: random mask",
    paper="https://arxiv.org/abs/2410.05583",
    explains="The mean on a random choice of weights, as many in each tensor as NegMerge keeps.",
    parameters=(AGREEMENT, SEED),
    combine=mean,
    quota=quota,
    finish=keep_random,
    control=True,
)
TOP_MAGNITUDE = Rule(
    name="top-magnitude",
    title="Control: largest moves",
    paper="https://arxiv.org/abs/2410.05583",
    explains="The mean on the weights that move farthest, as many in each tensor as NegMerge keeps.",
    parameters=(AGREEMENT,),
    combine=mean,
    quota=quota,
    finish=keep_largest,
    control=True,
)
