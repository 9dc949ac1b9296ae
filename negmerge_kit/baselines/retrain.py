"""Retraining without what is to be forgotten: exact unlearning, which every other method is held against."""

from __future__ import annotations

from collections.abc import Iterator

from negmerge_kit.baselines.baseline import PAPER, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run
from negmerge_kit.training.from_scratch import BaseTraining
from negmerge_kit.training.loop import Step


def steps(run: Run) -> Iterator[Step]:
    """Train an untrained network on the remaining set as the base was trained on all, with the run's rate and epochs.

    The base's weights and the forget set are never looked at. First weights and order come from a derived seed (see
    `BaseTraining.retrained`): those of the run's seed may have made the base.
    """
    training = BaseTraining(run.recipe, run.may_mirror).but(lr=run.rate, epochs=run.epochs).retrained(run.seed)
    run.model.load(run.fresh(training.recipe.seed).weights().items())
    return training.steps(run.model, run.parts.remaining, resume=run.resume)


RETRAIN = Baseline(
    name="retrain",
    title="Retrain",
    paper="https://arxiv.org/abs/1912.03817",
    explains="Trains a new network on the remaining images only: the reference, and the dearest way.",
    reads=("remaining",),
    parameters=(),
    presets={
        PAPER: Preset(
            (),
            None,
            "the base's own recipe. For CIFAR-10 the reference code's authors give 182 epochs from "
            "0.1; Unlearn-Sparse's command has 160.",
        ),
        TINY: Preset((), None, "the base's own recipe."),
    },
    steps=steps,
)
