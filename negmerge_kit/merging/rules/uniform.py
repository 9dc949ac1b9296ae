"""Uniform: the plain mean of the task vectors (Model soups, arXiv:2203.05482)."""

from __future__ import annotations

from torch import Tensor

from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.rule import Rule, Settings


def combine(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """Σk τk / N.

    >>> import torch
    >>> combine(Deltas(torch.zeros(2), [torch.tensor([1.0, -1.0]), torch.tensor([3.0, 1.0])]), {}, None)
    tensor([2., 0.])
    """
    return deltas.mean()


UNIFORM = Rule(
    name="uniform",
    title="Uniform average",
    paper="https://arxiv.org/abs/2203.05482",
    explains="Averages every candidate everywhere, agreeing or not.",
    parameters=(),
    combine=combine,
)
