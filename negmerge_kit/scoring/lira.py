"""The likelihood ratio attack: is the model's confidence that of models that saw the image, or of those that did not?

The online attack of Carlini et al. 2022 (https://arxiv.org/abs/2112.03570, algorithm 1): for every image a Gaussian
over the confidences of shadow models trained with it, and one over those trained without it. The paper's advice for few
shadow models is followed: one variance a side for all images. It asks the unlearned model only; shadow models that
were themselves unlearned (U-LiRA, Hayes et al. 2024, https://arxiv.org/abs/2403.01218) would make a stronger attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring.intervals import area_interval

LEAST_SPREAD = 1e-3
"""Smallest standard deviation: shadow models that all agree must not make a ratio infinite."""


def scaled_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of the true class's probability, [n] float64: z_y - log Σ_{i≠y} exp z_i, which never overflows.

    Raises:
        ParameterError: for logits that are not finite [n, C] with C > 1; score a model with two classes or more.

    >>> scaled_confidence(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).tolist()
    [2.0]
    """
    rows = logits.detach().double().cpu()
    if rows.ndim != 2 or rows.shape[1] < 2 or not bool(torch.isfinite(rows).all()):
        raise ParameterError(f"logits {list(rows.shape)} have no ratio of confidences: give finite ones of 2+ classes.")
    place = labels.cpu()[:, None]
    others = rows.scatter(1, place, -torch.inf)
    return rows.gather(1, place).flatten() - others.logsumexp(1)


def log_ratios(confidence: Tensor, shadows: Tensor, inside: Tensor) -> Tensor:
    """log p(φ | trained on it) - log p(φ | not trained on it) for every image, [n].

    Args:
        confidence: the asked model's scaled confidences, [n].
        shadows: the shadow models', [K, n].
        inside: which image each shadow model was trained on, bool [K, n].

    Raises:
        ParameterError: if shapes differ, or an image was in all or in none of the shadow models' training sets.

    >>> shadows = torch.tensor([[5.0], [6.0], [0.0], [1.0]])
    >>> float(log_ratios(torch.tensor([5.5]), shadows, torch.tensor([[True], [True], [False], [False]]))) > 0
    True
    """
    if shadows.ndim != 2 or shadows.shape != inside.shape or confidence.shape != shadows.shape[1:]:
        raise ParameterError(
            f"confidences {list(confidence.shape)}, shadows {list(shadows.shape)} and membership "
            f"{list(inside.shape)} do not fit: give [n], [K, n] and [K, n]."
        )
    if not bool((inside.any(0) & (~inside).any(0)).all()):
        raise ParameterError(
            "an image was in every or in no shadow model's training set: train shadow models on halves."
        )
    phi, shadow_phi = confidence.double(), shadows.double()
    sides: list[Tensor] = []
    for here in (inside, ~inside):
        counts = here.sum(0)
        mean = (shadow_phi * here).sum(0) / counts
        squares = (((shadow_phi - mean) ** 2) * here).sum()
        # One mean is estimated for every image, so that many degrees of freedom are gone.
        freedom = max(1, int(counts.sum()) - len(counts))
        spread = max(LEAST_SPREAD, sqrt(float(squares) / freedom))
        sides.append(torch.distributions.Normal(mean, spread).log_prob(phi))
    return sides[0] - sides[1]


@dataclass(frozen=True)
class Separation:
    """How well one number separates two groups: area under the ROC curve with its 95 % interval.

    >>> separation(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])).value
    1.0
    """

    value: float
    low: float
    high: float
    n: int


def separation(positive: Tensor, negative: Tensor, confidence: float = 0.95) -> Separation:
    """P(a positive scores above a negative) + ½ P(equal), with the interval of `area_interval`.

    Raises:
        ParameterError: if a side is empty.
    """
    if not len(positive) or not len(negative):
        raise ParameterError("one side has no image: there is nothing to compare; give both some.")
    values = torch.cat([positive, negative]).double()
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks = (ends - (counts.double() - 1) / 2)[place]  # the mean rank of equal values
    ups, downs = len(positive), len(negative)
    area = float((ranks[:ups].sum() - ups * (ups + 1) / 2) / (ups * downs))
    return Separation(area, *area_interval(area, ups, downs, confidence), ups)
