"""Fine-tuning under an L1 penalty that fades (Jia et al. 2023, arXiv:2304.04934)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, SeededPass, train_epochs
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, View, truth


def strength(alpha: float, epoch: int, epochs: int, without: int) -> float:
    """α_t = α (1 − t / (T − T₀)) in epoch t of T counted from 0, and 0 in the last T₀.

    >>> [strength(1.0, epoch, 5, 1) for epoch in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    penalised = epochs - without
    return alpha * (1 - epoch / penalised) if epoch < penalised else 0.0


def steps(run: Run) -> Iterator[Step]:
    """Minimise CE(θ; remaining) + α_t ‖θ‖₁ over every parameter, those of BatchNorm and biases too, as in the code."""
    network = run.model.tower

    def passes(epoch: int) -> Sequence[SeededPass]:
        alpha = strength(run.settings["alpha"], epoch, run.epochs, run.settings["epochs_without"])

        def penalised(view: View) -> Tensor:
            norms = torch.stack([weight.abs().sum() for weight in network.parameters()])
            return truth(view) + alpha * norms.sum()

        return [run.over(run.parts.remaining, penalised)]

    return train_epochs(run, passes)


L1_SPARSE = Baseline(
    name="l1-sparse",
    title="ℓ1-sparse",
    paper="https://arxiv.org/abs/2304.04934",
    explains="Trains on the remaining images while a penalty, strongest at first, thins the weights out.",
    reads=("remaining",),
    parameters=(
        Parameter(
            "alpha",
            "Penalty",
            "Weight α of the L1 norm in the first epoch. The reference code's own default, "
            "0.2, is meant for influence; 1e-4 is what public re-runs of it use.",
            1e-4,
            "float",
            low=0.0,
        ),
        Parameter("epochs_without", "Epochs without it", "Last epochs that go without the penalty.", 0, "int", low=0),
        *SGD,
    ),
    presets={
        PAPER: Preset((1e-3, 1e-2, 1e-1), 10, "the reference code: 10 epochs at 0.01; the neighbours are this kit's."),
        TINY: Preset((1e-2, 5e-2, 0.1, 0.2), 10, EMBEDDED, {"batch_size": 64, "alpha": 1e-3}),
    },
    steps=steps,
)
