"""Model Breadcrumbs: drop each tensor's outliers and its smallest moves (arXiv:2312.06795)."""

from __future__ import annotations

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas, divided
from negmerge_kit.merging.kth_value import code_bits, kth_smallest, magnitude_codes, magnitude_of
from negmerge_kit.merging.rule import Parameter, Rule, Settings, Stream
from negmerge_kit.merging.rules.ties import TRIM_OVER, trimmed_from


def measure(stream: Stream, settings: Settings) -> list[tuple[float, float]]:
    """The smallest and the largest magnitude that each candidate keeps in this tensor.

    Of the tensor's m elements that `trimmed_from` counts, ⌊gamma · m⌋ fall at the top and enough at the bottom that
    max(1, ⌊density · m⌋) stay: a tensor of a few elements never vanishes. Ties at either bound stay.
    """
    total, wide, n = stream.elements, stream.wide, stream.candidates
    if total == 0:
        return []
    counted = trimmed_from(stream, settings)
    kept = max(1, int(settings["density"] * counted))
    top = max(0, min(int(settings["gamma"] * counted), counted - kept))
    bottom = total - kept - top
    ranks = [bottom + 1] * n + [total - top] * n
    codes = kth_smallest(
        lambda: (_twice([magnitude_codes(delta, wide=wide) for delta in deltas]) for deltas in stream()),
        ranks,
        code_bits(wide),
    )
    bounds = [magnitude_of(code, wide=wide) for code in codes]
    return list(zip(bounds[:n], bounds[n:], strict=True))


def combine(deltas: Deltas, settings: Settings, survey: list[tuple[float, float]]) -> Tensor:
    """The mean of the candidates, each without its outliers and its smallest moves.

    >>> chunk = Deltas(torch.zeros(3), [torch.tensor([1.0, -9.0, 0.1])])
    >>> combine(chunk, {}, [(0.5, 2.0)])
    tensor([1., 0., 0.])
    """
    total: Tensor | None = None
    for delta, (low, high) in zip(deltas, survey, strict=True):
        magnitude = delta.abs()
        kept = torch.where((magnitude >= low) & (magnitude <= high), delta, torch.zeros_like(delta))
        total = kept if total is None else total + kept
    return divided(deltas.total if total is None else total, len(deltas))


def _twice(codes: list[Tensor]) -> list[Tensor]:
    return codes + codes


BREADCRUMBS = Rule(
    name="breadcrumbs",
    title="Model Breadcrumbs",
    paper="https://arxiv.org/abs/2312.06795",
    explains="Drops, tensor by tensor, each candidate's few largest and many smallest moves, and averages the rest.",
    caution="Density 0.85 and outliers 0.01 were chosen for adding different tasks, not for negating one.",
    parameters=(
        Parameter(
            "density",
            "Density",
            "Share of each tensor's elements that every candidate keeps.",
            0.85,
            "float",
            low=0.0,
            high=1.0,
            step=0.05,
            low_open=True,
        ),
        Parameter(
            "gamma",
            "Outliers",
            "Share of each tensor's elements dropped as too large.",
            0.01,
            "float",
            low=0.0,
            high=0.5,
            step=0.01,
        ),
        TRIM_OVER,
    ),
    combine=combine,
    measure=measure,
)
