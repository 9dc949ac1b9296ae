"""Calibration: how well a model's confidence matches how often it is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from negmerge_kit.errors import ParameterError

BINS = 15
"""Equal-width bins of confidence, as Guo et al. use."""
RESAMPLES = 1000
"""Draws behind each interval and floor."""
BLOCK = 100


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error (ECE) and mean confidence of one model on `n` images, with 95 % intervals.

    `floor` is the ECE that a perfectly calibrated model of the same confidences shows on average on that many images:
    binning never gives zero, so the error is to be held against this and not against 0.
    """

    ece: float
    ece_interval: tuple[float, float]
    floor: float
    confidence: float
    confidence_interval: tuple[float, float]
    n: int
    split: str


def calibration(
    confidence: Tensor, correct: Tensor, *, split: str, seed: int = 0, resamples: int = RESAMPLES
) -> Calibration:
    """ECE = Σ_b (n_b / n) |accuracy_b - confidence_b| over BINS equal-width bins (a, b] of confidence, and its floor.

    Naeini et al. 2015; the form of Guo et al. 2017, https://arxiv.org/abs/1706.04599. Intervals are percentiles over
    images drawn with replacement; the floor draws, for every image, a right answer with the probability that the model
    claims. Both are seeded.

    Args:
        confidence: the highest probability of each image, [n] in [0, 1] (see `top`).
        correct: whether that class is the image's, [n] bool.
        split: the split that the images are of.
        seed: of the draws.
        resamples: draws behind the intervals and the floor.

    Raises:
        ParameterError: for no images, shapes that differ, or confidences outside [0, 1].

    >>> answers = top(torch.tensor([[9.0, 0.0]] * 20), torch.tensor([0] * 10 + [1] * 10))
    >>> found = calibration(*answers, split="test")
    >>> round(found.ece, 2), found.ece > found.floor
    (0.5, True)
    """
    confidence, correct = _checked(confidence, correct)
    random = torch.Generator().manual_seed(seed)
    places, n = _bin_of(confidence), len(confidence)
    errors, means, floors = [], [], []
    for start in range(0, resamples, BLOCK):  # in blocks, for the memory of large sets
        drawn = torch.randint(n, (min(BLOCK, resamples - start), n), generator=random)
        calibrated = (torch.rand(drawn.shape, generator=random, dtype=torch.float64) < confidence).double()
        errors.append(_ece(places[drawn], confidence[drawn], correct[drawn]))
        means.append(confidence[drawn].mean(1))
        floors.append(_ece(places, confidence.expand_as(calibrated), calibrated))
    return Calibration(
        ece=float(_ece(places, confidence[None], correct[None])[0]),
        ece_interval=_middle(torch.cat(errors)),
        floor=float(torch.cat(floors).mean()),
        confidence=float(confidence.mean()),
        confidence_interval=_middle(torch.cat(means)),
        n=n,
        split=split,
    )


def top(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's highest probability and whether that class is its label's: both [n], from logits [n, C].

    Raises:
        ParameterError: if the logits hold NaN or infinity.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ParameterError("logits hold NaN or infinity: the model's weights are damaged; score another.")
    highest = logits.double().softmax(1).max(1)
    return highest.values, torch.eq(highest.indices, labels.to(logits.device))


def _ece(places: Tensor, confidence: Tensor, correct: Tensor) -> Tensor:
    """ECE of every row: |Σ (correct - confidence)| of each bin, added up, over n."""
    gaps = torch.zeros(len(confidence), BINS, dtype=torch.float64)
    gaps.scatter_add_(1, places.expand_as(confidence), correct - confidence)
    return gaps.abs().sum(1) / confidence.shape[1]


def _bin_of(confidence: Tensor) -> Tensor:
    return (torch.ceil(confidence * BINS).long() - 1).clamp(0, BINS - 1)


def _middle(values: Tensor) -> tuple[float, float]:
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _checked(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    confidence, correct = confidence.detach().cpu().double(), correct.detach().cpu().double()
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        raise ParameterError(
            f"confidence is {list(confidence.shape)} and correct {list(correct.shape)}: give one of each per image."
        )
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        raise ParameterError("confidence holds values outside [0, 1] or NaN: give probabilities.")
    return confidence, correct
