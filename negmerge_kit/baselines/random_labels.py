"""Random labels for what is to be forgotten, the true ones for the rest (Golatkar et al. 2020, arXiv:1911.04933)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, SeededPass, train_epochs
from negmerge_kit.training.loop import Step, View, truth


def passes(run: Run, epoch: int) -> Sequence[SeededPass]:
    """Of one epoch: the forget set with newly drawn labels, and then the remaining set with its own.

    As in SalUn's code for CIFAR-10, the labels are uniform over all classes, so that one in C is the truth, and the
    two sets take turns; for CIFAR-100 and Tiny-ImageNet that code shuffles them into one pass, which this does not.
    """
    draw = torch.Generator().manual_seed(run.seed_of(epoch, 9))

    def at_random(view: View) -> Tensor:
        labels = torch.randint(len(view.classes), view.labels.shape, generator=draw)
        return cross_entropy(view.logits, labels.to(view.labels.device))

    return [run.over(run.parts.forgotten, at_random), run.over(run.parts.remaining, truth)]


def steps(run: Run) -> Iterator[Step]:
    """Every epoch θ ← θ − η ∇ CE(θ; forget, random labels), then θ ← θ − η ∇ CE(θ; remaining)."""
    return train_epochs(run, lambda epoch: passes(run, epoch))


RANDOM_LABELS = Baseline(
    name="random-labels",
    title="Random labels",
    paper="https://arxiv.org/abs/1911.04933",
    explains="Teaches the images to forget with labels drawn at random, and goes over the remaining ones in between.",
    reads=("forget", "remaining"),
    parameters=SGD,
    presets={
        PAPER: Preset(
            (1e-4, 1e-3, 1e-2, 1.3e-2, 1e-1),
            10,
            "github.com/OPTML-Group/Unlearn-WorstCase issue 1: 10 "
            "epochs, 1e-4 to 1e-1; with SalUn's 0.013. How densely they searched is not stated.",
        ),
        TINY: Preset((1e-4, 3e-4, 5e-4, 1e-3), 10, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
)
