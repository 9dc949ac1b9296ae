"""The training loop itself: several passes go on where they were stopped, and weights that broke are named."""

from dataclasses import replace

import pytest
import torch

from negmerge_kit.errors import DivergedError, OtherRunError
from negmerge_kit.training.loop import gradients, image_pass, train, truth
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.training.resume import StateFile
from tests.baselines.two_weights import TwoWeights, images_of

RECIPE = Recipe(lr=0.1, epochs=1, batch_size=2)
SETS = (images_of("first", [0, 51, 102, 153, 204], [0, 1, 0, 1, 1]), images_of("second", [20, 90, 255], [1, 0, 1]))


def run(model, path=None, text="these", **how):
    """Three steps over the first set, two over the second and three over the first again, in other orders."""
    state = StateFile(path, text, RECIPE, every=0) if path else None
    network = model.tower
    optimizer = torch.optim.SGD(network.parameters(), momentum=0.9)
    passes = [
        image_pass(model, SETS[k % 2], replace(RECIPE, epochs=epochs, seed=k), truth)
        for k, epochs in enumerate((1, 1, 2))
    ]
    with gradients(model, train=True):
        yield from train(
            network,
            passes,
            optimizer,
            lambda step: 0.1 / (1 + step),
            seed=lambda step: step,
            hint="these rates: lower them.",
            state=state,
            **how,
        )


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 8, 11])
def test_passes_go_on_where_they_were_stopped(tmp_path, stop):
    """Within each pass, between two, and after the last."""
    whole, stopped, model = (TwoWeights(0.8, -0.3) for _ in range(3))
    steps = list(run(whole))
    assert [step.total for step in steps] == [11] * 11 and steps[4].lr == pytest.approx(0.02)
    first = run(stopped, tmp_path / "state.safetensors")
    assert [next(first) for _ in range(stop)] == steps[:stop]
    first.close()
    assert list(run(model, tmp_path / "state.safetensors")) == steps
    assert torch.equal(model.tower.weight, whole.tower.weight)
    with pytest.raises(OtherRunError):
        next(run(TwoWeights(), tmp_path / "state.safetensors", text="others"))


def test_what_follows_a_step_is_done_before_the_state_is_kept(tmp_path):
    model, again, calls = TwoWeights(0.8, -0.3), TwoWeights(0.8, -0.3), []

    @torch.no_grad()
    def halve():
        calls.append(1)
        model.tower.weight.mul_(0.5)

    steps = list(run(model, tmp_path / "state.safetensors", after=halve))
    assert len(calls) == len(steps) == 11
    list(run(again, tmp_path / "state.safetensors"))
    assert torch.equal(model.tower.weight, again.tower.weight)


@pytest.mark.parametrize(
    ("at", "steps", "message"),
    [
        (3, 3, r"the loss became nan at step 4 with"),
        (11, 10, r"weights became NaN or infinite at step 11, the last, with"),
    ],
)
def test_weights_that_a_step_broke_are_named(at, steps, message):
    """By the next loss or, after the last step, by the weights themselves."""
    model, calls, done = TwoWeights(0.8, -0.3), [], []

    @torch.no_grad()
    def broken():
        calls.append(1)
        if len(calls) == at:
            model.tower.weight.fill_(float("inf"))

    with pytest.raises(DivergedError, match=rf"{message} these rates: lower them\.$"):
        for step in run(model, after=broken):
            done.append(step)
    assert len(done) == steps and not model.tower.weight.requires_grad


def test_a_clipped_gradient_is_no_longer_than_that():
    model = TwoWeights(0.8, -0.3)
    for _ in run(model, clip_norm=0.01):
        assert float(model.tower.weight.grad.norm()) == pytest.approx(0.01, rel=1e-3)
