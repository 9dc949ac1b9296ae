"""Health of a pool: how far each candidate moved, held against the others, and whether it points their way.

A mean weighs task vectors by their length, and a vote over signs fails wherever one candidate points another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from negmerge_kit.safe_json import finite
from negmerge_kit.types import Json

LONG = 3.0
"""Times the median norm above which a task vector is called too long."""
AWAY = 0.2
"""Cosine with the mean of the others below which a task vector is said to point elsewhere."""


@dataclass(frozen=True)
class Health:
    """One candidate: |τ|, that as a multiple of the median norm, and its cosine with the mean of the others.

    Both comparisons are None for a candidate that did not move or holds NaN, and where no other is left to compare.
    """

    norm: float
    times_median: float | None
    cosine: float | None

    @property
    def is_long(self) -> bool:
        """Whether it moved more than three times as far as the median."""
        return self.times_median is not None and self.times_median > LONG

    @property
    def is_away(self) -> bool:
        """Whether its cosine with the mean of the others is below 0.2."""
        return self.cosine is not None and self.cosine < AWAY

    @property
    def is_odd(self) -> bool:
        """Whether it does not belong with the others."""
        return self.is_long or self.is_away or not self.norm or not isfinite(self.norm)

    def sentence(self, name: str) -> str:
        """What is odd about it and what to do; empty where nothing is.

        >>> Health(8.0, 4.0, 0.5).sentence("a")
        'a moved 4.0 times as far as the median candidate (norm 8): look at its recipe, or leave it out.'
        """
        return f"{self.reasons(name)}: look at its recipe, or leave it out." if self.is_odd else ""

    def reasons(self, name: str) -> str:
        """What is odd about it; only the name where nothing is.

        >>> Health(0.0, None, None).reasons("a")
        'a did not move from its base'
        """
        odd = []
        if not isfinite(self.norm):
            odd.append("holds values that are not finite")
        elif not self.norm:
            odd.append("did not move from its base")
        if self.is_long:
            odd.append(f"moved {self.times_median:.1f} times as far as the median candidate (norm {self.norm:.3g})")
        if self.is_away:
            odd.append(f"points elsewhere than the others (cosine {self.cosine:.2f} with their mean)")
        return f"{name} {' and '.join(odd)}".rstrip()

    def json(self, name: str) -> Json:
        """Plain values, as verbs print them; `why` is None where nothing is odd."""
        return {
            "candidate": name,
            "norm": finite(self.norm),
            "times_median": self.times_median,
            "cosine": self.cosine,
            "odd": self.is_odd,
            "why": self.sentence(name) or None,
        }


def health(products: Sequence[Sequence[float]]) -> list[Health]:
    """The health of every candidate, in their order.

    With G the matrix of inner products τi · τj: |τi|² = Gii, and the rest of i is the sum of the others, whose product
    with τi is Σj Gij - Gii and whose square is ΣjkGjk - 2 Σj Gij + Gii. The median and the rest are of the candidates
    that moved and are finite.

    Args:
        products: τi · τj over all counted elements, as `Likeness.products` gives them.

    >>> [(row.norm, round(row.cosine, 2), row.is_odd) for row in health([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])]
    [(1.0, 0.64, False), (1.0, 0.64, False), (1.0, 0.0, True)]
    >>> health([[4.0]])
    [Health(norm=2.0, times_median=None, cosine=None)]
    """
    norms = [row[i] ** 0.5 for i, row in enumerate(products)]
    moved = [i for i, norm in enumerate(norms) if norm and isfinite(norm)]
    if len(moved) < 2:
        return [Health(norm, None, None) for norm in norms]
    middle = median(norms[i] for i in moved)
    sums = {i: sum(products[i][j] for j in moved) for i in moved}
    whole = sum(sums.values())
    found = []
    for i, norm in enumerate(norms):
        if i not in sums:
            found.append(Health(norm, None, None))
            continue
        rest = max(whole - 2 * sums[i] + products[i][i], 0.0) ** 0.5
        cosine = (sums[i] - products[i][i]) / (norm * rest) if rest else 0.0
        found.append(Health(norm, norm / middle, cosine))
    return found


EVIDENCE = (
    "On the embedded scene, with 2 such candidates of 10, a median left 13.9 points less of the forget set than the "
    "plain mean at equal retention, NegMerge 5.6 (8 pools, docs/when.md)."
)
"""What was measured of too long candidates, by `benchmarks/uneven.py`."""


def suggestion(rows: Sequence[Health]) -> str:
    """What candidates that are too long mean for a merge, with its evidence; empty where there are none.

    >>> suggestion([Health(1.0, 1.0, 0.9), Health(1.0, 1.0, 0.9), Health(6.0, 6.0, 0.8)]).partition(". ")[0]
    '1 of 3 candidates moves 6 times as far as the median: leave it out, or merge by median or normalised mean'
    """
    times = sorted(row.times_median for row in rows if row.times_median is not None and row.is_long)
    if not times:
        return ""
    least, most = f"{times[0]:.2g}", f"{times[-1]:.2g}"
    far = least if least == most else f"{least} to {most}"
    verb, them = ("moves", "it") if len(times) == 1 else ("move", "them")
    return (
        f"{len(times)} of {len(rows)} candidates {verb} {far} times as far as the median: leave {them} out, or merge "
        f"by median or normalised mean. {EVIDENCE}"
    )
