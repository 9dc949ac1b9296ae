"""Outliers among candidates: a task vector far longer than the others, or one that points elsewhere.

A mean weighs task vectors by their length, and a vote over signs fails wherever one candidate points another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from negmerge_kit.types import Json

LONG = 3.0
"""Times the median norm above which a task vector is called too long."""
AWAY = 0.2
"""Cosine with the mean of the others below which a task vector is said to point elsewhere."""


@dataclass(frozen=True)
class Outlier:
    """A candidate to look at: its place, |τ|, that as a multiple of the median norm, and its cosine with the rest."""

    index: int
    norm: float
    times_median: float
    cosine: float

    def sentence(self, name: str) -> str:
        """What is odd about it, and what to do.

        >>> Outlier(0, 8.0, 4.0, 0.5).sentence("a")
        'a moved 4.0 times as far as the median candidate (norm 8): look at its recipe, or leave it out.'
        """
        odd = []
        if self.times_median > LONG:
            odd.append(f"moved {self.times_median:.1f} times as far as the median candidate (norm {self.norm:.3g})")
        if self.cosine < AWAY:
            odd.append(f"points elsewhere than the others (cosine {self.cosine:.2f} with their mean)")
        return f"{name} {' and '.join(odd)}: look at its recipe, or leave it out."

    def json(self, name: str) -> Json:
        """Plain values, as verbs print them."""
        return {
            "candidate": name,
            "norm": self.norm,
            "times_median": self.times_median,
            "cosine": self.cosine,
            "why": self.sentence(name),
        }


def outliers(products: Sequence[Sequence[float]]) -> list[Outlier]:
    """Candidates whose norm is more than three times the median, or whose cosine with the rest is below 0.2.

    With G the matrix of inner products τi · τj: |τi|² = Gii, and the rest of i is the sum of the others, whose product
    with τi is Σj Gij - Gii and whose square is ΣjkGjk - 2 Σj Gij + Gii. A candidate that did not move has no direction
    and is not named here; of a single candidate there is nothing to say.

    Args:
        products: τi · τj over all counted elements, as `Likeness.products` gives them.

    >>> [found.index for found in outliers([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])]
    [2]
    >>> outliers([[1, 0.9], [0.9, 1]])
    []
    """
    n = len(products)
    norms = [products[i][i] ** 0.5 for i in range(n)]
    moved = [norm for norm in norms if norm]
    if len(moved) < 2:
        return []
    middle, whole = median(moved), sum(map(sum, products))
    found = []
    for i, (row, norm) in enumerate(zip(products, norms, strict=True)):
        if not norm:
            continue
        along = sum(row) - row[i]
        rest = max(whole - 2 * sum(row) + row[i], 0.0) ** 0.5
        cosine = along / (norm * rest) if rest else 0.0
        if norm > LONG * middle or cosine < AWAY:
            found.append(Outlier(i, norm, norm / middle, cosine))
    return found
