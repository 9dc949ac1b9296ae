"""SalUn: random labels, but only the weights that matter to the forget set move (Fan et al. 2024, arXiv:2310.12508)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.random_labels import passes
from negmerge_kit.baselines.steps import Run, by_name, slope, train_epochs
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, gradients


def saliency(run: Run) -> dict[str, Tensor]:
    """|Σ over batches of ∇ CE(θ; forget)| of each parameter at the base: eval mode, float32, images as they are."""
    forgotten, size = run.parts.forgotten, run.settings["batch_size"]
    with gradients(run.model, train=False):
        total = sum(
            (slope(run, forgotten, slice(start, start + size)) for start in range(0, len(forgotten), size)),
            start=torch.zeros((), device=run.model.device),
        )
    return by_name(run.model, total.abs())


def mask_of(salience: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """True for the `share` of all elements with the largest salience, ranked over the whole model; ties by position.

    >>> mask_of({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 4.0])}, 0.5)
    {'a': tensor([ True, False]), 'b': tensor([False,  True])}
    """
    flat = torch.cat([value.flatten() for value in salience.values()])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: int(len(flat) * share)]] = True
    parts = chosen.split([value.numel() for value in salience.values()])
    return {name: part.view_as(value) for (name, value), part in zip(salience.items(), parts, strict=True)}


def steps(run: Run) -> Iterator[Step]:
    """Random labels with every weight outside the mask put back after each step, bit for bit.

    Masking gradients alone, as the authors' code did until February 2026 (their issue 32), lets weight decay and
    momentum move what should stay. BatchNorm's running statistics are no weights and move as in training.
    """
    mask = mask_of(saliency(run), run.settings["share"])
    weights = dict(run.model.tower.named_parameters())
    base = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def restore() -> None:
        for name, weight in weights.items():
            weight.copy_(torch.where(mask[name], weight, base[name]))

    yield from train_epochs(run, lambda epoch: passes(run, epoch), after=restore)


SALUN = Baseline(
    name="salun",
    title="SalUn",
    paper="https://arxiv.org/abs/2310.12508",
    explains="Random labels, while only the weights with the largest gradients on the images to forget may move.",
    reads=("forget", "remaining"),
    parameters=(
        Parameter(
            "share",
            "Share of weights",
            "Share of the weights that may move.",
            0.5,
            "float",
            low=0.0,
            high=1.0,
            low_open=True,
        ),
        *SGD,
    ),
    presets={
        PAPER: Preset(
            (1e-4, 1e-3, 6e-3, 1.3e-2, 1e-1),
            10,
            "the authors' README (0.013, mask 0.5, 10 epochs); "
            "0.006 is a reader's in their issue 7, the range Unlearn-WorstCase issue 1's.",
        ),
        TINY: Preset((1e-4, 3e-4, 5e-4, 1e-3), 10, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
)
