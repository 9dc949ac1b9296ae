"""Confidence intervals: for shares, their difference on the same images, areas under ROC curves, repeated pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

from negmerge_kit.errors import ParameterError
from negmerge_kit.types import Json

SEEDS_FOR_AN_INTERVAL = 8
"""Repeated pools below which only the points and their range are shown: so few say little about the next one."""


def normal_quantile(confidence: float) -> float:
    """How many standard deviations on both sides of the mean hold that share of a normal distribution.

    Raises:
        ParameterError: for a share outside (0, 1).

    >>> round(normal_quantile(0.95), 2)
    1.96
    """
    if not 0.0 < confidence < 1.0:
        raise ParameterError(f"confidence is {confidence}: give a number between 0 and 1, such as 0.95.")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share of `correct` out of `n` images.

    With p = correct/n and the normal quantile z, the bounds are
    (p + z²/2n ± z·sqrt(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953). They stay in [0, 1] and
    are sensible at 0 and n, where the textbook interval has no width.

    Returns:
        (low, high), fractions in [0, 1].

    Raises:
        ParameterError: if the counts are not 0 <= correct <= n with n >= 1; count at least one image.

    >>> low, high = wilson(90, 100)
    >>> round(low, 4), round(high, 4)
    (0.8256, 0.9448)
    """
    if n < 1 or not 0 <= correct <= n:
        raise ParameterError(
            f"{correct} correct of {n} images is no share: both must be counts, with at least one image."
        )
    z = normal_quantile(confidence)
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def paired_difference(lost: int, gained: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the change in accuracy between two models on the same `n` images.

    `lost` images were right before and wrong after, `gained` the other way round; the rest did
    not change. Half an image is added to each of the four cells of the paired table and the Wald
    interval is taken (Agresti and Min 2005, https://doi.org/10.1002/sim.1781).

    Returns:
        (low, high) of accuracy after minus accuracy before, in [-1, 1]; negative means forgetting.

    Raises:
        ParameterError: if the counts do not fit n; pass counts with lost + gained <= n.

    >>> low, high = paired_difference(lost=120, gained=10, n=357)
    >>> high < 0
    True
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise ParameterError(f"{lost} lost and {gained} gained of {n} images do not fit together: pass counts.")
    z = normal_quantile(confidence)
    total = n + 2.0
    down, up = (lost + 0.5) / total, (gained + 0.5) / total
    centre = up - down
    half = z * sqrt(max(0.0, (up + down) - centre * centre) / total)
    return max(-1.0, centre - half), min(1.0, centre + half)


def area_interval(area: float, ups: int, downs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the area under an ROC curve over `ups` positives and `downs` negatives.

    The bounds are the θ with |θ − area| = z·sqrt(V(θ)), where V(θ) = θ(1−θ)/(ups·downs) · (1 + s·(1−θ)/(2−θ) +
    s·θ/(1+θ)) is Hanley and McNeil's variance with s = (ups + downs)/2 − 1 on both sides (Newcombe 2006, method 5,
    https://doi.org/10.1002/sim.2324). Like Wilson's, it asks for the variance at the bound, not at the estimate, and so
    has a width at 0 and 1, where no pair is in the wrong order.

    Returns:
        (low, high), in [0, 1].

    Raises:
        ParameterError: for an area outside [0, 1] or a side without an image; count at least one on each.

    >>> low, high = area_interval(1.0, 120, 357)
    >>> round(low, 4), high
    (0.9892, 1.0)
    """
    if ups < 1 or downs < 1 or not 0.0 <= area <= 1.0:
        raise ParameterError(f"an area of {area} over {ups} and {downs} images is none: give both sides some.")
    z, slope = normal_quantile(confidence), (ups + downs) / 2 - 1

    def lower_bound(area: float) -> float:
        """The smallest θ whose interval holds the area; the upper bound is its mirror image."""
        low, high = 0.0, area
        for _ in range(60):
            theta = (low + high) / 2
            inflation = 1 + slope * ((1 - theta) / (2 - theta) + theta / (1 + theta))
            far = area - theta > z * sqrt(theta * (1 - theta) * inflation / (ups * downs))
            low, high = (theta, high) if far else (low, theta)
        return high

    return lower_bound(area), 1.0 - lower_bound(1.0 - area)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the median of which `values` are independent draws, from two of the values themselves.

    With the draws in order, x(k) and x(n+1−k) enclose the median with probability 1 − 2·P(Bin(n, ½) < k), whatever
    the distribution (Thompson 1936, https://doi.org/10.1214/aoms/1177732563); k is the largest that reaches the
    confidence.

    Raises:
        ParameterError: if even the smallest and the largest do not reach it; at 95 % six values do.

    >>> median_interval([0.40, 0.46, 0.43, 0.51, 0.39, 0.44, 0.47, 0.45])
    (0.39, 0.51)
    """
    normal_quantile(confidence)
    n, tail, k = len(values), 0.0, 0
    while k < n and 2 * (tail + comb(n, k) / 2**n) <= 1 - confidence:
        tail += comb(n, k) / 2**n
        k += 1
    if k == 0:
        raise ParameterError(f"{n} values are too few for an interval at {confidence:g}: show them and their range.")
    ordered = sorted(values)
    return ordered[k - 1], ordered[n - k]


@dataclass(frozen=True)
class Spread:
    """One number from several pools, in their order.

    >>> Spread((0.45, 0.41, 0.48)).json()
    {'points': [0.45, 0.41, 0.48], 'low': 0.41, 'high': 0.48, 'interval': None}
    """

    points: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The median's 95 % interval with 8 pools or more, else None: no interval is pretended."""
        return median_interval(self.points) if len(self.points) >= SEEDS_FOR_AN_INTERVAL else None

    def json(self) -> Json:
        """Points, their range (`low`, `high`) and the interval, if there are enough points for one."""
        interval = self.interval
        return {
            "points": list(self.points),
            "low": min(self.points),
            "high": max(self.points),
            "interval": list(interval) if interval else None,
        }
