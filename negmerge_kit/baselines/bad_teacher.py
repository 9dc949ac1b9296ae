"""Bad teaching: an untrained teacher for what is to be forgotten, the base for the rest (arXiv:2205.08096)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from negmerge_kit.baselines.baseline import BATCH_SIZE, EMBEDDED, PAPER, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, frozen, train_epochs
from negmerge_kit.image_set import ImageSet
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, View
from negmerge_kit.training.seeding import derived_seed


def marked(run: Run) -> ImageSet:
    """The forget set, labelled 1, and a share of the remaining set, labelled 0, drawn once from the seed."""
    forgotten, remaining = run.parts.forgotten, run.parts.remaining
    draw = torch.Generator().manual_seed(run.seed_of(0, 9))
    some = torch.randperm(len(remaining), generator=draw)[: int(len(remaining) * run.settings["share"])]
    labels = torch.cat([torch.ones(len(forgotten), dtype=torch.int64), torch.zeros(len(some), dtype=torch.int64)])
    images = torch.cat([forgotten.images, remaining.images[some.to(remaining.images.device)]])
    return ImageSet(forgotten.name, images, labels.to(images.device), forgotten.classes, "train")


def adam(run: Run, weights: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam without weight decay, as in the paper's code."""
    return torch.optim.Adam(weights, lr=run.rate, foreach=True)


def steps(run: Run) -> Iterator[Step]:
    """Minimise KL(teacher ‖ θ) at temperature T, the mean over the batch, with one shuffled pass an epoch.

    The teacher of an image to forget is an untrained network of other first weights than the base's, that of a
    remaining one the base, both in eval mode. The authors' code divides the mean by the number of classes as well,
    which Adam undoes.
    """
    mixed, temperature = marked(run), run.settings["temperature"]
    untrained = run.fresh(derived_seed(run.seed, "bad teacher"))
    competent, incompetent = frozen(run.model, mixed.name), frozen(untrained, mixed.name)

    def taught(view: View) -> Tensor:
        bad = view.labels[:, None].bool()
        teacher = torch.where(bad, incompetent(view.images), competent(view.images))
        student = log_softmax(view.logits / temperature, dim=1)
        return kl_div(student, softmax(teacher / temperature, dim=1), reduction="batchmean")

    return train_epochs(run, lambda epoch: [run.over(mixed, taught)], optimizer=adam)


BAD_TEACHER = Baseline(
    name="bad-teacher",
    title="Bad teaching",
    paper="https://arxiv.org/abs/2205.08096",
    explains="Copies an untrained network on the images to forget and the base on a share of the others.",
    reads=("forget", "remaining"),
    parameters=(
        Parameter(
            "share",
            "Share of the rest",
            "Share of the remaining images that the base teaches.",
            0.3,
            "float",
            low=0.0,
            high=1.0,
        ),
        Parameter("temperature", "Temperature", "Temperature T of both answers.", 1.0, "float", low=0.0, low_open=True),
        BATCH_SIZE,
    ),
    presets={
        PAPER: Preset(
            (1e-5, 1e-4, 1e-3), 1, "the authors' notebook: one epoch at 1e-4; the neighbours are this kit's."
        ),
        TINY: Preset((5e-5, 1e-4, 2e-4, 3e-4, 4e-4), 3, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
)
