"""The base that a pool trains: where the flag says, going on where it was stopped, waited for, never made in vain."""

import shutil
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint
from negmerge_kit.cli import main
from negmerge_kit.comparison.baseline_rows import evaluator_of, retrained
from negmerge_kit.comparison.options import ComparisonOptions
from negmerge_kit.errors import PoolError, SceneError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.pools.pool_writer import writing
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.sweeps import pool_setup
from negmerge_kit.sweeps.pool_setup import STATE, _with_training, start_pool
from negmerge_kit.training import loop
from negmerge_kit.training.resume import StateFile
from negmerge_kit.unlearning.workbench import Workbench


class Stopped(Exception):
    """As a kill would, in the middle of training."""


@pytest.fixture(scope="module")
def scene():
    return ClassifierScene("short", "classifier:tiny", Forgetting("scans", share=0.1), training={"epochs": 1})


@pytest.fixture
def computed(monkeypatch):
    """The steps that were really computed; the state is saved after each."""
    steps, gradient, save = [], loop._gradient, StateFile.save
    monkeypatch.setattr(loop, "_gradient", lambda *given: steps.append(1) or gradient(*given))
    monkeypatch.setattr(StateFile, "save", lambda self, training, last: save(self, training, last=True))
    return steps


def stop_at(number, told):
    def on_step(progress):
        told.append((progress.step, progress.total))
        if progress.step == number:
            raise Stopped

    return on_step


@pytest.mark.slow
def test_a_base_goes_on_where_it_was_stopped(scene, tmp_path, computed):
    whole, _ = start_pool(scene, tmp_path / "whole", device="cpu")
    steps, told = len(computed), []
    computed.clear()
    with pytest.raises(Stopped):
        start_pool(scene, tmp_path / "pool", device="cpu", on_step=stop_at(15, told))
    assert told == [(index, steps) for index in range(1, 16)] and (tmp_path / "pool" / STATE).is_file()
    pool, _ = start_pool(scene, tmp_path / "pool", device="cpu", on_step=lambda progress: told.append(progress.step))
    assert len(computed) == steps and told[-1] == steps
    assert pool.base_file == whole.base_file
    assert not (tmp_path / "pool" / STATE).exists() and not (tmp_path / "whole" / STATE).exists()


@pytest.mark.slow
def test_an_unfinished_base_of_another_recipe_is_named_and_kept(scene, tmp_path, computed, capsys):
    whole, _ = start_pool(scene, tmp_path / "whole", device="cpu")
    pool, state = tmp_path / "pool", tmp_path / "pool" / STATE
    with pytest.raises(Stopped):
        start_pool(scene, pool, device="cpu", on_step=stop_at(5, []))
    kept = state.read_bytes()
    others = {
        "epochs 1 instead of 2, seed 0 instead of 7": replace(scene, training={"epochs": 2, "seed": 7}),
        "lr 0.05 instead of 0.1, epochs 1 instead of 2, weight_decay 0.0005 instead of 0.1, 1 more": replace(
            scene, training={"lr": 0.1, "epochs": 2, "weight_decay": 0.1, "seed": 7}
        ),
        "other network, images, base or kit version": replace(
            scene, forgetting=Forgetting("scans", share=0.1, seed=2, as_published=True)
        ),
        "lr 5e-2 · 1 epoch · wd 0.0005 · sgd; here none is trained": whole.folder,
    }
    for which, other in others.items():
        with pytest.raises(PoolError) as error:
            start_pool(other, pool, device="cpu")
        assert str(error.value) == (
            f"{pool} holds an unfinished base of another run ({which}): finish it as it was begun, "
            f"choose another folder with --out, or delete {state} to start over."
        )
    assert main(["pool", "build", "tiny", "--out", str(pool), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{pool} holds an unfinished base of another run (lr 5e-2" in said
    assert state.read_bytes() == kept and not (pool / "pool.json").exists()
    assert start_pool(scene, pool, device="cpu")[0].base_file == whole.base_file


def test_an_unfinished_base_that_does_not_tell_its_recipe_is_refused_all_the_same(scene, tmp_path, computed):
    """As version 0.1 kept it."""
    pool = tmp_path / "pool"
    with pytest.raises(Stopped):
        start_pool(scene, pool, device="cpu", on_step=stop_at(2, []))
    stored = open_checkpoint(pool / STATE)
    record = {name: value for name, value in stored.metadata.items() if name != "recipe"}
    layout = {name: stored[name].clone() for name in stored}
    save_checkpoint(pool / STATE, layout.items(), like=layout, metadata=record)
    with pytest.raises(PoolError, match=r"\(other recipe, network, images, base or kit version\)"):
        start_pool(replace(scene, training={"epochs": 2}), pool, device="cpu")
    with pytest.raises(PoolError, match=r"\(unknown; here none is trained\)"):
        start_pool("tiny:digits", pool, device="cpu")
    start_pool(scene, pool, device="cpu")


@pytest.mark.slow
def test_a_retrained_model_goes_on_where_it_was_stopped(classifier_pool, tmp_path, computed):
    folder = shutil.copytree(classifier_pool, tmp_path / "pool")
    evaluator, terms = (
        evaluator_of(Workbench(open_pool(folder), device="cpu"), ComparisonOptions(epochs=1)),
        ComparisonOptions(epochs=1),
    )
    stop = stop_at(10, told := [])
    with pytest.raises(Stopped):
        retrained(evaluator, terms, stop)
    (state,) = (folder / "baselines").glob("retrain-*.unfinished.safetensors")
    found = retrained(evaluator, terms)
    assert len(computed) == told[-1][1] and not state.exists()
    weights = dict(found.weights.items())
    found.path.unlink()
    again = retrained(evaluator, terms, recompute=True)
    assert len(computed) == 2 * told[-1][1]
    assert all(bool((weights[name] == tensor).all()) for name, tensor in again.weights.items())


def test_the_time_before_the_stop_is_charged_too(classifier_pool, tmp_path, computed):
    folder = shutil.copytree(classifier_pool, tmp_path / "pool")
    bench, terms = Workbench(open_pool(folder), device="cpu"), ComparisonOptions(epochs=1)
    with pytest.raises(Stopped):
        retrained(evaluator_of(bench, terms), terms, stop_at(18, []))
    (state,) = (folder / "baselines").glob("retrain-*.unfinished.safetensors")
    before = float(open_checkpoint(state).metadata["seconds"])
    assert before > 0 and retrained(evaluator_of(bench, terms), terms).seconds > before


def test_whoever_trains_the_base_is_waited_for_as_long_as_it_takes(scene, tmp_path, monkeypatch):
    other, waits, told = ExitStack(), [], []
    other.enter_context(writing(tmp_path / "pool"))

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            other.close()  # it was killed before it had written the base

    hours = SimpleNamespace(sleep=sleep, monotonic=count(0, 3600).__next__)
    monkeypatch.setattr(pool_setup, "time", hours)
    pool, _ = start_pool(scene, tmp_path / "pool", device="cpu", on_wait=told.append)
    assert len(waits) == 3 and told == [tmp_path / "pool"] and pool.verify() == []


def test_every_seed_has_a_pool_of_its_own(scene, tmp_path):
    """By its description, which the folder in the cache is named by; another seed's folder is refused."""
    start_pool(scene, tmp_path / "pool", device="cpu")
    seeded = replace(scene, training={"epochs": 1, "seed": 1})
    with pytest.raises(SceneError, match="differs from what this version makes in how its base is trained"):
        start_pool(seeded, tmp_path / "pool", device="cpu")
    folders = {pool_setup.default_folder(_with_training(one).describe()) for one in (scene, seeded)}
    assert len(folders) == 2


def test_a_lost_base_is_told_before_anything_is_trained(scene, tmp_path, monkeypatch):
    pool, _ = start_pool(scene, tmp_path / "pool", device="cpu")
    monkeypatch.setattr(pool_setup, "trained_base", lambda *given, **named: pytest.fail("trained in vain"))
    (pool.folder / "heads.safetensors").unlink()
    assert "heads.safetensors is missing" in start_pool(scene, pool.folder)[1][0]
    base = pool.folder / "base.safetensors"
    whole = base.read_bytes()
    base.write_bytes(whole[:-4] + b"\1\2\3\4")
    with pytest.raises(PoolError, match=r"delete .*pool and build the pool again"):
        start_pool(scene, pool.folder)
    assert base.read_bytes()[:-4] == whole[:-4]
    base.unlink()
    with pytest.raises(PoolError, match="missing or changed"):
        start_pool(scene, pool.folder)


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "--scene", "tiny-classifier", "--grid", "tiny-classifier"],
        ["pool", "build", "tiny-classifier"],
        ["forget", "--model", "tiny", "--forget", "digits", "--retain", "shapes", "--grid", "tiny"],
        ["reproduce", "clip-negation", "--model", "tiny", "--datasets", "digits", "--control", "shapes"],
        ["reproduce", "cifar10-random", "--model", "tiny", "--data", "scans"],
    ],
)
def test_the_base_is_trained_on_the_device_that_was_named(words, tmp_path, monkeypatch, capsys):
    devices = []

    def start(scene, folder, **named):
        devices.append(named.get("device"))
        raise PoolError("enough.")

    monkeypatch.setattr(pool_setup, "start_pool", start)
    assert main([*words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert devices == ["cpu"], capsys.readouterr().err


def test_the_device_reaches_the_base(scene, tmp_path, monkeypatch):
    devices, untrained = [], ClassifierScene.untrained

    def recorded(self, *, device="auto", **named):
        devices.append(device)
        return untrained(self, device=device, **named)

    monkeypatch.setattr(ClassifierScene, "untrained", recorded)
    start_pool(scene, tmp_path / "pool", device="cpu")
    assert devices == ["cpu"]
