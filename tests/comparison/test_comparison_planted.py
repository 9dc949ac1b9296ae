"""Planted truths: where consensus is the signal NegMerge must win, and in pure noise nobody may."""

import pytest
import torch

from negmerge_kit.comparison.bootstrap import resample
from negmerge_kit.comparison.compare import compare_rules
from tests.comparison.small_workbench import SIZE, SmallStand, small_images

pytestmark = pytest.mark.slow

RULES = [
    "uniform",
    "negmerge",
    "negmerge:agreement=0.75",
    "ties",
    "magmax",
    "dare",
    "breadcrumbs",
    "consensus-mask",
    "emr",
    "conflict",
    "random-mask",
    "top-magnitude",
]
SIGNAL = SIZE // 4


def base_weights():
    """One bias-like weight carries the base's knowledge: every image has a positive first entry."""
    weights = torch.zeros(SIZE)
    weights[0] = 4.0
    return weights


def images_of(part, *, spread=1.0):
    """Images that look along a part of the weights, at random, and all along the first one."""

    def draw(generator, n):
        x = torch.zeros(n, SIZE)
        x[:, part] = spread * torch.randn(n, len(range(SIZE)[part]), generator=generator)
        x[:, 0] = 1.0 + 0.25 * torch.randn(n, generator=generator)
        return x

    return draw


def consensus_pool(seed=0, n=8):
    """A quarter of the weights moves alike in all candidates and is what forget images look at; the rest is noise,
    larger, of any sign, and is what retain images look at."""
    draw = torch.Generator().manual_seed(seed)
    signal = torch.zeros(SIZE)
    signal[1:SIGNAL] = 0.3 * torch.randn(SIGNAL - 1, generator=draw).sign()
    deltas = []
    for _ in range(n):
        noise = torch.zeros(SIZE)
        noise[SIGNAL:] = 0.9 * torch.randn(SIZE - SIGNAL, generator=draw)
        deltas.append(signal * (0.8 + 0.4 * torch.rand(SIZE, generator=draw)) + noise)

    def forget(generator, n):
        x = images_of(slice(1, SIGNAL), spread=0.6)(generator, n)
        return x + 0.25 * signal.sign() * torch.rand(n, 1, generator=generator)

    images = small_images(seed, forget, images_of(slice(SIGNAL, SIZE), spread=0.6))
    return SmallStand(base_weights(), deltas, images)


def noise_pool(seed=0, n=8):
    """Every weight is noise in every candidate, and forget and retain images look at all of it alike."""
    draw = torch.Generator().manual_seed(seed)
    deltas = [torch.cat([torch.zeros(1), 0.3 * torch.randn(SIZE - 1, generator=draw)]) for _ in range(n)]
    every = images_of(slice(1, SIZE), spread=0.6)
    return SmallStand(base_weights(), deltas, small_images(seed, every, every, n_forget=400))


@pytest.mark.parametrize("seed", [0, 1])
def test_where_consensus_is_the_signal_negmerge_is_first_by_the_frontier(seed):
    comparison = compare_rules(consensus_pool(seed), ["single", "greedy", *RULES])
    by_name = {row.method.name: row for row in comparison.rows}
    ours = by_name.pop("negmerge")
    assert ours.matched is not None
    forgets = {name: row.matched.test.forget.value for name, row in by_name.items() if row.matched}
    assert len(forgets) == len(by_name)
    assert ours.matched.test.forget.value < min(forgets.values()), forgets
    assert ours.matched.forget < min(row.matched.forget for row in by_name.values())
    # Far from a tie: the controls keep most of the forget set.
    assert ours.matched.test.forget.value < 0.5 * forgets["random-mask"]


def test_in_pure_noise_every_rule_equals_a_random_mask():
    comparison = compare_rules(noise_pool(), RULES)
    found = resample(comparison, reference="random-mask", replicates=400, confidence=0.995)
    assert set(found) == set(RULES)
    for name, result in found.items():
        effect = result.differences["matched forget"]
        assert effect.low <= 0.0 <= effect.high, (name, effect)
        # And no rule found anything to forget beyond what all images lose.
        assert result.numbers["matched forget"].value > 0.85, name
