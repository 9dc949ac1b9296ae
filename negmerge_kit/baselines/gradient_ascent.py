"""Gradient ascent on what is to be forgotten (Thudi et al. 2022, arXiv:2109.13398)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, train_epochs
from negmerge_kit.training.loop import Step, View, truth


def rising(view: View) -> Tensor:
    """−CE: minimised, the loss on the forget set grows. It has no bound, so a large rate diverges."""
    return -truth(view)


def steps(run: Run) -> Iterator[Step]:
    """θ ← θ + η ∇ CE(θ; forget); weight decay still pulls towards zero, as in the reference."""
    return train_epochs(run, lambda epoch: [run.over(run.parts.forgotten, rising)])


GRADIENT_ASCENT = Baseline(
    name="gradient-ascent",
    title="Gradient ascent",
    paper="https://arxiv.org/abs/2109.13398",
    explains="Climbs the loss of the images to forget, and looks at nothing else.",
    reads=("forget",),
    parameters=SGD,
    presets={
        PAPER: Preset(
            (1e-5, 1e-4, 5e-4, 1e-3, 1e-2, 1e-1),
            5,
            "github.com/OPTML-Group/Unlearn-Sparse issue 5: 0.1 "
            "down to 1e-5, 5 epochs; with 5e-4 of Unlearn-Saliency issue 8.",
        ),
        TINY: Preset((3e-2, 6e-2, 0.1, 0.13, 0.16), 5, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
)
