"""MSG, masked small gradients: reset what forget and remaining set agree on (Cadet et al. 2024, arXiv:2410.01276)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.baselines.baseline import BATCH_SIZE, EMBEDDED, MOMENTUM, PAPER, TINY, WEIGHT_DECAY, Baseline, Preset
from negmerge_kit.baselines.salun import mask_of
from negmerge_kit.baselines.steps import Run, by_name, convolutions, sgd, train_epochs, whole_slope
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, gradients, truth


def masks(run: Run) -> dict[str, Tensor]:
    """Of each convolution's weight, the share of elements that is reset: those of the smallest |Σ_r g − Σ_f g|.

    As many remaining images as there are to forget are drawn from the seed. In eval mode, images as they are.
    """
    names = [f"{name}.weight" for name in convolutions(run)]
    forgotten, remaining = run.parts.forgotten, run.parts.remaining
    order = torch.randperm(len(remaining), generator=torch.Generator().manual_seed(run.seed))
    with gradients(run.model, train=False):
        difference = whole_slope(run, remaining.at(order[: len(forgotten)])) - whole_slope(run, forgotten)
    likeness = by_name(run.model, -difference.abs())
    return {name: mask_of({name: likeness[name]}, run.settings["share"])[name] for name in names}


@torch.no_grad()
def reset(run: Run, chosen: dict[str, Tensor]) -> None:
    """Draw these elements from the seed as untrained ones: normal, variance 2 / fan-out (He et al., 1502.01852)."""
    draw, weights = torch.Generator().manual_seed(run.seed_of(0, 9)), dict(run.model.tower.named_parameters())
    for name, mask in chosen.items():
        drawn = torch.empty(mask.shape)
        torch.nn.init.kaiming_normal_(drawn, mode="fan_out", nonlinearity="relu", generator=draw)
        weights[name].copy_(torch.where(mask, drawn.to(mask.device), weights[name]))


def rise_and_fall(epoch: int, epochs: int) -> float:
    """The rate in an epoch counted from 0: up in equal steps to the middle one, and down again.

    >>> [round(rise_and_fall(epoch, 5), 2) for epoch in range(5)]
    [0.33, 0.67, 1.0, 0.67, 0.33]
    """
    rise = (epochs + 1) // 2
    return min((epoch + 1) / rise, (epochs - epoch) / (epochs + 1 - rise))


def steps(run: Run) -> Iterator[Step]:
    """Reset the masked weights, then θ ← θ − η m ∇ CE(θ; remaining), with m = 0.1 for the convolutions' other weights.

    m is 1 for all else. An entry of the NeurIPS 2023 challenge, as the benchmark's code has it, which also resets the
    biases of convolutions, and takes the mask's gradients in whichever mode the network is: here neither. Of a network
    with few convolutions, such as a ViT, only these are reset.
    """
    chosen = masks(run)
    reset(run, chosen)

    def slower(run: Run, weights: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        named, optimizer = dict(run.model.tower.named_parameters()), sgd(run, weights)

        def scale(*_: Any) -> None:
            for name, mask in chosen.items():
                if (gradient := named[name].grad) is not None:
                    gradient.mul_(torch.where(mask, 1.0, 0.1))

        optimizer.register_step_pre_hook(scale)
        return optimizer

    made = run.over(run.parts.remaining, truth)
    return train_epochs(run, lambda epoch: [made], optimizer=slower, decay=lambda at: rise_and_fall(at, run.epochs))


MSG = Baseline(
    name="msg",
    title="Masked small gradients",
    paper="https://arxiv.org/abs/2410.01276",
    explains="Resets the weights whose gradients on both sets are alike, and fine-tunes on the remaining images.",
    reads=("forget", "remaining"),
    parameters=(
        Parameter("share", "Share reset", "Share of each convolution that is reset.", 0.3, "float", low=0.0, high=1.0),
        MOMENTUM,
        WEIGHT_DECAY,
        replace(BATCH_SIZE, default=64),
    ),
    presets={
        PAPER: Preset(
            (1e-4, 1e-3, 1e-2, 1e-1),
            5,
            "the entry's 5 epochs at 0.001, share 0.3; the benchmark searches 1e-5 to 0.1, and 1 to 10 epochs.",
        ),
        TINY: Preset((3e-2, 0.2, 0.4, 0.8, 1.2), 10, EMBEDDED),
    },
    steps=steps,
)
