"""Weight decay's part of the agreement: weights that no gradient reaches, trained by the loop itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from negmerge_kit.analysis.decay import Shift, decay_alone, known_shift
from negmerge_kit.analysis.why_signs import why_signs
from negmerge_kit.cli.agreement import format_why
from negmerge_kit.errors import ParameterError
from negmerge_kit.plots.why_signs import why_figure
from negmerge_kit.pools.pool import Candidate
from negmerge_kit.training.batches import Batch
from negmerge_kit.training.finetuning import _optimizer, rate
from negmerge_kit.training.loop import Pass, train
from negmerge_kit.training.recipe import Recipe

DEAD = 3000
LIVE = 200
STEPS = 150
RECIPES = tuple(
    Recipe(lr=lr, epochs=1, weight_decay=decay, schedule=schedule)
    for lr, decay, schedule in ((1e-3, 0.1, "cosine"), (2e-3, 0.05, "cosine"), (5e-4, 0.3, "multistep"))
)


class Network(torch.nn.Module):
    """Weights of which the first are multiplied by zero: a gradient comes to them, and it is zero."""

    def __init__(self, weights):
        super().__init__()
        self.weight = torch.nn.Parameter(weights["w"].clone())


def base_weights():
    return {"w": torch.randn(DEAD + LIVE, generator=torch.Generator().manual_seed(0)), "still": torch.ones(7)}


def trained(base, recipe, steps=STEPS):
    """Weights and pool entry of a run whose loss does not depend on the first DEAD weights."""
    network, mask = Network(base), torch.cat([torch.zeros(DEAD), torch.ones(LIVE)])
    batches = [
        Batch(torch.randn(1, LIVE, generator=torch.Generator().manual_seed(step)), torch.zeros(1))
        for step in range(steps)
    ]
    one = Pass(
        steps,
        lambda done, order: batches[done:],
        lambda x, y: ((network.weight * mask)[DEAD:] - 3 - 0.1 * x).square().mean(),
    )
    optimizer = _optimizer([network.weight], recipe)
    run = train(network, [one], optimizer, lambda step: rate(recipe, step, steps), seed=int, hint="")
    losses = tuple(step.loss for step in run)
    entry = Candidate("c", "c.safetensors", "", recipe.json(), losses=losses)
    return {**base, "w": network.weight.detach()}, entry


@pytest.fixture(scope="module")
def pool():
    base = base_weights()
    candidates, entries = zip(*(trained(base, recipe) for recipe in RECIPES), strict=True)
    return base, list(candidates), [known_shift(entry) for entry in entries]


def test_a_run_s_shift_is_the_product_over_its_rates(pool):
    base, candidates, shifts = pool
    for recipe, candidate, shift in zip(RECIPES, candidates, shifts, strict=True):
        rates = np.array([rate(recipe, step, STEPS) for step in range(STEPS)])
        assert shift.steps == STEPS and shift.factor == pytest.approx(
            np.prod(1 - rates * recipe.weight_decay) - 1, rel=2e-3
        )
        dead, origin = candidate["w"][:DEAD].double(), base["w"][:DEAD].double()
        off = ((dead - origin) / origin - shift.factor).abs().max()
        assert 0 < off <= shift.error(torch.float32) < abs(shift.factor) / 100


def test_what_no_gradient_reached_is_counted_and_nothing_else(pool):
    base, candidates, shifts = pool
    w, still = decay_alone(base, candidates, shifts)
    assert (w.elements, still.elements, still.square) == (DEAD, 0, 0.0)
    mean = np.mean([candidate["w"].numpy() - base["w"].numpy() for candidate in candidates], axis=0)[:DEAD]
    assert w.square == pytest.approx(np.square(mean, dtype=np.float64).sum(), rel=1e-6)
    # One element that a gradient reached, in one candidate, and one that was zero and so never moved.
    base, touched = dict(base), [dict(candidate) for candidate in candidates]
    touched[1]["w"] = touched[1]["w"].clone()
    touched[1]["w"][5] += 1e-3 * base["w"][5]
    base["w"] = base["w"].clone()
    for weights in (base, *touched):
        weights["w"] = weights["w"].clone()
        weights["w"][6] = 0.0
    assert decay_alone(base, touched, shifts)[0].elements == DEAD - 2


@pytest.mark.slow
def test_why_signs_says_it_by_count_and_by_length(pool):
    base, candidates, shifts = pool
    found = why_signs(base, candidates, recipes=[recipe.json() for recipe in RECIPES], shifts=shifts, subsets=2)
    assert found.decay.elements == found.whole.decayed == sum(row.decayed for row in found.blocks) == DEAD
    deltas = np.stack([candidate["w"].numpy() - base["w"].numpy() for candidate in candidates]).astype(float)
    agree = np.abs(np.sign(deltas).sum(0)) == len(candidates)
    squares = deltas.mean(0) ** 2
    assert found.decay.unanimous == agree.sum() and found.decay.of_count == DEAD / agree.sum() > 0.9
    assert found.decay.of_length == pytest.approx(squares[:DEAD].sum() / squares[agree].sum())
    assert 0 < found.decay.of_length < 0.2
    assert f"Weight decay alone moved 3,000 of {agree.sum():,} unanimous elements" in found.decay_finding
    told = json.loads(json.dumps(found.json(), allow_nan=False))
    assert told["decay"]["of_unanimous"] == found.decay.of_count and told["whole"]["decay_alone"] == DEAD
    assert f"{100 * DEAD / found.whole.moved:>14.1f} %" in format_why(found)
    bars = [bar for bar in why_figure(found).axes[0].containers if bar[0].get_gid() == "decay"]
    assert [bar.get_height() for bar in bars[0]] == [DEAD / found.whole.moved] * 2


def test_without_decay_nothing_moved_by_it():
    base = base_weights()
    recipes = [RECIPES[0], replace(RECIPES[1], weight_decay=0.0)]
    candidates, entries = zip(*(trained(base, recipe, 20) for recipe in recipes), strict=True)
    shifts = [known_shift(entry) for entry in entries]
    assert shifts[0].factor < 0 == shifts[1].factor
    found = why_signs(base, list(candidates), shifts=shifts, subsets=2)
    assert found.decay.elements == found.whole.decayed == 0 and "moved none of" in found.decay_finding
    assert "by decay alone" not in format_why(found)
    assert not [bar for bar in why_figure(found).axes[0].containers if bar[0].get_gid() == "decay"]


def test_a_factor_that_float32_rounds_to_one_decays_nothing():
    base, recipe = base_weights(), replace(RECIPES[0], lr=1e-6, weight_decay=0.01)
    candidate, entry = trained(base, recipe, 20)
    assert known_shift(entry).factor == 0.0 and torch.equal(candidate["w"][:DEAD], base["w"][:DEAD])


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"file": "cars.safetensors"}},
        {"recipe": replace(RECIPES[0], optimizer="sgd").json()},
        {"recipe": replace(RECIPES[0], precision="float16").json()},
        {"losses": ()},
    ],
    ids=["elsewhere", "sgd", "float16", "no steps"],
)
def test_where_it_is_not_known(pool, change):
    base, candidates, shifts = pool
    entry = replace(Candidate("c", "c", "", RECIPES[0].json(), losses=(1.0,)), **change)
    assert known_shift(entry) is None
    for given in ((), [None, *shifts[1:]]):
        assert decay_alone(base, candidates, given) is None
    found = why_signs(base, candidates, subsets=2)
    assert found.decay is found.whole.decayed is None and "is not known" in found.decay_finding
    assert found.json()["decay"] is None


def test_half_precision_widens_the_error_until_nothing_is_known(pool):
    base, candidates, shifts = pool
    far = [Shift(20 * shift.factor, shift.steps) for shift in shifts]
    assert all(shift.is_known(torch.float16) for shift in far) and not shifts[0].is_known(torch.bfloat16)
    stored = [{"w": (base["w"] * (1 + shift.factor)).half(), "still": base["still"].half()} for shift in far]
    assert decay_alone(base, stored, far)[0].elements > 0.99 * (DEAD + LIVE)
    stored[2]["w"] = (stored[2]["w"].float() * 1.01).half()
    assert decay_alone(base, stored, far)[0].elements == 0
    rounded = [{name: tensor.bfloat16() for name, tensor in one.items()} for one in candidates]
    assert decay_alone(base, rounded, shifts) is None


def test_shifts_that_do_not_fit(pool):
    base, candidates, shifts = pool
    with pytest.raises(ParameterError, match="2 shifts for 3 candidates"):
        why_signs(base, candidates, shifts=shifts[:2])
