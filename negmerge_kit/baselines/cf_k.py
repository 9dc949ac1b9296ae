"""CF-k: forgetting by neglect, of the last k layers only (Goel et al. 2022, arXiv:2201.06640)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, half_cosine, train_epochs
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, truth

LAYERS = Parameter("layers", "Layers", "Number k of last layers that change, the head among them.", 6, "int", low=1)


def last_layers(run: Run) -> list[torch.nn.Module]:
    """The last k convolutions and linear layers and all that is declared behind the first of them, such as its norm.

    The head counts as the last layer wherever it is declared. Counted as in the authors' code.

    Raises:
        ParameterError: if the network has no more than k layers.
    """
    modules, k = list(run.model.tower.modules()), run.settings["layers"]
    head = run.model.tower.get_classifier()  # type: ignore[operator]
    places = [
        place
        for place, module in enumerate(modules)
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and module is not head
    ]
    if k > len(places):
        raise ParameterError(
            f"{run.model.spec} has {len(places) + 1} layers, so {k} cannot be its last ones only: give at most "
            f"{len(places)}, or take fine-tune or retrain, which change all."
        )
    first = places[len(places) - k + 1] if k > 1 else len(modules)
    return [*(module for module in modules[first:] if module is not head), head]


def train_last(run: Run, only: list[torch.nn.Module]) -> Iterator[Step]:
    """Minimise CE(θ; remaining) over the parameters of these modules, as `steps` says."""
    return train_epochs(
        run,
        lambda epoch: [run.over(run.parts.remaining, truth)],
        only=only,
        decay=lambda epoch: half_cosine(epoch, run.epochs),
    )


def steps(run: Run) -> Iterator[Step]:
    """θ_last ← θ_last − η ∇ CE(θ; remaining) for the last k layers; every other bit stays the base's.

    That holds for running statistics too: the first layers stay in eval mode, so that they answer as the base's do; in
    the authors' code their statistics move. The rate follows half a cosine over the epochs, which the code restarts
    after 1, 3, 7 … of them, and the gradient is not clipped.
    """
    return train_last(run, last_layers(run))


CF_K = Baseline(
    name="cf-k",
    title="CF-k",
    paper="https://arxiv.org/abs/2201.06640",
    explains="Trains the last k layers on for some epochs on the remaining images only, and leaves the others alone.",
    reads=("remaining",),
    parameters=(LAYERS, *SGD),
    presets={
        PAPER: Preset(
            (1e-2, 1e-1),
            30,
            "the authors' scripts: 30 epochs from 0.1; 0.01 is that of Deep Unlearn's code (arXiv:2410.01276), whose "
            "choice are six layers, the last stage and the head of ResNet-18. The authors' ResNet-20 has 1 to 7.",
        ),
        TINY: Preset((0.4, 1.6, 3.2, 6.4), 10, EMBEDDED, {"batch_size": 64, "layers": 3}),
    },
    steps=steps,
)
