"""A contest on a standard classifier's pool: rules and baselines side by side, each with every metric on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from negmerge_kit.lab.comparison.baseline_rows import base_row, baseline_row, retrained, yardstick_of
from negmerge_kit.lab.comparison.contest import Contest
from negmerge_kit.lab.comparison.entrants import BASE, RETRAIN, RETRAIN_AGAIN, Entrant
from negmerge_kit.lab.comparison.rows import Matched, Row
from negmerge_kit.lab.comparison.terms import PLAIN, Terms
from negmerge_kit.lab.delta_cache import Choice
from negmerge_kit.lab.scorer import Charge
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.progress import ProgressFn, no_progress
from negmerge_kit.scoring.scale_search import KEEP, Point, Scales, ScaleSearch


def models_to_make(entrants: Sequence[Entrant], terms: Terms) -> tuple[str, ...]:
    """The splits whose retrained models a contest makes where they are not there: of `test` if retraining is a row, and
    of `val` if that from another seed is one, or chooses beside the first.

    >>> from negmerge_kit.lab.comparison.entrants import find_entrants
    >>> models_to_make(find_entrants("none", "retrain", classifier=True), Terms("gap"))
    ('test', 'val')
    """
    named = {entrant.rule for entrant in entrants}
    judges = RETRAIN in named
    chooses = RETRAIN_AGAIN in named or (judges and terms.choose == "gap")
    return (*(["test"] if judges else []), *(["val"] if chooses else []))


class ClassifierContest(Contest):
    """Compares rules, searches and baselines on one classifier's pool.

    Args:
        terms: by what scales and rates are chosen, and how many shadow models attack.
        on_step: called with each training step of a baseline.
        anew: whether every rate is tried again, and the retrained model made again, whatever the pool keeps.

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
        terms: Terms = PLAIN,
        on_step: ProgressFn = no_progress,
        anew: bool = False,
    ) -> None:
        super().__init__(bench, keep=keep, scales=scales, buffers=buffers)
        self.bench, self.terms = bench, terms
        self.yardstick, self._anew = yardstick_of(bench, terms), anew
        self._on_step = on_step

    def prepare(self, entrants: Sequence[Entrant]) -> None:
        """Make the retrained models that are needed: one judges all rows, another chooses by the gap."""
        for split in models_to_make(entrants, self.terms):
            retrained(self.yardstick, self.terms, self._on_step, split=split, anew=self._anew)
        if self.terms.choose == "gap":
            self.yardstick.require()

    def row(self, entrant: Entrant, ids: Sequence[str] | None = None) -> Row:
        """A rule's row with its metrics at the chosen scale, or a baseline's."""
        if self.terms.choose == "gap":
            self.yardstick.reference("val")  # measured once for all, at nobody's cost
        if entrant.rule == BASE:
            return base_row(entrant, self.yardstick)
        if entrant.is_baseline:
            return baseline_row(entrant, self.yardstick, self.terms, self.keep, self._on_step, anew=self._anew)
        row = super().row(entrant, ids)
        if row.scale is None:
            return row
        choice, _ = self.choose(entrant, tuple(self.bench.pool.distinct if ids is None else ids))
        with self.bench.at(choice, row.scale) as model:
            return replace(row, standing=self.yardstick.standing(model, "test", row.cost.wall))

    def finished(self, row: Row) -> bool:
        """Not a row that was kept by a contest without metrics, as the app's are."""
        return row.status != "ok" or row.standing is not None

    def find_scale(self, choice: Choice, charge: Charge) -> ScaleSearch:
        """By the floor as for any pool, or the scale nearest to the retrained model, for which every image answers."""
        if self.terms.choose == "floor":
            return super().find_scale(choice, charge)
        limit = self.limit(choice)
        before = self.yardstick.evaluations, self.yardstick.images
        found = self.yardstick.nearest(choice, scales=[scale for scale in self.grid if scale < limit])
        charge.add(self.yardstick.evaluations - before[0], self.yardstick.images - before[1])
        return found

    def matched(self, choice: Choice) -> Matched | None:
        """At matched retention by the floor only: who chooses by the gap has no floor to meet."""
        return super().matched(choice) if self.terms.choose == "floor" else None

    def frontier(self, choice: Choice) -> tuple[Point, ...]:
        """By the gap the whole grid is known, and is the curve."""
        return super().frontier(choice) if self.terms.choose == "floor" else ()

    def curve(self, choice: Choice) -> tuple[Point, ...]:
        """What is known in full on validation; of a search by the gap, the whole grid."""
        return self.search(choice).found.curve if self.terms.choose == "gap" else super().curve(choice)
