"""The agreement that cosines alone explain: how often Gaussian task vectors of these cosines share a sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, pi

import numpy as np

from negmerge_kit.errors import ParameterError

POINTS = 10_000
"""Quasi-random points of one integration."""
REPEATS = 8
"""Independent integrations: their spread is the error that is reported."""
ROUNDING = 1e-3
"""How far below 0 rounding may push an eigenvalue: candidates that are copies of each other have some of 0."""


@dataclass(frozen=True)
class Estimate:
    """A simulated probability and the standard error of the simulation."""

    value: float
    error: float


def expected_unanimity(cosines: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Probability that all signs agree where (τ1 … τN) of an element is normal with mean 0 and these correlations.

    Twice the orthant probability P(x > 0), x ~ N(0, C), by SciPy's `multivariate_normal.cdf` (Genz 1992,
    https://doi.org/10.1080/10618600.1992.10477010); exact for N ≤ 2, where it is
    1/2 + arcsin(c) / π (Sheppard 1899). Signs do not change when an element is scaled, so the same number holds for
    every elliptical distribution, however much the elements differ in size: agreement beyond it is shared
    *direction* that the pairs' cosines do not explain. At cosines of 0 it is `chance`, 2^(1-N).

    Args:
        cosines: symmetric [N, N], ones on the diagonal; a row of zeros is a candidate that did not move.

    Raises:
        ParameterError: for a matrix that is empty, not square, or holds NaN; give the cosines of `check_pool`.

    >>> round(expected_unanimity([[1.0, 0.5], [0.5, 1.0]]).value, 9)
    0.666666667
    >>> found = expected_unanimity([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> round(found.value, 3), found.error < 0.001
    (0.25, True)
    """
    matrix = np.array(cosines, dtype=np.float64)
    if matrix.ndim != 2 or not len(matrix) or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ParameterError(f"cosines are {list(matrix.shape)}: give a square matrix of finite numbers, [N, N].")
    n = len(matrix)
    if (matrix.diagonal() == 0).any():
        return Estimate(0.0, 0.0)  # a candidate that did not move has sign 0 everywhere
    if n == 1:
        return Estimate(1.0, 0.0)
    if n == 2:
        return Estimate(0.5 + asin(np.clip(matrix[0, 1], -1, 1)) / pi, 0.0)
    lowest = float(np.linalg.eigvalsh(matrix)[0])
    if lowest < -ROUNDING:
        raise ParameterError("cosines are no correlation matrix: give the cosines of `check_pool`.")

    from scipy.stats import multivariate_normal

    matrix += max(0.0, -lowest) * np.eye(n)
    normal = multivariate_normal(cov=matrix, allow_singular=True, seed=seed, maxpts=POINTS)
    shares = [2 * normal.cdf(np.zeros(n)) for _ in range(REPEATS)]  # each goes on in one sequence of random numbers
    return Estimate(float(np.mean(shares)), float(np.std(shares, ddof=1) / REPEATS**0.5))
