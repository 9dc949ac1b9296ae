"""Weight decay's part of a pool's sign agreement: what no gradient reached shrinks alike in every candidate.

AdamW's decay is decoupled from the gradient (arXiv:1711.05101): step t multiplies each trained weight by 1 - ηt·wd. An
element whose gradient stays zero therefore moves by θ0·(Πt (1 - ηt·wd) - 1), with the same sign in every candidate, and
a count of equal signs takes it for something that they all learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from negmerge_kit.merging.agreement import majority_votes
from negmerge_kit.merging.deltas import sum_in_parts
from negmerge_kit.merging.layout import layout_of
from negmerge_kit.merging.sources import Sources
from negmerge_kit.pools.pool import Candidate
from negmerge_kit.training.finetuning import rate
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Weights

ROUNDING = torch.finfo(torch.float32).eps / 2
"""Largest relative error of one float32 operation, 2^-24."""


@dataclass(frozen=True)
class Shift:
    """How far a weight moves that only decays: θT - θ0 = `factor`·θ0, in `steps` steps that each round once."""

    factor: float
    steps: int

    def error(self, stored: torch.dtype) -> float:
        """Bound on that move's rounding error, as a share of |θ0|, to first order.

        Each of T float32 products is off by at most u = 2^-24 of the weight, so all of them by T u; the difference
        and the prediction round once each. A candidate stored in fewer bits than float32 adds half a step of its dtype.

        >>> Shift(-1e-3, 100).error(torch.float32) == 102 * 2**-24
        True
        >>> Shift(-1e-3, 100).error(torch.float16) == 102 * 2**-24 + 2**-11
        True
        """
        half_step = torch.finfo(stored).eps / 2
        return (self.steps + 2) * ROUNDING + (half_step if half_step > ROUNDING else 0.0)

    def is_known(self, stored: torch.dtype) -> bool:
        """Whether rounding hides less than half of the move, so that it differs from none at all."""
        return 2 * self.error(stored) < abs(self.factor)


def known_shift(candidate: Candidate) -> Shift | None:
    """A candidate's shift by decay from its recipe and its number of steps, one loss each; None where it is not known.

    That is so for a candidate fine-tuned elsewhere, for SGD, whose decay is part of the gradient, and for float16,
    whose loss scaling may leave steps out.

    >>> recipe = Recipe(lr=0.1, epochs=1, weight_decay=0.5, warmup=1, schedule="multistep", warmup_share=0.0)
    >>> one = Candidate("a", "a.safetensors", "", recipe.json(), losses=(1.0, 1.0, 1.0, 1.0))
    >>> round(known_shift(one).factor, 4)  # rates 0.1, 0.1, 0.01, 0.001
    -0.1025
    """
    if "lr" not in candidate.recipe or not candidate.losses:
        return None
    recipe, steps = Recipe.from_json(candidate.recipe), len(candidate.losses)
    if recipe.optimizer != "adamw" or recipe.precision == "float16":
        return None
    factors = [1 - rate(recipe, step, steps) * recipe.weight_decay for step in range(steps)]
    # Torch multiplies by the factor in float32: one that rounds to 1 decays nothing.
    return Shift(float(torch.tensor(factors, dtype=torch.float32).double().prod()) - 1, steps)


@dataclass(frozen=True)
class Decayed:
    """Unanimous elements that decay alone moved, and |m|², the plain average's squared length, on them."""

    name: str
    elements: int
    square: float


def decay_alone(
    base: Weights, candidates: Sequence[Weights], shifts: Sequence[Shift | None], *, device: str | torch.device = "cpu"
) -> list[Decayed] | None:
    """Count by tensor the unanimous elements that moved in every candidate as its decay alone moves them.

    |τk - fk·θ0| ≤ ek·|θ0| for every candidate k, with its shift's factor fk and error ek (see `Shift.error`); an
    element that a gradient moved exactly so far is counted, too. One streamed pass, none where a shift is zero.

    Returns:
        None where it is not known: no shift is, or rounding hides it.

    >>> tuned = [{"w": torch.tensor([0.9, 1.5])}, {"w": torch.tensor([0.8, 1.6])}]
    >>> decay_alone({"w": torch.tensor([1.0, 2.0])}, tuned, [Shift(-0.1, 1), Shift(-0.2, 1)])
    [Decayed(name='w', elements=1, square=0.0225...)]
    """
    known = [shift for shift in shifts if shift is not None]
    if not known or len(known) < len(shifts):
        return None
    sources = Sources(base, candidates, device=device)
    names = list(sources.counted())
    if not all(shift.factor for shift in known):
        return [Decayed(name, 0, 0.0) for name in names]
    layouts = [layout_of(candidate) for candidate in candidates]
    if not all(shift.is_known(layout[name][1]) for name in names for shift, layout in zip(known, layouts, strict=True)):
        return None
    return [_decayed(sources, name, known) for name in names]


def _decayed(sources: Sources, name: str, shifts: Sequence[Shift]) -> Decayed:
    elements, square = 0, 0.0
    for deltas in sources.chunks(name, sources.chunk):
        origin = deltas.base.to(deltas.dtype)
        alone = majority_votes(deltas) == len(deltas)
        for delta, candidate, shift in zip(deltas, deltas.candidates, shifts, strict=True):
            alone &= (delta - shift.factor * origin).abs() <= shift.error(candidate.dtype) * origin.abs()
        elements += int(alone.sum())
        square += float(sum_in_parts(deltas.mean()[alone].square()))
    return Decayed(name, elements, square)
