"""How a run is computed never changes what it computes: parts of batches, a kill and going on."""

import copy
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch

from negmerge_kit.data.embedded import family_images
from negmerge_kit.errors import CheckpointError, ParameterError
from negmerge_kit.models.linearized import linearize
from negmerge_kit.models.load import load_model
from negmerge_kit.models.parameters import trained_parameters
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.recipe import Recipe

RECIPE = Recipe(lr=1e-3, epochs=2, label_smoothing=0.1, seed=3)
EVERY_STEP = Execution(save_seconds=0)


@pytest.fixture(scope="module")
def digits():
    return family_images("digits", "train").take(130)  # batches of 64, 64 and 2


@cache
def _loaded():
    return load_model("tiny", device="cpu")


def _fresh():
    """A model of the base's weights, without the second that it takes to load them."""
    return copy.deepcopy(_loaded())


@pytest.fixture
def base():
    return _loaded()


def _trained(digits, recipe=RECIPE, model=None, **how):
    model = model or _fresh()
    return model, list(finetune(model, digits, recipe, **how))


def _same(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.fixture(scope="module")
def whole(digits):
    model, steps = _trained(digits)
    return model.weights(), steps


@pytest.mark.slow
def test_parts_of_a_batch_give_the_whole_batchs_gradient(digits):
    """Also where the last part, 64 = 24 + 24 + 16, or the last batch, 2, is smaller."""
    gradients = {}
    for micro in (None, 24):
        model = _fresh()
        still, how = replace(RECIPE, clip_norm=1e9, lr=1e-12), Execution(micro_batch=micro)
        for step in finetune(model, digits, still, execution=how):  # the gradients of each step stay until the next
            gradients[micro, step.index] = {n: p.grad.clone() for n, p in model.tower.named_parameters()}
    for index in (1, 3):
        for name, gradient in gradients[None, index].items():
            torch.testing.assert_close(gradients[24, index][name], gradient, rtol=1e-4, atol=1e-6)
    assert len(gradients) == 12


@pytest.mark.parametrize("stops", [(2, 5), (3,), (6,)])
def test_a_run_that_was_stopped_ends_bit_for_bit_alike(digits, whole, tmp_path, stops):
    """Stopped within an epoch, several times, between two, and after the last step, before the candidate was saved."""
    weights, steps = whole
    state = tmp_path / "state.safetensors"
    for stop in stops:
        run = finetune(_fresh(), digits, RECIPE, resume=state, execution=EVERY_STEP)
        assert [next(run) for _ in range(stop)] == steps[:stop]
        run.close()
    model, again = _trained(digits, resume=state)
    assert again == steps and _same(model.weights(), weights)


@pytest.mark.slow
def test_a_killed_process_is_resumed(digits, whole, tmp_path):
    state, code = (
        tmp_path / "state.safetensors",
        (
            "import json, sys, pathlib\n"
            "from negmerge_kit.training.finetuning import finetune\n"
            "from negmerge_kit.training.recipe import Recipe\n"
            "from negmerge_kit.training.execution import Execution\n"
            "from negmerge_kit.models.load import load_model\n"
            "from negmerge_kit.data.embedded import family_images\n"
            "recipe = Recipe.from_json(json.loads(sys.argv[2]))\n"
            "images = family_images('digits', 'train').take(130)\n"
            "for step in finetune(load_model('tiny', device='cpu'), images, recipe, resume=pathlib.Path(sys.argv[1]),\n"
            "                     execution=Execution(save_seconds=0)):\n"
            "    print(step.index, flush=True)\n"
            "    input()\n"
        ),
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(state), json.dumps(RECIPE.json())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(4):
            assert process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
        os.kill(process.pid, signal.SIGKILL)
    weights, steps = whole
    model, again = _trained(digits, resume=state)
    assert again == steps and _same(model.weights(), weights)


def test_the_state_of_another_run_is_refused(digits, tmp_path):
    state = tmp_path / "state.safetensors"
    _trained(digits, replace(RECIPE, epochs=1), resume=state)
    for change in ({"epochs": 2}, {"epochs": 1, "seed": 4}):
        with pytest.raises(CheckpointError, match="state of another run"):
            _trained(digits, replace(RECIPE, **change), resume=state)
    with pytest.raises(CheckpointError, match="state of another run"):
        _trained(digits.take(129), replace(RECIPE, epochs=1), resume=state)
    other = _fresh()
    other.tower.proj.data[0, 0] += 1
    with pytest.raises(CheckpointError, match="state of another run"):
        _trained(digits, replace(RECIPE, epochs=1), model=other, resume=state)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        _trained(digits, replace(RECIPE, epochs=1), resume=state)


@pytest.mark.parametrize("group", ["no-attention", "last-1", "norms"])
def test_only_the_named_parameters_move(digits, base, group):
    model, _ = _trained(digits, replace(RECIPE, epochs=1, trainable=group))
    before, chosen = base.weights(), trained_parameters(base.tower, group)
    moved = {name for name, tensor in model.weights().items() if not torch.equal(tensor, before[name])}
    assert moved == {f"visual.{name}" for name in chosen}


def test_half_precision_computes_only(digits, whole):
    recipe = replace(RECIPE, precision="bfloat16")
    model, steps = _trained(digits, recipe)
    assert {tensor.dtype for tensor in model.weights().values()} == {torch.float32}
    losses, exact = [step.loss for step in steps], [step.loss for step in whole[1]]
    assert losses != exact and losses == pytest.approx(exact, rel=0.05)
    with pytest.raises(ParameterError, match="float16 needs a CUDA device"):
        _trained(digits, replace(RECIPE, precision="float16"))


@pytest.mark.slow
def test_scaled_gradients_of_float16_train_alike_and_resume(digits, whole, tmp_path, monkeypatch):
    """The scaler, on the CPU, where nobody would want it: what it does to gradients must come out of them again."""
    monkeypatch.setattr(Execution, "check", lambda *args: None)
    # From its usual start of 65,536 the scaler skips the first steps, as it is meant to; here none may be missing.
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=256.0))
    recipe, state = replace(RECIPE, precision="float16"), tmp_path / "state.safetensors"
    model, steps = _trained(digits, recipe)
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in whole[1]], rel=0.02)
    run = finetune(_fresh(), digits, recipe, resume=state, execution=EVERY_STEP)
    assert [next(run) for _ in range(4)] == steps[:4]
    run.close()
    other, again = _trained(digits, recipe, resume=state)
    assert again == steps and _same(other.weights(), model.weights())


@pytest.mark.slow
def test_a_linear_model_trains_and_its_loss_falls(digits, base):
    recipe = Recipe(lr=1e-3, epochs=4, trainable="no-attention")
    linear, steps = _trained(digits, recipe, model=linearize(base))
    assert sum(step.loss for step in steps[-3:]) < 0.8 * sum(step.loss for step in steps[:3])
    before = base.weights()
    moved = {name for name, tensor in linear.weights().items() if not torch.equal(tensor, before[name])}
    assert moved == {f"visual.{name}" for name in trained_parameters(base.tower, "no-attention")}
    with pytest.raises(ParameterError, match="cannot be compiled"):
        _trained(digits, recipe, model=linear, execution=Execution(compile=True))


@pytest.mark.slow
def test_a_compiled_tower_trains_alike(digits, whole, monkeypatch):
    """With the tracing of torch.compile but without the code generator, which takes a minute."""
    compiled, real = [], torch.compile

    def tracing(function):
        compiled.append(function)
        return real(function, backend="eager")

    monkeypatch.setattr(torch, "compile", tracing)
    _, steps = _trained(digits, replace(RECIPE, epochs=1), execution=Execution(compile=True))
    assert len(compiled) == 1 and len(steps) == 3
    assert steps[0].loss == pytest.approx(whole[1][0].loss, abs=1e-5)


def test_batch_normalisation_sees_whole_batches_or_nothing():
    tower = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    model = SimpleNamespace(device=torch.device("cpu"), mode="standard", tower=tower)
    Execution(micro_batch=64).check(model, RECIPE)
    with pytest.raises(ParameterError, match="batch normalisation"):
        Execution(micro_batch=32).check(model, RECIPE)
    with pytest.raises(ParameterError, match="micro_batch = 0, ahead = 0"):
        Execution(micro_batch=0, ahead=0)


def test_saving_takes_a_small_share_of_a_run(tmp_path, monkeypatch):
    """On a clock of the test's own: saves of 3 s, asked for every second, come at 60 s and then 150 s apart."""
    from negmerge_kit.training import resume

    now, saves = [0.0], []

    def slow(*args, **settings):
        saves.append(now[0])
        now[0] += 3

    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(resume, "save_checkpoint", slow)
    training = SimpleNamespace(tensors=dict, losses=[], earlier=0.0, scaler=SimpleNamespace(state_dict=dict))
    state = resume.StateFile(tmp_path / "s.safetensors", "run", RECIPE, every=60.0)
    for _ in range(400):
        now[0] += 1
        state.save(training, last=False)
    assert saves[:3] == [60.0, 213.0, 366.0]
