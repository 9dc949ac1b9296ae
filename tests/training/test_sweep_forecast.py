"""A grid's forecast: its own steps at the pace of a clock that counts them, and own scores in it."""

import json

import pytest
import torch

from negmerge_kit.cli import main
from negmerge_kit.data.embedded import family_images
from negmerge_kit.models.classifier import BATCH, Classifier
from negmerge_kit.models.load import load_model
from negmerge_kit.training import sweep_forecast
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.training.sweep_forecast import SEARCHED, assumed_seconds, measured_seconds, steps_of


class Clock:
    """Seconds that only training steps and forward passes over whole batches make go by."""

    def __init__(self, monkeypatch, *, step, image):
        self.now = 0.0
        features = Classifier.features

        def passed(model, images, *given, **more):
            self.now += image * len(images)
            return features(model, images, *given, **more)

        def counted(*given, **more):
            for taken in finetune(*given, **more):
                # The first step sets up, and one of the others is held up by something else.
                self.now += {1: 100.0, 3: 50.0}.get(taken.index, step)
                yield taken

        monkeypatch.setattr(Classifier, "features", passed)
        monkeypatch.setattr(sweep_forecast, "finetune", counted)

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", device="cpu")


def test_steps_and_scores_are_counted_at_the_pace_that_was_measured(model, monkeypatch):
    images = family_images("digits", "train").take(100)
    recipes = [Recipe(lr=1e-3, epochs=2, batch_size=20), Recipe(lr=2e-3, epochs=3, batch_size=20, seed=4)]
    before = {name: tensor.clone() for name, tensor in model.weights().items()}
    clock = Clock(monkeypatch, step=2.0, image=0.5)
    told = measured_seconds(model, images, recipes, scored=1000, clock=clock)
    # Two recipes of one kind: measured once, 10 and 15 steps.
    assert told["steps"] == 25 and told["training_seconds"] == pytest.approx(2.0 * 25)
    assert told["scoring_seconds"] == pytest.approx(2 * SEARCHED * 21 * 1000 * 0.5) and told["base_seconds"] == 0
    assert told["seconds"] == told["training_seconds"] + told["scoring_seconds"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.weights().items())
    assert clock.now < 400 + 0.5 * 4 * BATCH["cpu"]  # four steps and four passes, not the grid
    base = measured_seconds(model, images, recipes, scored=1000, base=(images, recipes[0]), clock=clock)
    assert base["base_seconds"] == pytest.approx(2.0 * 10) and base["steps"] == 35


def test_what_is_assumed_is_in_proportion_to_what_the_device_sustains(model):
    recipes = [Recipe(lr=1e-3, epochs=2, batch_size=20)]
    slow, fast = (assumed_seconds(model, 100, recipes, scored=50, tflops=tflops) for tflops in (1.0, 10.0))
    assert slow["seconds"] == pytest.approx(10 * fast["seconds"]) and slow["steps"] == steps_of(recipes[0], 100) == 10


def test_a_dry_run_measures_here_and_makes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_forecast, "seconds_of_a_step", lambda *given, **more: 0.25)
    monkeypatch.setattr(sweep_forecast, "seconds_of_an_image", lambda *given, **more: 0.001)
    words = ["sweep", "--scene", "tiny-classifier", "--grid", "tiny-classifier", "--out", str(tmp_path / "pool")]
    assert main([*words, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["measured"] and told["assumed_tflops"] is None and told["candidates"] == 8
    # 60 forgotten, 540 remaining and 240 unseen images choose.
    assert told["scoring_seconds"] == pytest.approx(8 * SEARCHED * 21 * 840 * 0.001)
    assert told["base_seconds"] > 0 and told["base_seconds"] + told["training_seconds"] == pytest.approx(
        0.25 * told["steps"]
    )
    assert not (tmp_path / "pool").exists()
    assert main([*words, "--dry-run"]) == 0 and "measured on cpu" in capsys.readouterr().out
    assert main([*words, "--tflops", "5"]) == 2 and "--tflops is for --dry-run" in capsys.readouterr().err


def test_without_the_data_the_forecast_says_what_it_assumes(capsys, tmp_path, monkeypatch):
    from negmerge_kit.data.embedded import EmbeddedSource

    monkeypatch.setattr(EmbeddedSource, "is_ready", lambda *given, **more: False)
    words = ["sweep", "--scene", "tiny:digits", "--grid", "tiny", "--out", str(tmp_path / "pool"), "--dry-run"]
    assert main([*words, "--tflops", "2"]) == 0
    said = capsys.readouterr().out
    assert "assumed: 2 TFLOP/s, because the data are not here yet" in said and "8 candidates" in said
