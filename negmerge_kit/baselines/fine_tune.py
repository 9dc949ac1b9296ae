"""Fine-tuning on what remains: forgetting by neglect (arXiv:2304.04934, section 2)."""

from __future__ import annotations

from collections.abc import Iterator

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, train_epochs
from negmerge_kit.training.loop import Step, truth


def steps(run: Run) -> Iterator[Step]:
    """θ ← θ − η ∇ CE(θ; remaining): a few epochs on the remaining set, with its own labels."""
    return train_epochs(run, lambda epoch: [run.over(run.parts.remaining, truth)])


FINE_TUNE = Baseline(
    name="fine-tune",
    title="Fine-tuning",
    paper="https://arxiv.org/abs/2304.04934",
    explains="Trains on for a few epochs on the remaining images only, and hopes that the others fade.",
    reads=("remaining",),
    parameters=SGD,
    presets={
        PAPER: Preset(
            (1e-4, 1e-3, 1e-2, 4e-2, 1e-1),
            10,
            "github.com/OPTML-Group/Unlearn-WorstCase issue 1: 10 "
            "epochs, 1e-4 to 1e-1, how densely is not stated; with 4e-2 of Unlearn-Sparse issue 8.",
        ),
        TINY: Preset((5e-2, 0.1, 0.2, 0.4), 10, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
)
