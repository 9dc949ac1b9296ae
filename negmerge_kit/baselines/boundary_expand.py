"""Boundary expanding: a shadow class takes in what is to be forgotten (Chen et al. 2023, arXiv:2303.11570)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, train_epochs
from negmerge_kit.training.loop import Step, View


def shadow_row(run: Run, features: int) -> torch.nn.Parameter:
    """A new class's weights and bias, [1, features + 1], uniform in ±1/√features as `torch.nn.Linear` starts."""
    draw = torch.Generator().manual_seed(run.seed_of(0, 9))
    row = (2 * torch.rand(1, features + 1, generator=draw) - 1) / features**0.5
    return torch.nn.Parameter(row.to(run.model.device))


def steps(run: Run) -> Iterator[Step]:
    """Minimise CE(θ; forget, class C) over C + 1 logits; afterwards the network has its C classes again.

    The row of class C trains together with the network and is never part of it. The reference code leaves it in, so
    that its unlearned network may answer with a class that does not exist: its accuracies are those of C + 1 classes.
    """
    shadow = shadow_row(run, run.model.head(run.parts.forgotten.name).shape[1] - 1)

    def into_shadow(view: View) -> Tensor:
        logits = view.features @ torch.cat([view.classes, shadow]).T
        return cross_entropy(logits, torch.full_like(view.labels, len(view.classes)))

    return train_epochs(run, lambda epoch: [run.over(run.parts.forgotten, into_shadow)], extra=[shadow])


BOUNDARY_EXPAND = Baseline(
    name="boundary-expand",
    title="Boundary expanding",
    paper="https://arxiv.org/abs/2303.11570",
    explains="Teaches a class that does not exist with the images to forget, and then takes that class away.",
    reads=("forget",),
    parameters=SGD,
    presets={
        PAPER: Preset(
            (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3),
            10,
            "github.com/OPTML-Group/Unlearn-WorstCase issue 1: 10 "
            "epochs, from 1e-8; where it ends and how densely they searched is not known here.",
        ),
        TINY: Preset((3e-4, 5e-4, 7e-4, 9e-4, 1.2e-3), 10, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
)
