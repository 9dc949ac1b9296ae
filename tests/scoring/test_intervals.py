"""Intervals against SciPy, and their coverage on simulated images."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm, quantile_test

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring import Accuracy, paired_difference, pool_accuracies, wilson
from negmerge_kit.scoring.intervals import Spread, area_interval, median_interval


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


def test_wilson_covers_the_true_share():
    rng = np.random.default_rng(4)
    for n, share in ((240, 0.45), (357, 0.1), (1440, 0.95)):
        intervals = [wilson(int(correct), n) for correct in rng.binomial(n, share, size=4000)]
        assert 0.93 <= np.mean([low <= share <= high for low, high in intervals]) <= 0.97


@pytest.mark.parametrize("n", [6, 8, 9, 15, 20, 41])
def test_the_medians_interval_is_scipys(n):
    values = np.random.default_rng(n).normal(size=n)
    expected = quantile_test(values, q=0.0, p=0.5).confidence_interval(0.95)
    assert median_interval(list(values)) == (expected.low, expected.high)


def test_the_medians_interval_covers_it():
    rng = np.random.default_rng(5)
    intervals = [median_interval(list(values)) for values in rng.exponential(size=(4000, 15))]
    covered = np.mean([low <= np.log(2) <= high for low, high in intervals])
    exact = 1 - 2 * binom(15, 0.5).cdf(3)
    assert covered == pytest.approx(exact, abs=0.01) and exact >= 0.95


def test_few_pools_get_no_interval():
    assert Spread((0.4, 0.5, 0.45)).json() == {"points": [0.4, 0.5, 0.45], "low": 0.4, "high": 0.5, "interval": None}
    assert Spread(tuple(range(8))).interval == (0, 7)
    with pytest.raises(ParameterError, match="too few"):
        median_interval([1.0, 2.0, 3.0])


@pytest.mark.parametrize(("ups", "downs"), [(120, 357), (20, 20), (10, 100), (5, 20)])
@pytest.mark.parametrize("area", [0.5, 0.2, 0.95, 0.995])
def test_an_areas_interval_covers_it_at_the_edge_too(ups, downs, area):
    rng = np.random.default_rng(6)
    up = rng.normal(norm.ppf(area) * np.sqrt(2), size=(600, ups, 1))
    found = (up > rng.normal(size=(600, 1, downs))).mean((1, 2))
    intervals = [area_interval(value, ups, downs) for value in found.tolist()]
    assert np.mean([low <= area <= high for low, high in intervals]) >= 0.92
    assert all(low <= value <= high for value, (low, high) in zip(found.tolist(), intervals, strict=True))


def test_an_area_of_0_or_1_has_a_width_and_a_mirror_image():
    for ups, downs in ((1, 1), (3, 200), (120, 357)):
        (low, high), (bottom, top) = area_interval(1.0, ups, downs), area_interval(0.0, ups, downs)
        assert bottom == 0.0 < top < 1.0 == high and top == pytest.approx(1 - low) and top > 0.01
    assert area_interval(1.0, 3, 3)[0] < area_interval(1.0, 120, 357)[0] < 1
    for wrong in ((1.1, 3, 3), (0.5, 0, 3), (float("nan"), 3, 3)):
        with pytest.raises(ParameterError, match="give both sides some"):
            area_interval(*wrong)
