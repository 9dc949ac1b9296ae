"""The same comparison on random subsets of the candidates: how much a result depends on which there are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from math import comb

from negmerge_kit.comparison.compare import Comparison, FinishedRows
from negmerge_kit.comparison.row import Row
from negmerge_kit.errors import ParameterError
from negmerge_kit.progress import Progress, ProgressFn, no_progress


def half(ids: Sequence[str]) -> int:
    """Half of the candidates, rounded up, and at least two.

    >>> half(["a", "b", "c"])
    2
    """
    return max(2, (len(ids) + 1) // 2)


def draw_subsets(ids: Sequence[str], count: int, size: int, *, seed: int = 0) -> list[tuple[str, ...]]:
    """Different subsets of one size, each in the pool's order.

    Raises:
        ParameterError: if there are fewer different subsets than asked for, or the size is below 2.

    >>> sorted(draw_subsets(["a", "b", "c"], 3, 2, seed=1))
    [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    if not 2 <= size <= len(ids) or not 1 <= count <= comb(len(ids), size):
        raise ParameterError(
            f"{count} different subsets of {size} out of {len(ids)} candidates do not exist: "
            f"ask for 2 to {len(ids)} candidates and at most {comb(len(ids), max(size, 0))} subsets."
        )
    draw = random.Random(seed)
    found: dict[tuple[str, ...], None] = {}
    while len(found) < count:
        chosen = set(draw.sample(list(ids), size))
        found[tuple(id for id in ids if id in chosen)] = None
    return list(found)


def redraw(
    comparison: Comparison,
    count: int,
    *,
    size: int | None = None,
    seed: int = 0,
    kept: FinishedRows | None = None,
    on_row: ProgressFn = no_progress,
) -> tuple[Comparison, ...]:
    """Compare the same rules on `count` subsets of the candidates, half of them at a time unless `size` says otherwise.

    Subsets overlap, so their spread is no confidence interval: pass `independent=False` to `across`.

    Raises:
        ParameterError: if the subsets do not exist, or the comparison holds no models any more.
    """
    runner = comparison.runner
    if runner is None:
        raise ParameterError("this comparison holds no models any more: compare again, then redraw.")
    ids = runner.backend.pool.distinct
    subsets = draw_subsets(ids, count, half(ids) if size is None else size, seed=seed)
    drawn, total = [], len(subsets) * len(comparison.rows)
    for number, subset in enumerate(subsets):
        rows: list[Row] = []
        for row in comparison.rows:
            done = number * len(comparison.rows) + len(rows)
            on_row(Progress(row.method.title, step=done, total=total))
            found = kept.find(row.method, subset) if kept else None
            if found is None:
                found = runner.row(row.method, subset)
                if kept:
                    kept.keep(found, subset)
            rows.append(found)
        drawn.append(replace(comparison, candidates=subset, rows=tuple(rows), runner=None))
    return tuple(drawn)
