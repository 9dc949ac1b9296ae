"""A comparison as jobs: each scores one method by the comparison's protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negmerge_kit.comparison.compare import compare_rules
from negmerge_kit.comparison.methods import RETRAIN, RETRAIN_AGAIN, Method
from negmerge_kit.comparison.options import PLAIN, ComparisonOptions
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.pools.pool import Pool, open_pool
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scoring.scale_search import KEEP, Scales
from negmerge_kit.sweeps.finetune_job import open_workbench
from negmerge_kit.types import Json
from negmerge_kit.unlearning.workbench import Workbench


@dataclass(frozen=True)
class ComparisonJob:
    """Run `compare_rules` for one rule on the pool in `folder`; its value is the row, which the pool keeps too.

    Once every rule's job is done, `compare_rules(bench, entrants, kept=RowStore(...))` finds all rows there.
    """

    folder: Path
    method: Method
    keep: float = KEEP
    scales: tuple[float, ...] | None = None
    device: str = "auto"
    force: bool = False
    recompute: bool = False
    options: ComparisonOptions = PLAIN
    buffers: str = "keep"
    candidates: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """The rule as readers know it."""
        return self.method.title

    def run(self, on_step: ProgressFn = no_progress) -> Json:
        """Read the kept row, or compute and keep it."""
        on_step(Progress("step", total=1))
        pool = open_pool(self.folder, force=self.force)
        bench = Workbench(pool, device=self.device) if self.force else _fresh(self.folder, self.device)
        if self.candidates is not None:
            bench.pool = bench.pool.only(self.candidates)
        same: dict[str, Any] = {
            "keep": self.keep,
            "scales": self.scales,
            "buffers": self.buffers,
            "options": self.options,
        }
        kept = RowStore(bench.pool, device=bench.model.device, recompute=self.recompute, **same)
        comparison = compare_rules(bench, [self.method], kept=kept, recompute=self.recompute, on_step=on_step, **same)
        return comparison.rows[0].json()


def comparison_jobs(
    pool: Pool,
    methods: Iterable[Method],
    *,
    keep: float = KEEP,
    scales: Scales = None,
    device: str = "auto",
    recompute: bool = False,
    options: ComparisonOptions = PLAIN,
    buffers: str = "keep",
) -> list[ComparisonJob]:
    """One job a rule, on the candidates that `pool` holds as it is given.

    Rules whose rows the pool keeps cost nothing, unless `recompute`. The retrained models, of which one chooses and one
    judges, are never made again here: the caller makes them first.
    """
    folder, ids = pool.folder.resolve(), pool.distinct
    grid = None if scales is None else tuple(scales)
    return [
        ComparisonJob(
            folder,
            method,
            keep,
            grid,
            device,
            pool.forced,
            recompute and method.rule not in (RETRAIN, RETRAIN_AGAIN),
            options,
            buffers,
            ids,
        )
        for method in methods
    ]


def _fresh(folder: Path, device: str) -> Workbench:
    """The worker's workbench, with the candidates that the pool holds now."""
    bench = open_workbench(folder, open_pool(folder).base_file.sha256, device)
    bench.refresh()
    return bench
