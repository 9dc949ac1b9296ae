"""Analysis of variance from inner products: what share of a pool's diversity goes with a hyperparameter."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from negmerge_kit.errors import ParameterError

PERMUTATIONS = 999


@dataclass(frozen=True)
class Explained:
    """Share of the variance that lies between the groups, and how it compares with groups drawn at random.

    `chance` is that share's mean for random groups, (groups - 1) / (n - 1); `p` is the share of permutations that
    explain at least as much. `beyond_chance` is the adjusted share, (share - chance) / (1 - chance).
    """

    share: float
    chance: float
    p: float
    groups: int
    n: int

    @property
    def beyond_chance(self) -> float:
        """The adjusted share: 0 for groups at random, 1 where the groups explain all; it may be negative."""
        return (self.share - self.chance) / (1 - self.chance)


def explained_share(
    products: Sequence[Sequence[float]], groups: Sequence[Hashable], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Explained | None:
    """One-way analysis of variance of vectors that are known by their inner products only.

    With G the [n, n] matrix of inner products, SS(S) = Σ_{i∈S} G_ii - Σ_{i,j∈S} G_ij / |S| is the sum of squares of the
    set S about its mean; the share is 1 - Σ_g SS(g) / SS(all), tested by permuting the labels (Anderson 2001,
    https://doi.org/10.1111/j.1442-9993.2001.01070.pp.x). Fields are looked at one by one: in a grid that varies two
    together, each shows what they share.

    Returns:
        None where the share is undefined: one group, a group for every vector, or vectors that are all the same.

    Raises:
        ParameterError: if products and groups do not fit together.

    >>> explained_share([[1, 1, -1, -1]] * 2 + [[-1, -1, 1, 1]] * 2, ["a", "a", "b", "b"]).share
    1.0
    """
    n = len(groups)
    if len(products) != n or any(len(row) != n for row in products):
        raise ParameterError(f"there are {n} groups for {len(products)} vectors: give one label for each.")
    labels = list(groups)
    count = len(set(labels))
    total = _squares(products, range(n))
    if not 1 < count < n or total <= 1e-12 * sum(abs(products[i][i]) for i in range(n)):
        return None

    def within(labelled: Sequence[Hashable]) -> float:
        members: dict[Hashable, list[int]] = {}
        for position, label in enumerate(labelled):
            members.setdefault(label, []).append(position)
        return sum(_squares(products, group) for group in members.values())

    found = within(labels)
    lot = random.Random(seed)
    # With the totals fixed, F grows as the sum within the groups shrinks; rounding must not hide a tie.
    as_good = sum(within(lot.sample(labels, n)) <= found + 1e-9 * total for _ in range(permutations))
    return Explained(1 - found / total, (count - 1) / (n - 1), (1 + as_good) / (1 + permutations), count, n)


def _squares(products: Sequence[Sequence[float]], group: Sequence[int] | range) -> float:
    inner = sum(products[i][j] for i in group for j in group)
    return sum(products[i][i] for i in group) - inner / len(group)
