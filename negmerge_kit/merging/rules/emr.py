"""EMR-Merging's unified vector: elect a sign, take the largest move on it, rescale (arXiv:2405.17461)."""

from __future__ import annotations

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas, sum_in_parts
from negmerge_kit.merging.rule import Rule, Settings, Stream


def survey(stream: Stream, settings: Settings) -> float:
    """The mean of the candidates' rescales: Σ over tensors of mean|τk|, over the same sum of mean|unified · mask k|.

    A candidate's mask is where it moves with the unified vector. Sums are in float64. A candidate without any such
    element has the rescale 1.
    """
    own: dict[str, Tensor] = {}
    unified_sums: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for deltas in stream():
        unified = unify(deltas)
        mine = torch.stack([sum_in_parts(delta.abs()) for delta in deltas]).cpu()
        masks = (torch.where(delta * unified > 0, unified, torch.zeros_like(unified)) for delta in deltas)
        theirs = torch.stack([sum_in_parts(masked.abs()) for masked in masks]).cpu()
        own[deltas.name] = own.get(deltas.name, 0) + mine
        unified_sums[deltas.name] = unified_sums.get(deltas.name, 0) + theirs
        sizes[deltas.name] = sizes.get(deltas.name, 0) + deltas.base.numel()
    if not own:
        return 1.0
    above = torch.stack([own[name] / size for name, size in sizes.items()]).sum(0)
    below = torch.stack([unified_sums[name] / size for name, size in sizes.items()]).sum(0)
    return float(torch.where(below > 0, above / below, torch.ones_like(above)).mean())


def unify(deltas: Deltas) -> Tensor:
    """The elected sign times the largest magnitude on it; a balanced sum elects minus, as in the authors' code.

    >>> unify(Deltas(torch.zeros(2), [torch.tensor([3.0, -1.0]), torch.tensor([-1.0, 1.0])]))
    tensor([ 3., -1.])
    """
    elected = torch.where(deltas.total > 0, 1.0, -1.0).to(deltas.dtype)
    largest = torch.zeros_like(elected)
    for delta in deltas:
        largest = torch.maximum(largest, delta * elected)
    return (largest + 0.0) * elected  # of 0 and -0, which one `maximum` gives depends on an element's place


def combine(deltas: Deltas, settings: Settings, survey: float) -> Tensor:
    """The unified vector times the mean rescale, so that it is as long as a candidate's own vector on average."""
    return unify(deltas) * survey


EMR = Rule(
    name="emr",
    title="EMR-Merging (unified vector)",
    paper="https://arxiv.org/abs/2405.17461",
    explains="Elects a sign by the sum, takes the largest move that has it, and rescales to the candidates' own size.",
    caution="Made for adding different tasks, each with a mask and a rescale of its own; here it is one vector and "
    "their mean rescale.",
    parameters=(),
    combine=combine,
    survey=survey,
)
