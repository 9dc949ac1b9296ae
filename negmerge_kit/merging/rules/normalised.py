"""Normalised mean: every task vector brought to the median length before they are averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas, divided, sum_in_parts
from negmerge_kit.merging.rule import Rule, Settings, Stream


def survey(stream: Stream, settings: Settings) -> list[float]:
    """The factor of each candidate: the median of all lengths ‖τk‖ above 0, by its own; 1 for one that did not move."""
    squares = torch.zeros(stream.candidates, dtype=torch.float64)
    for deltas in stream():
        squares += torch.stack([sum_in_parts(delta.double().square()) for delta in deltas]).cpu()
    lengths = squares.sqrt()
    moved = lengths[lengths > 0]
    if not len(moved):
        return [1.0] * stream.candidates
    median = float(moved.quantile(0.5))
    return [median / length if length else 1.0 for length in lengths.tolist()]


def combine(deltas: Deltas, settings: Settings, survey: list[float]) -> Tensor:
    """Σk fk τk / N, with each candidate's factor fk.

    >>> combine(Deltas(torch.zeros(1), [torch.tensor([1.0]), torch.tensor([9.0])]), {}, [5.0, 1.0])
    tensor([7.])
    """
    total = deltas[0] * survey[0]
    for delta, factor in zip(list(deltas)[1:], survey[1:], strict=True):
        total = total + delta * factor
    return divided(total, len(deltas))


NORMALISED = Rule(
    name="normalised",
    title="Normalised mean",
    paper="https://arxiv.org/abs/2203.05482",
    explains="Brings every candidate's move to the median length, then averages: none outweighs the others.",
    caution="A control of ours: the plain average of the paper that is linked, of vectors of one length.",
    parameters=(),
    combine=combine,
    survey=survey,
    control=True,
)
