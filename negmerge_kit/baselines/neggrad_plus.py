"""NegGrad+ (NG+): up on the forget set and down on the rest in every step (Kurmanji et al. 2023, arXiv:2302.09880)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count

from torch import Tensor

from negmerge_kit.baselines.baseline import EMBEDDED, PAPER, SGD, TINY, Baseline, Preset
from negmerge_kit.baselines.steps import Run, train_epochs
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.training.loop import Step, View, truth


def steps(run: Run) -> Iterator[Step]:
    """Minimise β CE(θ; remaining) − (1 − β) CE(θ; forget), each the mean over a batch of its own set.

    An epoch is one over the remaining set; the forget set starts again, newly shuffled, when it is used up. The two
    batches pass through the network apart and in train mode, as in the authors' loops; the code of Deep Unlearn
    (arXiv:2410.01276) keeps BatchNorm in eval mode. Both can pull the weights back to the base; here weight decay
    pulls them to zero, as for every baseline. The ascent has no bound, so that a small β or a large rate diverges.
    """
    beta, over_forget = run.settings["beta"], run.over(run.parts.forgotten, truth)
    ascent = over_forget(run.seed_of(0, 1)).loss
    batches = chain.from_iterable(over_forget(run.seed_of(turn, 1)).batches(0, None) for turn in count())

    def both(view: View) -> Tensor:
        batch = next(batches)
        combined: Tensor = beta * truth(view) - (1 - beta) * ascent(batch.pixels, batch.labels)
        return combined

    return train_epochs(run, lambda epoch: [run.over(run.parts.remaining, both)])


NEGGRAD_PLUS = Baseline(
    name="neggrad-plus",
    title="NegGrad+",
    paper="https://arxiv.org/abs/2302.09880",
    explains="Climbs the loss of the images to forget and descends that of the remaining ones, both in every step.",
    reads=("forget", "remaining"),
    parameters=(
        Parameter(
            "beta",
            "Weight of the rest",
            "Weight β of the remaining images; 1 is fine-tuning, 0 gradient ascent.",
            0.95,
            "float",
            low=0.0,
            high=1.0,
        ),
        *SGD,
    ),
    presets={
        PAPER: Preset(
            (1e-4, 1e-3, 1e-2, 1e-1),
            10,
            "Deep Unlearn's code (arXiv:2410.01276), as the authors' small experiments: 10 epochs at 0.01, β = 0.95; "
            "it searches 1e-5 to 0.1. The authors' large ones have β = 0.9999 and 5 epochs.",
        ),
        TINY: Preset((1e-2, 2e-2, 3e-2, 0.1, 0.2), 10, EMBEDDED, {"batch_size": 64}),
    },
    steps=steps,
)
