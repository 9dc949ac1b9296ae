"""The agreement that cosines alone explain: how often Gaussian task vectors of these cosines share a sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from negmerge_kit.errors import ParameterError

POINTS = 1 << 11
"""Points of one scrambled Sobol sequence."""
SCRAMBLES = 8
"""Independent scramblings: their spread is the error that is told."""
RIDGE = 1e-9
"""Added to the diagonal: candidates that are copies of each other make the matrix singular."""


@dataclass(frozen=True)
class Estimate:
    """A simulated probability and the standard error of the simulation."""

    value: float
    error: float


def expected_unanimity(cosines: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Probability that all signs agree where (τ1 … τN) of an element is normal with mean 0 and these correlations.

    Twice the orthant probability P(x > 0), x ~ N(0, C), by Genz's separation of variables (Genz 1992,
    https://doi.org/10.1080/10618600.1992.10477010) on scrambled Sobol points; exact for N ≤ 2, where it is
    1/2 + arcsin(c) / π (Sheppard 1899). Signs do not change when an element is scaled, so the same number holds for
    every elliptical distribution, however much the elements differ in size: agreement beyond it is shared
    *direction* that pairs of candidates do not tell of. At cosines of 0 it is `chance`, 2^(1-N).

    Args:
        cosines: symmetric [N, N], ones on the diagonal; a row of zeros stands for a candidate that did not move.

    Raises:
        ParameterError: for a matrix that is empty, not square, or holds NaN; give the cosines of `check_pool`.

    >>> round(expected_unanimity([[1.0, 0.5], [0.5, 1.0]]).value, 9)
    0.666666667
    >>> found = expected_unanimity([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> round(found.value, 3), found.error < 0.001
    (0.25, True)
    """
    matrix = torch.as_tensor(cosines, dtype=torch.float64)
    if matrix.ndim != 2 or not len(matrix) or matrix.shape[0] != matrix.shape[1] or not bool(matrix.isfinite().all()):
        raise ParameterError(f"cosines are {list(matrix.shape)}: give a square matrix of finite numbers, [N, N].")
    n = len(matrix)
    if bool((matrix.diagonal() == 0).any()):
        return Estimate(0.0, 0.0)  # a candidate that did not move has sign 0 everywhere
    if n == 1:
        return Estimate(1.0, 0.0)
    if n == 2:
        return Estimate(float(0.5 + torch.asin(matrix[0, 1].clamp(-1, 1)) / torch.pi), 0.0)
    factor = _cholesky(matrix)
    shares = torch.stack([_orthant(factor, seed * SCRAMBLES + number) for number in range(SCRAMBLES)])
    return Estimate(float(2 * shares.mean()), float(2 * shares.std() / SCRAMBLES**0.5))


def _cholesky(matrix: Tensor) -> Tensor:
    """A factor even where rounding has left the matrix a hair short of positive definite."""
    ridge, eye = RIDGE, torch.eye(len(matrix), dtype=matrix.dtype)
    while True:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix + ridge * eye)
        if not failed:
            return factor
        if ridge > 1e-3:
            raise ParameterError("cosines are no correlation matrix: give the cosines of `check_pool`.")
        ridge *= 10


def _orthant(factor: Tensor, seed: int) -> Tensor:
    """P(L z > 0): z is drawn coordinate by coordinate from where it still can be, and weighs what that was worth."""
    n = len(factor)
    uniform = torch.quasirandom.SobolEngine(n, scramble=True, seed=seed).draw(POINTS, dtype=torch.float64)
    uniform = uniform.clamp(1e-12, 1 - 1e-12)
    z = torch.zeros(POINTS, n, dtype=torch.float64)
    weight = torch.ones(POINTS, dtype=torch.float64)
    for i in range(n):
        above = torch.special.ndtr((z[:, :i] @ factor[i, :i]) / factor[i, i])
        weight *= above
        z[:, i] = -torch.special.ndtri((uniform[:, i] * above).clamp(min=torch.finfo(torch.float64).tiny))
    return weight.mean()
