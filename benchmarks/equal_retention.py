"""Forget accuracy at equal retention on one split, with intervals over pools and images together.

Rules are compared where each keeps the same share of the base's accuracy, not at the scales that they chose: a walk
measures both sides at scales around the floors, and accuracy is read off between two scales, as `at_test_retention`
does. Images and pools are then resampled together, and every resample reads all crossings off again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from negmerge_kit.comparison.matched_retention import FLOORS
from negmerge_kit.scoring.early_stopping import FARTHEST

Floats: TypeAlias = np.ndarray
Bits: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Which images of the forget side and of the retain side are right, bool [n] and [m]."""

STEP, COARSE = 1.15, 1.5
"""Factor between two scales around the floors, and on the way to them."""

MARGIN = 0.01
"""Shares of the base's retention measured beyond the outer floors, so that resampled images cross them too."""


@dataclass(frozen=True)
class Curve:
    """What was right at each scale, upwards from 0, which is the base: bool [scales, n] and [scales, m]."""

    scales: tuple[float, ...]
    forget: np.ndarray
    retain: np.ndarray


def walk(measure: Callable[[float], Bits], start: float) -> Curve | None:
    """Measure scales around `start` until retention spans FLOORS; None where it keeps more up to the farthest scale."""
    known = {0.0: measure(0.0)}
    base = known[0.0][1].mean()
    low, high = (FLOORS[0] - MARGIN) * base, (FLOORS[-1] + MARGIN) * base

    def kept(scale: float) -> float:
        if scale not in known:
            known[scale] = measure(scale)
        return float(known[scale][1].mean())

    while kept(start) > high:
        if start >= FARTHEST:
            return None
        start = min(FARTHEST, start * COARSE)
    while kept(start) < low and start > 1e-3:
        start /= COARSE
    up = down = start
    while kept(up) >= low:
        if up >= FARTHEST:
            return None
        up = min(FARTHEST, up * STEP)
    while kept(down) < high and down > start / 8:  # below that the base's own point will do
        down /= STEP
    scales = tuple(sorted(known))
    forget, retain = (np.stack([known[scale][side] for scale in scales]) for side in (0, 1))
    return Curve(scales, forget, retain)


def reading(curve: Curve, forget: Floats | None = None, retain: Floats | None = None) -> Floats:
    """Forget accuracy where retention first falls to each of FLOORS, averaged over them, one number a column.

    Args:
        forget, retain: how often each image counts, [n, B] and [m, B]; by default once, in one column.

    >>> right = lambda share: np.arange(1000) < 1000 * share
    >>> scales = (0.0, 0.5, 1.0)
    >>> sides = ([right(share) for share in shares] for shares in ((0.8, 0.5, 0.2), (0.9, 0.9, 0.81)))
    >>> reading(Curve(scales, *map(np.stack, sides))).round(3)
    array([0.35])
    """
    forget_share, retain_share = (
        _shares(bits, np.ones((bits.shape[1], 1)) if counts is None else counts)
        for bits, counts in ((curve.forget, forget), (curve.retain, retain))
    )
    columns = np.arange(retain_share.shape[1])
    found = []
    for keep in FLOORS:
        floor = keep * retain_share[0]
        below = retain_share < floor
        # A resample that never crosses is read at the last scale, which lies MARGIN beyond the lowest floor.
        end = np.where(below.any(axis=0), below.argmax(axis=0), len(below) - 1)
        above, under = retain_share[end - 1, columns], retain_share[end, columns]
        fall = above - under
        part = np.clip(np.divide(above - floor, fall, out=np.ones_like(fall), where=fall > 0), 0.0, 1.0)
        first, last = forget_share[end - 1, columns], forget_share[end, columns]
        found.append(first + part * (last - first))
    return np.asarray(np.mean(found, axis=0))


def _shares(bits: np.ndarray, counts: Floats) -> Floats:
    return np.asarray((bits.astype(np.float32) @ counts.astype(np.float32)) / counts.sum(axis=0))


@dataclass(frozen=True)
class Resamples:
    """Draws of pools and of images, the same for every rule that is compared.

    Attributes:
        pools: [pools, B]; forget, retain: [n, B] and [m, B]: how often each counts.
    """

    pools: Floats
    forget: Floats
    retain: Floats

    @classmethod
    def draw(cls, pools: int, forget: int, retain: int, *, times: int = 2000, seed: int = 0) -> Resamples:
        """Draw as many as there are of each, with replacement."""
        generator = np.random.default_rng(seed)
        counts = (generator.multinomial(n, np.full(n, 1 / n), times).T for n in (pools, forget, retain))
        return cls(*counts)

    def readings(self, curve: Curve) -> Floats:
        """What each resample of the images reads off a curve, [B]."""
        return reading(curve, self.forget, self.retain)

    def interval(self, readings: Floats) -> tuple[float, float]:
        """95 % interval of the mean over pools of [pools, B] readings, or of their differences."""
        means = (readings * self.pools).sum(axis=0) / self.pools.sum(axis=0)
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)
