"""CT, convolution transpose: turn every kernel over, and mend on what remains (Cadet et al. 2024, arXiv:2410.01276)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from negmerge_kit.baselines.baseline import BATCH_SIZE, EMBEDDED, MOMENTUM, PAPER, TINY, WEIGHT_DECAY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, convolutions, half_cosine, train_epochs
from negmerge_kit.errors import ParameterError
from negmerge_kit.training.loop import Step, truth


@torch.no_grad()
def transpose(run: Run) -> None:
    """W[o, i, y, x] ← W[o, i, x, y] in every convolution with a square kernel; twice is the network as it was.

    A kernel that is not square stays as it is: transposed, it would not fit its layer.

    Raises:
        ParameterError: for a network that has no square kernel over 1 × 1, which nothing would change.
    """
    square = [one for one in convolutions(run).values() if one.kernel_size[0] == one.kernel_size[1] > 1]
    if not square:
        raise ParameterError(
            f"{run.model.spec} has no square kernels over 1 × 1, so that transposing changes nothing: choose another "
            "baseline."
        )
    for one in square:
        one.weight.copy_(one.weight.transpose(2, 3).clone())


def steps(run: Run) -> Iterator[Step]:
    """Transpose, then θ ← θ − η ∇ CE(θ; remaining), with a rate that follows half a cosine over the epochs.

    An entry of the NeurIPS 2023 challenge, as the benchmark's code has it. That code swaps the axes of every kernel, so
    what becomes of one that is not square is open, and so is a network whose only convolution is a ViT's first layer.
    """
    transpose(run)
    return train_epochs(
        run, lambda epoch: [run.over(run.parts.remaining, truth)], decay=lambda epoch: half_cosine(epoch, run.epochs)
    )


CT = Baseline(
    name="ct",
    title="Convolution transpose",
    paper="https://arxiv.org/abs/2410.01276",
    explains="Transposes the kernels of all convolutions, and fine-tunes on the remaining images.",
    reads=("remaining",),
    parameters=(MOMENTUM, WEIGHT_DECAY, replace(BATCH_SIZE, default=64)),
    presets={
        PAPER: Preset(
            (1e-4, 1e-3, 1e-2, 1e-1),
            3,
            "the entry's 3 epochs at 0.001; the benchmark (arXiv:2410.01276) searches 1e-5 to 0.1, and 1 to 10 epochs.",
        ),
        TINY: Preset((3e-2, 5e-2, 0.2, 0.4, 0.8), 10, EMBEDDED),
    },
    steps=steps,
)
