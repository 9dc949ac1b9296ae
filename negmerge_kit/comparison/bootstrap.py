"""Paired bootstrap of a comparison's rows over images."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from negmerge_kit.comparison.compare import REFERENCE, Comparison
from negmerge_kit.comparison.row import Row
from negmerge_kit.comparison.rule_rows import ComparisonRunner
from negmerge_kit.errors import ParameterError
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scoring.early_stopping import onwards, unscorable
from negmerge_kit.scoring.paired_bootstrap import REPLICATES, Curve, Resampled, bootstrap
from negmerge_kit.unlearning.delta_cache import Choice


def resample(
    comparison: Comparison,
    *,
    reference: str = REFERENCE,
    replicates: int = REPLICATES,
    seed: int = 0,
    confidence: float = 0.95,
    on_row: ProgressFn = no_progress,
) -> dict[str, Resampled]:
    """Bootstrap the images under all rows at once; every replicate chooses all scales again (see `bootstrap`).

    Every rule is scored in full at every scale on validation and test, which takes several times as long as the
    comparison. The best single candidate, and a dial that is searched, are chosen again in every replicate; a greedy
    selection is not, only its scale is: its set was chosen on the images as they are.

    Args:
        reference: the name of the row that the others are compared with.
        on_row: called with each row that comes next: its step is the rows that are done.

    Raises:
        ParameterError: if the comparison was read from a file, or has no such row.

    Returns:
        By row name, without rows that leave nothing to subtract.
    """
    runner = comparison.runner
    if runner is None:
        raise ParameterError("this comparison holds no models any more: compare again, then resample.")
    rows = [row for row in comparison.rows if row.status != "empty"]
    if reference not in {row.method.name for row in rows}:
        raise ParameterError(f"{reference} is not among the compared rules: add it, or name another reference.")
    curves: dict[str, Sequence[Curve]] = {}
    for index, row in enumerate(rows):
        on_row(Progress(row.method.title, step=index, total=len(rows)))
        curves[row.method.name] = [curve_of(runner, choice) for choice in _choices(runner, row)]
    return bootstrap(
        curves, reference=reference, keep=comparison.keep, replicates=replicates, seed=seed, confidence=confidence
    )


def curve_of(runner: ComparisonRunner, choice: Choice) -> Curve:
    """A choice's answers at the protocol's grid, and beyond it until retention is clearly below the floor.

    Clearly: by four standard deviations of a count that loses the share which the floor allows.
    """
    scorer, total = runner.scorer, runner.base("val").retain.n
    enough = runner.floor - 4 * sqrt(total * (1 - runner.keep) + 1)
    scales, above = [0.0], [scale for scale in runner.grid if scale > 0]
    for scale in onwards(runner.grid):
        if scale > above[-1] and scorer.retained(choice, scales[-1]) < enough:
            break
        scales.append(scale)
    capped: int | None = 1 + len(above)
    if runner.scales is None:  # the search goes on: a replicate chooses among all of these, and what the search saw
        searched = runner.search(choice).found.curve
        scales, capped = sorted({*scales, *(point.scale for point in searched if not unscorable(point))}), None
    sides = []
    for split in ("val", "test"):
        answers = [scorer.answers(choice, scale, split) for scale in scales]
        sides += [
            np.stack([each.forget.numpy() for each in answers]),
            np.stack([each.retain.numpy() for each in answers]),
        ]
    forget, retain, test_forget, test_retain = sides
    return Curve(forget, retain, test_forget, test_retain, capped=capped)


def _choices(runner: ComparisonRunner, row: Row) -> list[Choice]:
    if row.method.rule == "single":
        return [runner.subtracted([id], "uniform") for id in runner.backend.pool.distinct]
    if row.method.rule == "greedy":
        return [runner.subtracted(row.candidates, "uniform")]
    return [runner.subtracted(row.candidates, row.method.rule, params) for params in row.method.settings]
