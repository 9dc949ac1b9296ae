"""Fine-tuning: only the image tower moves, the same recipe gives the same weights, faults are named."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from negmerge_kit.data.embedded import family_images
from negmerge_kit.errors import DivergedError, ParameterError
from negmerge_kit.models.load import load_model
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.grids import PRESETS
from negmerge_kit.training.recipe import Recipe, grid


def _trained(recipe, n=192):
    model = load_model("tiny", device="cpu")
    steps = list(finetune(model, family_images("digits", "train").take(n), recipe))
    return model, steps


@pytest.mark.slow
def test_loss_falls_and_only_the_image_tower_moves():
    base = load_model("tiny", device="cpu").weights()
    model, steps = _trained(Recipe(lr=2e-3, epochs=6))
    assert steps[-1].index == steps[-1].total == 18
    assert sum(s.loss for s in steps[-3:]) < 0.6 * sum(s.loss for s in steps[:3])
    for name, tensor in model.weights().items():
        if not name.startswith("visual."):
            assert torch.equal(tensor, base[name]), name
    assert any(not torch.equal(t, base[n]) for n, t in model.weights().items() if n.startswith("visual."))
    assert not any(p.requires_grad for p in model.network.parameters()) and not model.network.training


@pytest.mark.slow
def test_the_rate_warms_up_and_falls_to_zero():
    _, steps = _trained(Recipe(lr=1e-3, epochs=10, warmup=3))
    rates = [step.lr for step in steps]
    assert rates[0] == pytest.approx(1e-3 / 3) and max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 1e-5 and rates[3:] == sorted(rates[3:], reverse=True)


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_weights_and_another_seed_does_not():
    def weights(seed):
        return _trained(Recipe(lr=1e-3, epochs=1, seed=seed))[0].weights()["visual.proj"]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_rate_that_explodes_is_named():
    with pytest.raises(ParameterError, match="lower the learning rate"):
        _trained(Recipe(lr=1e30, epochs=40, warmup=0, clip_norm=1e30))


def test_weights_that_the_last_step_broke_are_no_candidate():
    """Every loss was a number: the one that would not be is never computed."""
    with pytest.raises(DivergedError, match="the last, with"):
        _trained(Recipe(lr=1e30, epochs=1, warmup=0, weight_decay=1e10, batch_size=4096))


@pytest.mark.parametrize(
    "change", [{"lr": 0}, {"lr": float("nan")}, {"epochs": 0}, {"weight_decay": -1}, {"label_smoothing": 1.0}]
)
def test_recipes_out_of_range(change):
    with pytest.raises(ParameterError, match=next(iter(change))):
        Recipe(**{"lr": 1e-3, "epochs": 1, **change})


@given(st.floats(1e-6, 1e-1), st.integers(1, 99), st.floats(0, 1))
def test_recipes_survive_pool_json(lr, epochs, decay):
    recipe = Recipe(lr=lr, epochs=epochs, weight_decay=decay)
    assert Recipe.from_json(recipe.json()) == recipe


def test_foreign_recipes_are_refused():
    with pytest.raises(ParameterError, match="unknown settings"):
        Recipe.from_json({"lr": 1e-3, "epochs": 1, "speed": 9})
    with pytest.raises(ParameterError, match="incomplete"):
        Recipe.from_json({"lr": 1e-3})


def test_grids_hold_no_recipe_twice():
    for recipes in map(grid, PRESETS):
        assert len(set(recipes)) == len(recipes) >= 8
