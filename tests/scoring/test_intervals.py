"""Intervals against SciPy, and their coverage on simulated images."""

import numpy as np
import pytest
from scipy.stats import binomtest

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring import Accuracy, paired_difference, pool_accuracies, wilson


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 240), (240, 240), (3, 7), (117, 357), (1200, 1440)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(correct, n, confidence):
    expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert wilson(correct, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts(correct, n):
    with pytest.raises(ParameterError):
        wilson(correct, n)


def test_paired_interval_covers_the_true_change():
    rng = np.random.default_rng(0)
    n, lost, gained = 240, 0.30, 0.05
    draws = rng.multinomial(n, [lost, gained, 1 - lost - gained], size=4000)
    intervals = [paired_difference(int(a), int(b), n) for a, b, _ in draws]
    covered = np.mean([low <= gained - lost <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.97


def test_retention_is_pooled_over_images():
    pooled = pool_accuracies([Accuracy(9, 10, "val"), Accuracy(10, 30, "val")])
    assert (pooled.correct, pooled.n) == (19, 40)
    with pytest.raises(ParameterError, match="split"):
        pool_accuracies([Accuracy(9, 10, "val"), Accuracy(9, 10, "test")])
