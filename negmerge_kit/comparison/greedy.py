"""The two searches over candidates: the best single one, and greedy selection by what is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from negmerge_kit.scoring.scale_search import ScaleSearch


@dataclass(frozen=True)
class Selection:
    """The candidates that a search kept, the scale search of their merge, and how many scale searches it took."""

    candidates: tuple[str, ...]
    search: ScaleSearch
    searches: int


def best_single(ids: Sequence[str], search: Callable[[tuple[str, ...]], ScaleSearch]) -> Selection:
    """The candidate that forgets most at its own best scale on validation; the earlier one among equals.

    This is task negation with the hyperparameters chosen on validation (arXiv:2212.04089, section 3), which NegMerge is
    meant to spare: every candidate is searched. If none keeps enough at any scale, the first one is taken.
    """
    order = ranked(ids, search)
    return Selection((order[0],), search((order[0],)), len(ids))


def greedy(ids: Sequence[str], search: Callable[[tuple[str, ...]], ScaleSearch]) -> Selection:
    """Greedy selection: candidates join the average in order of their own forgetting, each if it then forgets more.

    The greedy soup (arXiv:2203.05482, section 2) with accuracy to gain replaced by forget accuracy to lose: start with
    the best single candidate; try each other feasible one in turn; keep it if the average's re-searched scale
    forgets strictly more on validation. One pass.
    """
    order = ranked(ids, search)
    chosen: tuple[str, ...] = (order[0],)
    found, searches = search(chosen), len(ids)
    for id in order[1:]:
        if search((id,)).best is None:
            continue
        # Sums are taken in the pool's order, whatever the order of joining.
        tried = tuple(other for other in ids if other in chosen or other == id)
        outcome, searches = search(tried), searches + 1
        if left_over(outcome) < left_over(found):
            chosen, found = tried, outcome
    return Selection(chosen, found, searches)


def ranked(ids: Sequence[str], search: Callable[[tuple[str, ...]], ScaleSearch]) -> list[str]:
    """Candidates by their own best feasible forget score, infeasible ones last."""
    return sorted(ids, key=lambda id: left_over(search((id,))))


def left_over(found: ScaleSearch) -> float:
    """What the search made small: forget accuracy, or the gap to the retrained model; infinite if infeasible."""
    if found.best and found.best.gap is not None:
        return found.best.gap
    return found.best.forget.value if found.best and found.best.forget else float("inf")
