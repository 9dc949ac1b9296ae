"""Comparison on a standard classifier's pool: rules and baselines, each with every metric on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from negmerge_kit.comparison.baseline_rows import base_row, baseline_row, evaluator_of, retrained
from negmerge_kit.comparison.methods import BASE, RETRAIN, RETRAIN_AGAIN, Method
from negmerge_kit.comparison.options import PLAIN, ComparisonOptions
from negmerge_kit.comparison.row import Matched, Row
from negmerge_kit.comparison.rule_rows import ComparisonRunner
from negmerge_kit.progress import ProgressFn, no_progress
from negmerge_kit.scoring.scale_search import KEEP, Point, Scales, ScaleSearch
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.scorer import Charge
from negmerge_kit.unlearning.workbench import Workbench


def models_to_make(methods: Sequence[Method], options: ComparisonOptions) -> tuple[str, ...]:
    """Splits whose retrained models must be trained if missing: `test` if retraining is a row, and `val` if retraining
    from another seed is one, or chooses by the gap.

    >>> from negmerge_kit.comparison.methods import find_methods
    >>> models_to_make(find_methods("none", "retrain", classifier=True), ComparisonOptions("gap"))
    ('test', 'val')
    """
    named = {method.rule for method in methods}
    judges = RETRAIN in named
    chooses = RETRAIN_AGAIN in named or (judges and options.choose == "gap")
    return (*(["test"] if judges else []), *(["val"] if chooses else []))


class ClassifierRunner(ComparisonRunner):
    """Compares rules, searches and baselines on one classifier's pool.

    Args:
        options: by what scales and rates are chosen, and how many shadow models attack.
        on_step: called with each training step of a baseline.
        recompute: whether every rate is tried again, and the retrained model made again, whatever the pool keeps.

    Raises:
        ParameterError: from `row`, if the gap should choose and the pool has no retrained model.
    """

    def __init__(
        self,
        bench: Workbench,
        *,
        keep: float = KEEP,
        scales: Scales = None,
        buffers: str = "keep",
        options: ComparisonOptions = PLAIN,
        on_step: ProgressFn = no_progress,
        recompute: bool = False,
    ) -> None:
        super().__init__(bench, keep=keep, scales=scales, buffers=buffers)
        self.bench, self.options = bench, options
        self.evaluator, self._recompute = evaluator_of(bench, options), recompute
        self._on_step = on_step

    def prepare(self, methods: Sequence[Method]) -> None:
        """Make the retrained models that are needed: one judges all rows, another chooses by the gap."""
        for split in models_to_make(methods, self.options):
            retrained(self.evaluator, self.options, self._on_step, split=split, recompute=self._recompute)
        if self.options.choose == "gap":
            self.evaluator.require()

    def row(self, method: Method, ids: Sequence[str] | None = None) -> Row:
        """A rule's row with its metrics at the chosen scale, or a baseline's."""
        if self.options.choose == "gap":
            self.evaluator.reference("val")  # measured once, charged to no row
        if method.rule == BASE:
            return base_row(method, self.evaluator)
        if method.is_baseline:
            return baseline_row(
                method, self.evaluator, self.options, self.keep, self._on_step, recompute=self._recompute
            )
        row = super().row(method, ids)
        if row.scale is None:
            return row
        choice, _ = self.choose(method, tuple(self.bench.pool.distinct if ids is None else ids))
        with self.bench.at(choice, row.scale) as model:
            return replace(row, metrics=self.evaluator.metrics(model, "test", row.cost.wall))

    def finished(self, row: Row) -> bool:
        """Not a row that was kept by a runner without metrics, as the app's are."""
        return row.status != "ok" or row.metrics is not None

    def find_scale(self, choice: Choice, charge: Charge) -> ScaleSearch:
        """By the floor as for any pool, or the scale nearest to the retrained model, for which every image answers."""
        if self.options.choose == "floor":
            return super().find_scale(choice, charge)
        limit = self.limit(choice)
        before = self.evaluator.evaluations, self.evaluator.images
        found = self.evaluator.nearest(choice, scales=[scale for scale in self.grid if scale < limit])
        charge.add(self.evaluator.evaluations - before[0], self.evaluator.images - before[1])
        return found

    def matched(self, choice: Choice) -> Matched | None:
        """At matched retention by the floor only: a search by the gap has no floor to meet."""
        return super().matched(choice) if self.options.choose == "floor" else None

    def frontier(self, choice: Choice) -> tuple[Point, ...]:
        """By the gap the whole grid is known, and is the curve."""
        return super().frontier(choice) if self.options.choose == "floor" else ()

    def curve(self, choice: Choice) -> tuple[Point, ...]:
        """What is known in full on validation; of a search by the gap, the whole grid."""
        return self.search(choice).found.curve if self.options.choose == "gap" else super().curve(choice)
