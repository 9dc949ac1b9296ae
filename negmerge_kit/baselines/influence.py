"""Influence unlearning: one step along the inverse Fisher times a difference of gradients (arXiv:2304.04934)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, by_name, slope, whole_slope
from negmerge_kit.baselines.woodfisher import AsPublished, Exact
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, check_finite, gradients


def steps(run: Run) -> Iterator[Step]:
    """θ ← θ + α F⁻¹ v with v = Σ_f g / n − (n_f / (n n_r)) Σ_r g over n = n_f + n_r images, in eval mode.

    N remaining images are drawn with the seed for F; a step is one of them, its loss the length of F⁻¹v so far, and the
    last one moves the weights. No image is augmented (the reference's are), and `epochs` has no meaning. The ImageNet
    branch of the reference takes both gradients from the forget set; this does not.
    """
    forgotten, remaining = run.parts.forgotten, run.parts.remaining
    order = torch.randperm(len(remaining), generator=torch.Generator().manual_seed(run.seed))
    chosen, weights = order[: run.settings["samples"]], dict(run.model.tower.named_parameters())
    with gradients(run.model, train=False):
        n_f, n_r = len(forgotten), len(remaining)
        v = whole_slope(run, forgotten) / (n_f + n_r) - whole_slope(run, remaining) * (n_f / ((n_f + n_r) * n_r))
        inverse = (Exact if run.settings["fisher"] == "exact" else AsPublished)(v, len(chosen))
        for index, place in enumerate(chosen.split(1), start=1):
            inverse.see(slope(run, remaining, place.to(remaining.images.device)))
            if index == len(chosen):
                with torch.no_grad():
                    for name, move in by_name(run.model, inverse.product).items():
                        weights[name].add_(run.rate * move)
                check_finite(weights.values(), index, run.hint)
            yield Step(index, len(chosen), float(inverse.product.norm()), run.rate)


INFLUENCE = Baseline(
    name="influence",
    title="Influence (WoodFisher)",
    paper="https://arxiv.org/abs/2304.04934",
    explains="Estimates in one step what the weights would be without the images to forget.",
    reads=("forget", "remaining"),
    parameters=(
        Parameter(
            "samples",
            "Fisher samples",
            "Remaining images, one gradient each, that the Fisher comes from.",
            1000,
            "int",
            low=2,
        ),
        Parameter(
            "fisher",
            "Inverse Fisher",
            "The reference code's shortcut, or the product that it stands for, which "
            "keeps samples × weights × 4 bytes.",
            "published",
            "choice",
            choices=("published", "exact"),
        ),
    ),
    presets={
        PAPER: Preset(
            (0.2, 1.0, 2.0, 5.0, 10.0, 20.0),
            1,
            "github.com/OPTML-Group/Unlearn-Saliency issue 11: the "
            "paper's 1 to 20, of which a reader found only those under 1 to work; 0.2 the code's default.",
        ),
        TINY: Preset((2.0, 5.0, 8.0, 12.0), 1, EMBEDDED, {"samples": 200}),
    },
    steps=steps,
    dial="alpha",
)
