"""Analysis of a pool's sign agreement: how much of it the candidates' cosines explain."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb, sqrt
from statistics import fmean

from negmerge_kit.analysis.decay import Decayed, Shift, decay_alone
from negmerge_kit.analysis.step_along import Direction
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.agreement import LayerAgreement
from negmerge_kit.merging.orthants import Estimate, expected_unanimity
from negmerge_kit.merging.signs import chance
from negmerge_kit.merging.similarity import Likeness, likeness, pooled
from negmerge_kit.merging.subsets import Halves, agreement_along, compare_halves
from negmerge_kit.models.layers import block_and_kind, layer_of, reading_order, split_attention
from negmerge_kit.scoring.variance import Explained, explained_share
from negmerge_kit.types import Json, Weights

SUBSETS = 20
"""Random orders in which candidates join, and random halvings, where there are more than that."""
SIMULATED = 3
"""Orders along which the expectation is simulated too."""


@dataclass(frozen=True)
class Agreement:
    """Sign agreement of a group of tensors over what moved in it: measured, by chance, and from cosines alone.

    `expected` is the mean of its tensors' Gaussian orthant probabilities, weighed by their moved elements. `decayed`
    counts the unanimous elements that weight decay alone moved, None where that is not known.
    """

    name: str
    elements: int
    moved: int
    unanimous: int
    expected: Estimate
    decayed: int | None = None

    @property
    def share(self) -> float:
        """unanimous / moved."""
        return self.unanimous / self.moved

    def json(self) -> Json:
        """Plain values."""
        return {
            "name": self.name,
            "elements": self.elements,
            "moved": self.moved,
            "unanimous": self.unanimous,
            "unanimous_of_moved": self.share,
            "expected": self.expected.value,
            "expected_error": self.expected.error,
            "decay_alone": self.decayed,
        }


@dataclass(frozen=True)
class DecayPart:
    """Weight decay's part of the unanimous elements: how many it moved alone, and the plain average's |m|² on them."""

    elements: int
    unanimous: int
    square: float
    unanimous_square: float

    @property
    def of_count(self) -> float:
        """elements / unanimous, 0 of none."""
        return self.elements / self.unanimous if self.unanimous else 0.0

    @property
    def of_length(self) -> float:
        """square / unanimous_square, 0 of none."""
        return self.square / self.unanimous_square if self.unanimous_square else 0.0

    def json(self) -> Json:
        """Plain values."""
        return {
            "elements": self.elements,
            "unanimous": self.unanimous,
            "of_unanimous": self.of_count,
            "of_length": self.of_length,
        }


@dataclass(frozen=True)
class ZeroRatio:
    """Share of the moved elements that consensus sets to zero, over random subsets of `n` candidates.

    `expected` is what the cosines of the whole task vectors predict for some of the same subsets.
    """

    n: int
    mean: float
    least: float
    most: float
    chance: float
    expected: float

    def json(self) -> Json:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Why:
    """What `why_signs` found; `directions` and `fields` are empty where a pool is not at hand, and `decay` None where
    it is not known.

    `fields` holds for every hyperparameter the share of the candidates' diversity that goes with it, or None where the
    pool cannot say: it never varied, or took another value for every candidate.
    """

    candidates: tuple[str, ...]
    chance: float
    whole: Agreement
    tensors: tuple[Agreement, ...]
    layers: tuple[Agreement, ...]
    kinds: tuple[Agreement, ...]
    blocks: tuple[Agreement, ...]
    zero_ratio: tuple[ZeroRatio, ...]
    halves: tuple[Halves, ...]
    fields: Mapping[str, Explained | None]
    directions: tuple[Direction, ...] = ()
    decay: DecayPart | None = None

    @property
    def finding(self) -> str:
        """The finding in a sentence."""
        share, expected = self.whole.share, self.whole.expected.value
        return (
            f"All {len(self.candidates)} signs agree on {100 * share:.1f} % of the moved elements; their cosines alone "
            f"predict {100 * expected:.1f} %, chance {100 * self.chance:.2g} %."
        )

    @property
    def decay_finding(self) -> str:
        """What weight decay alone moved, in a sentence."""
        part = self.decay
        if part is None:
            return (
                "What weight decay alone moved is not known: that takes recipes with AdamW and their steps, and moves "
                "that rounding does not hide."
            )
        if not part.elements:
            return f"Weight decay alone moved none of the {part.unanimous:,} unanimous elements."
        return (
            f"Weight decay alone moved {part.elements:,} of {part.unanimous:,} unanimous elements "
            f"({100 * part.of_count:.1f} %), which hold {100 * part.of_length:.2g} % of their squared length."
        )

    def json(self) -> Json:
        """Plain values, as `negmerge agreement --why --json` prints them under "why"."""
        return {
            "finding": self.finding,
            "chance": self.chance,
            "whole": self.whole.json(),
            "decay": None if self.decay is None else self.decay.json(),
            **{
                name: [row.json() for row in getattr(self, name)]
                for name in ("tensors", "layers", "kinds", "blocks", "zero_ratio", "directions")
            },
            "halves": [
                {
                    "overlap": half.overlap,
                    "chance": half.chance,
                    "cosine": half.cosine,
                    "first": half.first,
                    "second": half.second,
                    "same": half.same,
                    "opposite": half.opposite,
                }
                for half in self.halves
            ],
            "hyperparameters": {
                name: None
                if found is None
                else {
                    "share": found.share,
                    "chance": found.chance,
                    "beyond_chance": found.beyond_chance,
                    "p": found.p,
                    "values": found.groups,
                    "candidates": found.n,
                }
                for name, found in self.fields.items()
            },
        }


def why_signs(
    base: Weights,
    candidates: Sequence[Weights],
    *,
    names: Sequence[str] = (),
    recipes: Sequence[Json] = (),
    shifts: Sequence[Shift | None] = (),
    directions: Sequence[Direction] = (),
    subsets: int = SUBSETS,
    seed: int = 0,
) -> Why:
    """Take a pool's sign agreement apart: three streamed passes over the files, a fourth for weight decay's part.

    Args:
        names: the candidates' names, for the record.
        recipes: the candidates' hyperparameters, for the analysis of variance over their task vectors' directions.
        shifts: how far decay alone moves a weight, by candidate (see `known_shift`).
        directions: what `step_along` found, to go with the rest.
        subsets: random orders and halvings to look at.

    Raises:
        ParameterError: for no candidates, candidates that did not move, or recipes or shifts that do not fit them.
        MismatchError: for candidates that do not hold the base's tensors.

    >>> import torch
    >>> tuned = [{"w": torch.tensor([1.0, -1.0])}, {"w": torch.tensor([3.0, 1.0])}]
    >>> found = why_signs({"w": torch.zeros(2)}, tuned)
    >>> found.whole.share, round(found.whole.expected.value, 3)
    (0.5, 0.648)
    """
    n = len(candidates)
    for what, given in (("recipes", recipes), ("shifts", shifts)):
        if given and len(given) != n:
            raise ParameterError(f"there are {len(given)} {what} for {n} candidates: give one of each.")
    split, parts = split_attention(base), [split_attention(candidate) for candidate in candidates]
    found = {layer.agreement.name: layer for layer in likeness(split, parts) if layer.agreement.moved}
    if not found:
        raise ParameterError("the candidates did not move from the base: there is no sign to look at.")
    decayed = decay_alone(split, parts, shifts)
    alone = {part.name: part.elements for part in decayed or ()}
    tensors = [_agreement(name, found[name], seed, alone.get(name)) for name in reading_order(found)]
    orders, halvings = _orders(n, subsets, seed), _halvings(n, subsets, seed)
    chains = agreement_along(split, parts, orders)
    sizes = [sorted(1 - chain.shares[size] for chain in chains) for size in range(n)]
    whole = pooled(found.values())
    expected = [_expected(whole.cosines, [order[:size] for order in orders[:SIMULATED]]) for size in range(1, n + 1)]
    return Why(
        candidates=tuple(names) or tuple(f"candidate {number}" for number in range(1, n + 1)),
        chance=chance(n),
        whole=_sum("all", tensors),
        tensors=tuple(tensors),
        layers=_grouped(tensors, layer_of),
        kinds=_grouped(tensors, lambda name: block_and_kind(name)[1]),
        blocks=_grouped(tensors, _block),
        zero_ratio=tuple(
            ZeroRatio(size, fmean(zeros), zeros[0], zeros[-1], 1 - chance(size), 1 - expected[size - 1])
            for size, zeros in enumerate(sizes, 1)
        ),
        halves=tuple(compare_halves(split, parts, halvings)) if halvings else (),
        fields=_fields(whole, recipes, seed),
        directions=tuple(directions),
        decay=None if decayed is None else _decay_part(whole.agreement, decayed),
    )


def _agreement(name: str, layer: Likeness, seed: int, decayed: int | None) -> Agreement:
    votes, expected = layer.agreement, expected_unanimity(layer.cosines, seed=seed)
    return Agreement(name, votes.elements, votes.moved, votes.unanimous, expected, decayed)


def _decay_part(votes: LayerAgreement, decayed: Sequence[Decayed]) -> DecayPart:
    elements, square = sum(part.elements for part in decayed), sum(part.square for part in decayed)
    return DecayPart(elements, votes.unanimous, square, votes.unanimous_square)


def _sum(name: str, rows: Sequence[Agreement]) -> Agreement:
    moved = sum(row.moved for row in rows)
    value = sum(row.moved * row.expected.value for row in rows) / moved
    error = sqrt(sum((row.moved * row.expected.error) ** 2 for row in rows)) / moved
    decayed = [row.decayed for row in rows if row.decayed is not None]
    return Agreement(
        name,
        sum(row.elements for row in rows),
        moved,
        sum(row.unanimous for row in rows),
        Estimate(value, error),
        sum(decayed) if len(decayed) == len(rows) else None,
    )


def _grouped(rows: Iterable[Agreement], label: Callable[[str], str]) -> tuple[Agreement, ...]:
    groups: dict[str, list[Agreement]] = {}
    for row in rows:
        groups.setdefault(label(row.name), []).append(row)
    return tuple(_sum(name, group) for name, group in groups.items())


def _block(name: str) -> str:
    block, _ = block_and_kind(name)
    return "outside the blocks" if block is None else f"block {block}"


def _orders(n: int, subsets: int, seed: int) -> list[list[int]]:
    lot = random.Random(seed)
    return [lot.sample(range(n), n) for _ in range(subsets)]


def _halvings(n: int, subsets: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """All ways to halve the pool, or `subsets` of them drawn at random; an odd one joins the second half."""
    if n < 2:
        return []
    half = n // 2
    if comb(n, half) <= 2 * subsets:
        firsts = [list(first) for first in combinations(range(n), half)]
        firsts = [first for first in firsts if n % 2 or 0 in first]  # halves of equal size come twice
    else:
        lot = random.Random(seed)
        firsts = [sorted(lot.sample(range(n), half)) for _ in range(subsets)]
    return [(first, [other for other in range(n) if other not in first]) for first in firsts]


def _expected(cosines: Sequence[Sequence[float]], subsets: Sequence[Sequence[int]]) -> float:
    return sum(expected_unanimity([[cosines[i][j] for j in s] for i in s]).value for s in subsets) / len(subsets)


def _fields(whole: Likeness, recipes: Sequence[Json], seed: int) -> dict[str, Explained | None]:
    """Directions are compared (cosines), not lengths: a longer run of the same move is no diversity of signs."""
    names = sorted({name for recipe in recipes for name in recipe})
    found = {}
    for name in names:
        values = [repr(recipe.get(name)) for recipe in recipes]
        if len(set(values)) > 1:
            found[name] = explained_share(whole.cosines, values, seed=seed)
    return found
