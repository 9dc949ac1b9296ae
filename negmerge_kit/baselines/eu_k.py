"""EU-k: exact unlearning of the last k layers, by retraining these alone (Goel et al. 2022, arXiv:2201.06640)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.cf_k import LAYERS, last_layers, train_last
from negmerge_kit.baselines.steps import Run
from negmerge_kit.training.loop import Step
from negmerge_kit.training.seeding import derived_seed


def steps(run: Run) -> Iterator[Step]:
    """Give the last k layers the weights of an untrained network, and train them as CF-k does.

    Their norms start afresh as well, running statistics included; the authors' code resets convolutions and linear
    layers only. The first weights come from a derived seed, as those of retraining do.
    """
    only = last_layers(run)
    untrained = run.fresh(derived_seed(run.seed, "EU-k"))
    with torch.no_grad():
        for ours, theirs in zip(run.model.tower.modules(), untrained.tower.modules(), strict=True):
            if ours in only:
                both = (chain(one.parameters(recurse=False), one.buffers(recurse=False)) for one in (ours, theirs))
                for value, first in zip(*both, strict=True):
                    value.copy_(first)
    return train_last(run, only)


EU_K = Baseline(
    name="eu-k",
    title="EU-k",
    paper="https://arxiv.org/abs/2201.06640",
    explains="Retrains the last k layers from their start on the remaining images only, and leaves the others alone.",
    reads=("remaining",),
    parameters=(LAYERS, *SGD),
    presets={
        PAPER: Preset(
            (1e-2, 1e-1),
            62,
            "the authors' scripts: 62 epochs from 0.1; 0.01 is that of Deep Unlearn's code (arXiv:2410.01276), whose "
            "choice are six layers, the last stage and the head of ResNet-18. The authors' ResNet-20 has 1 to 7.",
        ),
        TINY: Preset((2e-2, 5e-2, 0.1, 0.2, 0.4), 15, EMBEDDED, {"batch_size": 64, "layers": 3}),
    },
    steps=steps,
)
