"""SCRUB: away from the base on what is to be forgotten, towards it on the rest (Kurmanji et al. 2023, 2302.09880)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from negmerge_kit.baselines.baseline import EMBEDDED, MOMENTUM, PAPER, TINY, WEIGHT_DECAY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, SeededPass, frozen, train_epochs
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, View, truth


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher / T) ‖ softmax(student / T)) of logits [n, C], the mean over the batch."""
    target, learnt = log_softmax(teacher / temperature, dim=1), log_softmax(student / temperature, dim=1)
    return kl_div(learnt, target, reduction="batchmean", log_target=True) * temperature**2


def decay(epoch: int) -> float:
    """A tenth of the rate after the third, the fifth and the ninth epoch, counted from 0 here.

    >>> [decay(epoch) for epoch in (0, 2, 3, 5)]
    [1.0, 1.0, 0.1, 0.01]
    """
    return float(f"1e-{sum(epoch >= late for late in (3, 5, 9))}")


def steps(run: Run) -> Iterator[Step]:
    """In the first `max_epochs` epochs minimise −KL(base ‖ θ) on forget; in every epoch then α KL + γ CE on remaining.

    As the authors' notebooks do, with the batches that these load, 512 and 256. Their scrub.py takes one max-epoch more
    than its option says, and its optimiser holds the weights of the model, not of the copy that it trains.
    """
    settings, parts = run.settings, run.parts
    teacher = frozen(run.model, parts.remaining.name)

    def apart(view: View) -> Tensor:
        return divergence(view.logits, teacher(view.images), settings["temperature"])

    def away(view: View) -> Tensor:
        return -apart(view)

    def near(view: View) -> Tensor:
        both: Tensor = settings["alpha"] * apart(view) + settings["gamma"] * truth(view)
        return both

    def passes(epoch: int) -> Sequence[SeededPass]:
        most = (
            [run.over(parts.forgotten, away, settings["forget_batch_size"])] if epoch < settings["max_epochs"] else []
        )
        return [*most, run.over(parts.remaining, near)]

    return train_epochs(run, passes, decay=decay)


SCRUB = Baseline(
    name="scrub",
    title="SCRUB",
    paper="https://arxiv.org/abs/2302.09880",
    explains="Drives the network away from the base's answers on the images to forget, and mends the rest in turn.",
    reads=("forget", "remaining"),
    parameters=(
        Parameter(
            "alpha",
            "Distillation",
            "Weight α of the divergence from the base on the remaining images.",
            0.001,
            "float",
            low=0.0,
        ),
        Parameter("gamma", "Labels", "Weight γ of the cross-entropy on the remaining images.", 0.99, "float", low=0.0),
        Parameter("temperature", "Temperature", "Temperature of the divergence.", 4.0, "float", low=0.0, low_open=True),
        Parameter("max_epochs", "Epochs of forgetting", "First epochs over the images to forget.", 2, "int", low=1),
        Parameter("forget_batch_size", "Batch size, forget", "Images to forget a step.", 512, "int", low=2),
        Parameter("batch_size", "Batch size, remaining", "Remaining images a step.", 256, "int", low=2),
        MOMENTUM,
        WEIGHT_DECAY,
    ),
    presets={
        PAPER: Preset(
            (1e-4, 5e-4, 1e-3, 1e-2, 1e-1),
            3,
            "the authors' large_scale_unlearning notebook: 3 epochs at "
            "5e-4; the range 1e-4 to 1e-1 is Unlearn-WorstCase issue 1's, which runs 10 epochs.",
        ),
        TINY: Preset((2e-3, 5e-3, 1e-2, 2e-2, 4e-2), 3, EMBEDDED, {"batch_size": 64, "forget_batch_size": 32}),
    },
    steps=steps,
)
