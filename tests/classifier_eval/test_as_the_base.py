"""Base, retrained model and shadow models are trained alike: one recipe, one answer to whether images are mirrored."""

from typing import NamedTuple

import pytest
import torch

from negmerge_kit.checkpoints import atomic
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint, sha256_file
from negmerge_kit.classifier_eval.retrained_model import (
    KEY_OF_0_1,
    RetrainedSpec,
    find_retrained,
    keep_retrained,
    retraining,
)
from negmerge_kit.comparison.baseline_rows import evaluator_of, retrained
from negmerge_kit.comparison.options import ComparisonOptions
from negmerge_kit.errors import CheckpointError
from negmerge_kit.pools import result_store
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.scenes.partition import PartedSource
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.training import from_scratch
from negmerge_kit.training.seeding import derived_seed
from negmerge_kit.unlearning.workbench import Workbench


class Run(NamedTuple):
    """What a run was given, and the first weights that it began with."""

    images: int
    epochs: int
    may_mirror: bool
    seed: int
    weights: torch.Tensor


@pytest.fixture
def runs(monkeypatch):
    """Every run, of images that may be mirrored; nothing is trained."""
    runs, init = [], PartedSource.__init__

    def mirrored(self, *given):
        init(self, *given)
        self.flips = True

    def finetune(model, images, recipe, *, may_mirror, **how):
        runs.append(Run(len(images), recipe.epochs, may_mirror, recipe.seed, model.weights()["features.0.weight"]))
        yield from ()

    monkeypatch.setattr(PartedSource, "__init__", mirrored)
    monkeypatch.setattr(from_scratch, "finetune", finetune)
    return runs


def test_all_are_trained_as_the_base(runs, tmp_path, monkeypatch):
    scene = ClassifierScene("mirrored", "classifier:tiny", Forgetting("scans"), training={"epochs": 3})
    pool, _ = start_pool(scene, tmp_path / "pool", device="cpu")
    bench, terms = Workbench(pool, device="cpu"), ComparisonOptions(shadows=4)
    evaluator = evaluator_of(bench, terms)
    made = retrained(evaluator, terms).made_by["made_from"]
    halves = {scene.parts.on("remaining", split).fingerprint() for split in ("val", "test")}
    assert len(halves) == 2 and set(made["remaining"]) == halves and made["may_mirror"] is True
    assert evaluator.shadows is not None
    seen, remaining, shadow = 1200, 1080, (1200 + 240 + 357) / 2
    assert [(run.epochs, run.may_mirror) for run in runs] == [(3, True)] * 6
    assert [run.images for run in runs[:2]] == [seen, remaining]
    assert all(abs(run.images - shadow) < 150 for run in runs[2:])

    # Shadow models of another answer, code, torch or device are not these.
    folder = pool.folder / "shadows"
    made_from = open_checkpoint(next(folder.iterdir())).metadata["made_from"]
    assert made_from["may_mirror"] is True and made_from["recipe"]["epochs"] == 3
    assert result_store.made_with(bench.model.device).items() <= made_from.items()
    monkeypatch.setattr(result_store, "RESULTS_VERSION", -1)
    assert evaluator_of(bench, terms).shadows is not None
    assert len(runs) == 10 and len(list(folder.iterdir())) == 8


@pytest.mark.parametrize("seed", [0, 3])
def test_every_model_has_first_weights_and_an_order_of_its_own(runs, seed, tmp_path):
    """The base those of the seed asked for; the retrained and the shadow models of that seed none that another has."""
    scene = ClassifierScene("seeded", "classifier:tiny", Forgetting("scans"), training={"seed": seed, "epochs": 1})
    pool, _ = start_pool(scene, tmp_path / "pool", device="cpu")
    terms = ComparisonOptions(shadows=4, seed=seed)
    evaluator = evaluator_of(Workbench(pool, device="cpu"), terms)
    assert retrained(evaluator, terms).json()["seed"] == seed and evaluator.shadows is not None
    assert len(runs) == 6 and runs[0].seed == seed
    assert torch.equal(runs[0].weights, scene.untrained(device="cpu", seed=seed).weights()["features.0.weight"])
    assert len({run.seed for run in runs}) == len({run.weights.numpy().tobytes() for run in runs}) == 6
    assert not {run.seed for run in runs} & {derived_seed(seed + 1, "retrained model"), seed + 1}


def test_a_retrained_model_of_an_earlier_version_is_taken_by_its_name_only(runs, tmp_path, monkeypatch):
    """It may have begun with the base's own first weights, yet a card that names it can still be verified."""
    scene = ClassifierScene("earlier", "classifier:tiny", Forgetting("scans"), training={"epochs": 1})
    pool, _ = start_pool(scene, tmp_path / "pool", device="cpu")
    now = retraining(pool, 0)
    earlier = {name: value for name, value in now.items() if name != "seed"}
    earlier["recipe"] = {**earlier["recipe"], "seed": 0}
    path = pool.folder / "retrained-0123456789abcdef.safetensors"
    save_checkpoint(path, pool.base.items(), like=pool.base, metadata={KEY_OF_0_1: earlier, "seconds": 1.0})
    assert find_retrained(pool) is None is find_retrained(pool, RetrainedSpec(seed=0))
    named = find_retrained(pool, RetrainedSpec(sha256=sha256_file(path)))
    assert named.path == path and (named.json()["seed"], named.json()["epochs"]) == (0, 1)
    keep_retrained(pool, pool.base, {"seconds": 1.0}, RetrainedSpec(seed=4, device="cpu"))
    assert find_retrained(pool).json()["seed"] == 4

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(CheckpointError, match=f"cannot be written into {pool.folder}: make room there"):
        keep_retrained(pool, pool.base, {"seconds": 1.0}, RetrainedSpec(seed=5, device="cpu"))
