"""Merging as jobs: every shard of a sharded checkpoint wherever there is a free worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negmerge_kit.checkpoints.merge_files import merged_json
from negmerge_kit.checkpoints.merge_shards import finish_shards, merge_shard, plan_shards
from negmerge_kit.errors import NegmergeError
from negmerge_kit.merging.fold import MergeCounts
from negmerge_kit.progress import ProgressFn, no_progress
from negmerge_kit.sweeps.job import Executor, OnStep, Outcome
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.types import Json


@dataclass(frozen=True)
class MergeJob:
    """Merge one shard into its own file next to `out`; `record` is the JSON text of what was planned."""

    base: Path
    candidates: tuple[Path, ...]
    out: Path
    shard: int
    record: str
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        """Where the shards are written."""
        return self.out.parent

    @property
    def label(self) -> str:
        """Which shard."""
        return f"shard {self.shard + 1} of {self.out.name}"

    def run(self, on_step: ProgressFn = no_progress) -> Json:
        """Merge and write it; `{"elements", "moved", "kept"}`."""
        return merge_shard(
            self.base,
            self.candidates,
            out=self.out,
            shard=self.shard,
            record=json.loads(self.record),
            device=self.device,
            on_tensor=on_step,
        )


def merge_sharded(
    base: str | Path,
    candidates: Sequence[str | Path],
    *,
    out: str | Path,
    scale: float = 1.0,
    rule: str = "negmerge",
    device: str = "cpu",
    buffers: str = "keep",
    force: bool = False,
    renames: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    executor: str | Executor = "process",
    on_step: OnStep = lambda job, progress: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    **params: Any,
) -> Json:
    """Merge a sharded checkpoint, one job a shard; the files and the JSON are those of `merge_files`.

    Killed at any moment, the same call goes on with the shards that are missing. The index appears when all are there.

    Raises:
        NegmergeError: if a shard failed; the message is the first failure's.
    """
    started = time.perf_counter()
    count, record, findings = plan_shards(
        base,
        candidates,
        out=out,
        scale=scale,
        rule=rule,
        buffers=buffers,
        params=params,
        force=force,
        renames=renames,
        ignore=ignore,
    )
    home, files = Path(out).resolve(), tuple(Path(path).resolve() for path in candidates)
    jobs = [
        MergeJob(Path(base).resolve(), files, home, shard, json.dumps(record, sort_keys=True), device)
        for shard in range(count)
    ]
    outcomes = []
    for outcome in run_sweep(jobs, executor=executor, on_step=on_step):
        outcomes.append(outcome)
        on_end(outcome)
    if failed := [outcome for outcome in outcomes if outcome.failure]:
        raise NegmergeError(f"{len(failed)} of {count} shards failed; {failed[0].job.label}: {failed[0].failure}")
    counts = MergeCounts(below_half_step=findings["below_half_step"])
    for outcome in outcomes:
        counts.elements += outcome.value["elements"]
        counts.moved += outcome.value["moved"]
        counts.kept += outcome.value["kept"]
    return merged_json(
        record,
        candidates,
        counts,
        seconds=time.perf_counter() - started,
        out=finish_shards(base, out),
        notes=findings["notes"],
    )
