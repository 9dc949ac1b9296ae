"""The agreement that cosines explain against SciPy, and consensus over parts of a pool against NumPy."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging import chance, sign_agreement, total
from negmerge_kit.merging.orthants import expected_unanimity
from negmerge_kit.merging.similarity import check_pool, likeness, pooled
from negmerge_kit.merging.subsets import agreement_along, compare_halves
from tests.merging.models import arrays, make


def correlations(n, seed):
    rows = np.random.default_rng(seed).normal(size=(n, n + 2)) + 0.7
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


@pytest.mark.parametrize("n", [3, 5, 8])
def test_expected_unanimity_is_scipys_orthant_probability(n):
    cosines = correlations(n, n)
    found = expected_unanimity(cosines.tolist())
    theirs = 2 * multivariate_normal(cov=cosines, seed=0, abseps=1e-6, maxpts=2_000_000).cdf(np.zeros(n))
    assert found.value == pytest.approx(theirs, abs=max(5 * found.error, 2e-5))
    assert 0 < found.error < 1e-3 and expected_unanimity(cosines.tolist()) == found


def test_three_candidates_have_a_closed_form():
    a, b, c = 0.3, -0.2, 0.6
    exact = 2 * (1 / 8 + (np.arcsin(a) + np.arcsin(b) + np.arcsin(c)) / (4 * np.pi))
    found = expected_unanimity([[1, a, b], [a, 1, c], [b, c, 1]])
    assert found.value == pytest.approx(exact, abs=5 * found.error)


def test_without_cosines_chance_is_left_and_with_copies_certainty():
    assert expected_unanimity(np.eye(20).tolist()).value == pytest.approx(chance(20), rel=0.02)
    assert expected_unanimity(np.ones((6, 6)).tolist()).value == pytest.approx(1, abs=2e-3)
    assert expected_unanimity([[1.0, 0.0], [0.0, 0.0]]).value == 0.0
    assert expected_unanimity([[1.0]]).value == 1.0
    rounded = np.ones((4, 4)) + 1e-6 * (1 - np.eye(4))  # no longer positive semidefinite, by rounding
    assert expected_unanimity(rounded.tolist()).value == pytest.approx(1, abs=5e-3)


def test_gaussian_task_vectors_agree_as_often_as_expected():
    cosines = correlations(5, 1)
    draws = np.random.default_rng(2).multivariate_normal(np.zeros(5), cosines, size=40_000)
    draws *= np.random.default_rng(3).exponential(size=(40_000, 1))  # elements of very different sizes
    tuned = [{"w": torch.from_numpy(column)} for column in draws.T.copy()]
    (layer,) = likeness({"w": torch.zeros(40_000, dtype=torch.float64)}, tuned)
    found = expected_unanimity(layer.cosines)
    assert layer.agreement.unanimous_of_moved == pytest.approx(found.value, abs=0.015)


@pytest.mark.parametrize("cosines", [[], [[1.0, 0.0]], [[float("nan")]], [[1.0, 2.0, 0.0], [2.0, 1.0, 9.0], [0, 9, 1]]])
def test_what_is_no_cosine_matrix(cosines):
    with pytest.raises(ParameterError, match="cosines"):
        expected_unanimity(cosines)


def test_layers_add_up_to_the_pools_check():
    base, candidates = make(4, seed=5)
    whole, check = pooled(likeness(base, candidates)), check_pool(base, candidates)
    assert whole.agreement == check.agreement == total(sign_agreement(base, candidates))
    assert whole.cosines == check.cosines


def flat(base, candidates):
    return np.stack([np.concatenate([d[name].reshape(-1) for name in d]) for d in arrays(base, candidates)])


def test_chains_count_what_numpy_counts():
    base, candidates = make(5, seed=6)
    deltas = flat(base, candidates)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        (chain,) = agreement_along(base, candidates, [order])
        for n in range(1, 6):
            signs = np.sign(deltas[list(order[:n])])
            assert chain.unanimous[n - 1] == (np.abs(signs.sum(0)) == n).sum()
            assert chain.moved[n - 1] == (signs != 0).any(0).sum()
    assert chain.unanimous[-1] == total(sign_agreement(base, candidates)).unanimous


def test_halves_count_what_numpy_counts():
    base, candidates = make(5, seed=7)
    deltas = flat(base, candidates).astype(np.float64)
    splits = [([0, 1], [2, 3, 4]), ([4, 2], [0, 3])]
    for (first, second), found in zip(splits, compare_halves(base, candidates, splits), strict=True):
        a, b = (
            np.where(np.abs(np.sign(deltas[part]).sum(0)) == len(part), deltas[part].mean(0), 0)
            for part in (first, second)
        )
        both = (a != 0) & (b != 0)
        assert (found.first, found.second) == ((a != 0).sum(), (b != 0).sum())
        assert found.same == (both & (np.sign(a) == np.sign(b))).sum()
        assert found.opposite == (both & (np.sign(a) != np.sign(b))).sum()
        assert found.moved == (deltas != 0).any(0).sum()
        assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


def test_halves_of_noise_overlap_by_chance_only():
    base, noise = make(6, seed=8, common=0.0, frozen=0.0, shapes={"w": (300, 200)})
    (halves,) = compare_halves(base, noise, [([0, 1, 2], [3, 4, 5])])
    assert halves.overlap == pytest.approx(halves.chance, abs=0.01) and abs(halves.cosine) < 0.05


@pytest.mark.parametrize("part", [[], [0, 0], [0, 2], [-1]])
def test_positions_that_do_not_exist(part):
    base, candidates = make(2, seed=1)
    with pytest.raises(ParameterError, match="distinct positions"):
        agreement_along(base, candidates, [part])
    with pytest.raises(ParameterError, match="distinct positions"):
        compare_halves(base, candidates, [([0], part)])
