"""Boundary shrink: move each image to forget over to its nearest other class (Chen et al. 2023, arXiv:2303.11570)."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, train_epochs
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.training.loop import Step, View


def attacked(base: Classifier, head: str, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """FGSM: uint8 images one step of size ε up the base's loss, x + ε sign ∇ₓ CE, on pixels in [0, 1].

    Normalisation divides by a positive number, so the sign is the same on normalised pixels; the sum is rounded to
    whole bytes, as in the reference.
    """
    with torch.enable_grad():
        pixels = base.pixels(images).requires_grad_()
        loss = cross_entropy(base.encode(pixels).float() @ base.head(head).T, labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, pixels)
    return (images.to(slope.device) + 255 * epsilon * slope.sign()).clamp(0, 255).round().to(torch.uint8)


def steps(run: Run) -> Iterator[Step]:
    """Minimise CE(θ; forget, ŷ) with ŷ the frozen base's class of the attacked image, in eval mode.

    Where the attack fails ŷ is the true label, as in the reference code.
    """
    base, head = deepcopy(run.model), run.parts.forgotten.name
    base.network.eval().requires_grad_(False)

    def towards_neighbour(view: View) -> Tensor:
        shifted = attacked(base, head, view.images, view.labels, run.settings["epsilon"])
        with torch.no_grad():
            nearest = (base.encode(base.pixels(shifted)) @ base.head(head).T).argmax(dim=1)
        return cross_entropy(view.logits, nearest)

    return train_epochs(run, lambda epoch: [run.over(run.parts.forgotten, towards_neighbour)])


BOUNDARY_SHRINK = Baseline(
    name="boundary-shrink",
    title="Boundary shrink",
    paper="https://arxiv.org/abs/2303.11570",
    explains="Relabels each image to forget with the class that a small attack turns it into, and trains on that.",
    reads=("forget",),
    parameters=(
        Parameter(
            "epsilon",
            "Attack size",
            "Step of the attack on pixels in [0, 1].",
            0.1,
            "float",
            low=0.0,
            high=1.0,
            low_open=True,
        ),
        *SGD,
    ),
    presets={
        PAPER: Preset(
            (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3),
            10,
            "github.com/OPTML-Group/Unlearn-WorstCase issue 1: 10 "
            "epochs, from 1e-8; where it ends and how densely they searched is not known here.",
        ),
        TINY: Preset((3e-4, 5e-4, 7e-4, 1e-3, 1.3e-3), 10, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
)
