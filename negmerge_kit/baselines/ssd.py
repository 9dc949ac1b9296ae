"""SSD, selective synaptic dampening: shrink what matters to the forget set only (Foster et al. 2024, 2308.07707)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, by_name, slope
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, check_finite, gradients


def factors(full: Tensor, forget: Tensor, alpha: float, dampening: float) -> Tensor:
    """min(λ I / I_f, 1) where I_f > α I, else 1: what each weight is multiplied with.

    >>> full, forget = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([2.0, 4.0, 0.5, 0.0])
    >>> factors(full, forget, alpha=2.0, dampening=1.0), factors(full, forget, alpha=1.0, dampening=3.0)
    (tensor([1.0000, 0.2500, 1.0000, 1.0000]), tensor([1.0000, 0.7500, 1.0000, 1.0000]))
    """
    return torch.where(forget > alpha * full, (dampening * full / forget).clamp(max=1), 1.0)


def steps(run: Run) -> Iterator[Step]:
    """θ ← θ · factors(I, I_f), with I the mean of squared gradients over both sets, and I_f that of the forget set.

    In eval mode; no image is augmented, and `epochs` has no meaning. The paper's Fisher information squares the
    gradient of each image; the authors' code, which this follows, that of a batch's mean loss, and batches of 1 are the
    paper. Batches are drawn from the seed and hold images of one set, so that each is looked at once: the code goes
    over the forget set again for I. A step is a batch, its loss the length of its gradient; the last one dampens.
    """
    sets, size = (run.parts.forgotten, run.parts.remaining), run.settings["batch_size"]
    draw = torch.Generator().manual_seed(run.seed)
    plan = [(images, chosen) for images in sets for chosen in torch.randperm(len(images), generator=draw).split(size)]
    of_forget = sum(images is run.parts.forgotten for images, _ in plan)
    weights = dict(run.model.tower.named_parameters())
    total, forget = (torch.zeros((), device=run.model.device),) * 2
    with gradients(run.model, train=False):
        for index, (images, chosen) in enumerate(plan, start=1):
            g = slope(run, images, chosen.to(images.images.device))
            total = total + g**2
            if index == of_forget:
                forget = total / of_forget
            if index == len(plan):
                with torch.no_grad():
                    each = factors(total / index, forget, run.rate, run.settings["dampening"])
                    for name, factor in by_name(run.model, each).items():
                        weights[name].mul_(factor)
                check_finite(weights.values(), index, run.hint)
            yield Step(index, len(plan), float(g.norm()), run.rate)


SSD = Baseline(
    name="ssd",
    title="SSD",
    paper="https://arxiv.org/abs/2308.07707",
    explains="Shrinks, in one step, the weights that matter far more to the images to forget than to all of them.",
    reads=("forget", "remaining"),
    parameters=(
        Parameter(
            "dampening",
            "Dampening",
            "Constant λ: how much of a chosen weight is left, times I / I_f.",
            1.0,
            "float",
            low=0.0,
        ),
        Parameter("batch_size", "Batch size", "Images whose mean loss gives one gradient.", 128, "int", low=1),
    ),
    presets={
        PAPER: Preset(
            (1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
            1,
            "the authors' code for ResNet-18: α = 10, 50 for another data set, λ = 1; the smaller ones are this kit's.",
        ),
        TINY: Preset((2.0, 2.5, 3.0, 3.5, 5.0), 1, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
    dial="alpha",
)
