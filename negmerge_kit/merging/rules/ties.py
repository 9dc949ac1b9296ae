"""TIES-Merging: trim each task vector, elect a sign, average what agrees (arXiv:2306.01708)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.kth_value import code_bits, kth_smallest, magnitude_codes, magnitude_of
from negmerge_kit.merging.rule import Parameter, Rule, Settings, Stream

TRIM_OVER = Parameter(
    "trim_over",
    "Trim over",
    "What density is a share of: the elements that moved in at least one candidate, or all, frozen ones too.",
    "moved",
    "choice",
    choices=("moved", "all"),
    unrecorded="all",
)
"""The authors trim over all elements of models that train whole. Where much stays frozen, as in a CLIP whose text tower
and attention do, a fifth of all may be more than ever moved, and such a trim trims nothing."""


def trimmed_from(stream: Stream, settings: Settings) -> int:
    """How many of the stream's elements `density` is a share of, the same number for every candidate.

    An element that moved in one candidate counts for all: a zero next to a move is a value that was voted for, and
    candidates that moved differently many elements keep equally many.
    """
    if settings["trim_over"] == "all":
        return stream.elements
    return sum(int(deltas.moved().sum()) for deltas in stream())


@dataclass(frozen=True)
class Survey:
    """Whole-model statistics of TIES: each candidate's threshold, and the majority of the elected signs."""

    thresholds: tuple[float, ...]
    majority: float = 0.0


def survey(stream: Stream, settings: Settings) -> Survey:
    """Exact thresholds over the whole model: |τ| of rank d - ⌊m · density⌋ among d elements, and all from there kept.

    m elements are what `trimmed_from` counts, so that m = d is the authors' trim, with the one element more that their
    rank keeps. They sort one concatenated vector; here digits are counted in streamed passes. Density 1 trims nothing.
    """
    total, wide, n = stream.elements, stream.wide, stream.candidates
    rank = total - int(trimmed_from(stream, settings) * settings["density"])
    if rank < 1:
        thresholds = (0.0,) * n
    else:
        codes = kth_smallest(
            lambda: ([magnitude_codes(delta, wide=wide) for delta in deltas] for deltas in stream()),
            [rank] * n,
            code_bits(wide),
        )
        thresholds = tuple(magnitude_of(code, wide=wide) for code in codes)
    found = Survey(thresholds)
    signs = sum(int(torch.sign(_trimmed_total(deltas, found)).sum()) for deltas in stream())
    return Survey(thresholds, float((signs > 0) - (signs < 0)))


def combine(deltas: Deltas, settings: Settings, survey: Survey) -> Tensor:
    """The disjoint mean: of the trimmed values on the elected sign, the mean over those that are there.

    The elected sign is the sign of the trimmed sum; where that is exactly zero, the majority of all elected signs.

    >>> moves = [torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.5]), torch.tensor([-1.0, -2.0])]
    >>> combine(Deltas(torch.zeros(2), moves), {}, Survey((1.0, 1.0, 1.0)))
    tensor([ 2.0000, -1.5000])
    """
    elected = torch.sign(_trimmed_total(deltas, survey))
    elected = torch.where(elected == 0, torch.full_like(elected, survey.majority), elected)
    total = torch.zeros_like(elected)
    votes = torch.zeros_like(elected)
    for delta, threshold in zip(deltas, survey.thresholds, strict=True):
        agrees = (delta.abs() >= threshold) & (delta * elected > 0)
        total = total + torch.where(agrees, delta, torch.zeros_like(delta))
        votes = votes + agrees.to(votes.dtype)
    return total / votes.clamp(min=1)


def _trimmed_total(deltas: Deltas, survey: Survey) -> Tensor:
    total: Tensor | None = None
    for delta, threshold in zip(deltas, survey.thresholds, strict=True):
        kept = torch.where(delta.abs() >= threshold, delta, torch.zeros_like(delta))
        total = kept if total is None else total + kept
    return deltas.total if total is None else total


TIES = Rule(
    name="ties",
    title="TIES-Merging",
    paper="https://arxiv.org/abs/2306.01708",
    explains="Trims each candidate to its largest moves over the whole model, elects a sign by their sum, and averages "
    "the moves that have it.",
    caution="Density 0.2 was chosen for adding different tasks, not for negating one.",
    parameters=(
        Parameter(
            "density",
            "Density",
            "Share of each candidate's elements that survive the trim.",
            0.2,
            "float",
            low=0.0,
            high=1.0,
            step=0.05,
            low_open=True,
        ),
        TRIM_OVER,
    ),
    combine=combine,
    survey=survey,
)
