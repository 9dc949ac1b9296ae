"""The bootstrap against SciPy where SciPy can follow, and its coverage where the truth is planted."""

import numpy as np
import pytest
from scipy import stats

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring.paired_bootstrap import NUMBERS, Curve, bootstrap, choose_scale, draw, first_below
from negmerge_kit.scoring.scale_search import select_scale


def everywhere(right, scales=2):
    return np.repeat(np.asarray(right, bool)[None], scales, axis=0)


def fixed(forget, *, n=50):
    """A curve whose only scale above 0 is `forget` on test; validation always chooses it."""
    chosen = np.stack([np.ones(n, bool), np.zeros(n, bool)])
    keeps = np.ones((2, n), bool)
    return Curve(chosen, keeps, everywhere(forget), keeps)


def test_a_difference_at_fixed_scales_is_scipys_paired_percentile_interval():
    rng = np.random.default_rng(1)
    a = rng.random(300) < 0.45
    b = np.where(rng.random(300) < 0.7, a, rng.random(300) < 0.6)
    ours = bootstrap({"a": [fixed(a)], "b": [fixed(b)]}, reference="a", replicates=6000)["b"]
    theirs = stats.bootstrap(
        (b, a),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=6000,
        rng=2,
    ).confidence_interval
    difference = ours.differences["protocol forget"]
    assert difference.value == pytest.approx(b.mean() - a.mean())
    assert (difference.low, difference.high) == pytest.approx(tuple(theirs), abs=0.006)


def test_one_rules_number_has_the_binomial_spread():
    right = np.arange(400) < 160
    number = bootstrap({"a": [fixed(right)]}, reference="a", replicates=6000)["a"].numbers["protocol forget"]
    low, high = stats.binom(400, 0.4).interval(0.95)
    assert (number.low, number.high) == pytest.approx((low / 400, high / 400), abs=0.005)


def test_draws_are_resamples_of_the_images():
    weights = draw(np.random.default_rng(0), 40, 500)
    assert (weights[0] == 1).all() and (weights.sum(1) == 40).all()
    assert weights[1:].var() == pytest.approx(1 - 1 / 40, abs=0.03)


def test_scales_are_chosen_as_the_search_does():
    rng = np.random.default_rng(3)
    scales = np.arange(7) / 6
    for _ in range(200):
        forget, retain = rng.integers(0, 5, (1, 7)) * 1.0, rng.integers(4, 11, (1, 7)) * 1.0
        retain[0, 0] = 10
        chosen, _ = choose_scale(forget, retain, np.array([7.0]))
        assert scales[chosen[0]] == select_scale(scales, forget[0], retain[0], 7.0)


@pytest.mark.parametrize(
    ("retain", "place", "never"),
    [([10, 9, 8, 6, 9], 2.5, False), ([10, 9, 9, 9, 9], 4.0, True), ([10, 2, 9, 9, 9], 0.375, False)],
)
def test_the_first_crossing_counts(retain, place, never):
    found, uncrossed = first_below(np.array([retain], float), np.array([7.0]))
    assert found[0] == pytest.approx(place) and bool(uncrossed[0]) is never


def thresholds(rng, images, rates, shared):
    """Curves of two rules: an image is right until its own scale, drawn with `rate`; part of the draw is shared."""
    common = rng.exponential(size=images)
    own = rng.exponential(size=(len(rates), images))
    which = rng.random(images) < shared
    return [np.where(which, common, mine) / rate for mine, rate in zip(own, rates, strict=True)]


@pytest.mark.slow
def test_intervals_cover_the_planted_differences():
    """95 % intervals of the matched difference cover the truth in 93-97 % of 800 simulated comparisons."""
    rng = np.random.default_rng(7)
    scales = np.linspace(0, 1, 11)
    forget_rates, retain_rates, keep = (2.0, 1.2), (0.16, 0.11), 0.95
    # Right until an exponential scale: retention first falls below keep at -log(keep)/rate.
    truth = np.exp(-2.0 * -np.log(keep) / 0.16) - np.exp(-1.2 * -np.log(keep) / 0.11)
    covered, runs = 0, 800
    for run in range(runs):
        sides = [
            [until[None] > scales[:, None] for until in thresholds(rng, images, rates, 0.5)]
            for images, rates in ((40, forget_rates), (400, retain_rates), (200, forget_rates), (40, retain_rates))
        ]
        curves = [Curve(*(side[rule] for side in sides)) for rule in (0, 1)]
        found = bootstrap({"a": [curves[0]], "b": [curves[1]]}, reference="b", keep=keep, replicates=240, seed=run)
        effect = found["a"].differences["matched forget"]
        covered += effect.low <= truth <= effect.high
    assert 0.93 <= covered / runs <= 0.97


def test_among_several_curves_each_replicate_takes_the_best_on_validation():
    n = 60
    keeps = np.ones((2, n), bool)
    base = np.ones(n, bool)
    half = np.arange(n) % 2 == 0
    good = Curve(np.stack([base, half]), keeps, np.stack([base, base]), keeps)
    poor = Curve(np.stack([base, base]), keeps, np.stack([base, ~base]), keeps)
    found = bootstrap({"one of two": [poor, good], "good": [good]}, reference="good", replicates=200)["one of two"]
    assert found.numbers["protocol forget"].value == 1.0  # the good one on validation, whatever test says
    assert found.differences["protocol forget"].high == 0.0


def test_an_infeasible_rule_stands_at_the_base():
    n = 80
    right = np.stack([np.ones(n, bool), np.zeros(n, bool)])
    found = bootstrap({"a": [Curve(right, right, right, right)]}, reference="a", replicates=100)["a"]
    assert found.infeasible == 1.0
    assert found.numbers["protocol forget"].value == 1.0
    # Retention falls from 80 to 0 between the two scales: it meets 95 % after a twentieth of the way.
    assert found.numbers["matched retain"].value == pytest.approx(0.95, abs=1e-6)


def test_the_same_seed_draws_the_same():
    right = np.random.default_rng(0).random((2, 90)) < 0.5
    curve = Curve(right, np.ones((2, 90), bool), right, right)
    first, second = (bootstrap({"a": [curve]}, reference="a", replicates=80, seed=5)["a"] for _ in range(2))
    assert first == second and set(first.numbers) == set(NUMBERS)


def test_wrong_input():
    curve = fixed(np.ones(50, bool))
    with pytest.raises(ParameterError, match="reference"):
        bootstrap({"a": [curve]}, reference="b")
    with pytest.raises(ParameterError, match="other images"):
        bootstrap({"a": [curve], "b": [fixed(np.ones(20, bool), n=50)]}, reference="a")
    with pytest.raises(ParameterError, match="shapes"):
        Curve(np.ones((2, 3), bool), np.ones((1, 3), bool), np.ones((2, 3), bool), np.ones((2, 3), bool))
