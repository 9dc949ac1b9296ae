"""A sharded checkpoint merged shard by shard: one file a shard, the index comes last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.digests import Digests
from negmerge_kit.checkpoints.folders import plan_output
from negmerge_kit.checkpoints.merge_files import Inputs, open_all
from negmerge_kit.checkpoints.overwrite_guard import check_outputs, files_of
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import index_for, output_files, save_checkpoint
from negmerge_kit.errors import CheckpointError, ParameterError, check_scale
from negmerge_kit.merging.fold import Merge
from negmerge_kit.merging.layout import check_alike
from negmerge_kit.merging.negation import negate
from negmerge_kit.merging.rules import find_rule
from negmerge_kit.merging.sources import Sources, warn_of_half
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.types import Items, Json


def plan_shards(
    base: str | Path,
    candidates: Sequence[str | Path],
    *,
    out: str | Path,
    scale: float,
    rule: str,
    buffers: str,
    params: Json,
    force: bool = False,
    renames: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[int, Json, Json]:
    """Number of shards to merge, the record that each of them carries, and what else the caller reports.

    A former output's index is taken away: until the new one is written, the shards do not belong together.

    Raises:
        MismatchError, ParameterError, CheckpointError: as `merge_files` does, before anything is written.
    """
    check_scale(scale)
    found = open_all(base, candidates, renames=renames, ignore=ignore)
    opened, others = found.base, found.others
    check_alike(opened, others, ignore=found.ignore)
    place = plan_output(out, base, opened)
    if place.companions:
        raise ParameterError(
            f"--executor writes a file for each shard, and goes on with them after a kill: name --out "
            f"{out}.safetensors, or leave out --executor to write the folder {out}."
        )
    parts = output_files(out, opened)
    check_outputs(parts, files_of(opened, *others))
    settings = find_rule(rule).resolve(params)
    record: Json = {"rule": rule, "params": settings, "buffers": buffers, "scale": scale, **found.record}
    with Digests() as digests:
        record |= Inputs(opened, others, candidates, digests, force=force).record()
    record = json.loads(json.dumps(record))
    if len(parts) > 1 and not all(_carries(part, record) for part in parts[:-1]):
        with suppress(FileNotFoundError):
            parts[-1].unlink()
    small, _ = warn_of_half(Sources(opened, others, buffers=buffers, ignore=found.ignore))
    return len(opened.files), record, {"below_half_step": small, "notes": [*found.notes, *place.notes]}


def merge_shard(
    base: str | Path,
    candidates: Sequence[str | Path],
    *,
    out: str | Path,
    shard: int,
    record: Json,
    device: str = "cpu",
    on_tensor: ProgressFn = no_progress,
) -> Json:
    """Merge one shard of the base and write it; return what was counted in it.

    A shard that is there with this very record is counted, not written again. A rule that looks at the whole model
    first does so for every shard; the files are those of `merge_files`, byte for byte. Raises as `merge` and
    `save_checkpoint` do.
    """
    found = open_all(base, candidates, renames=record.get("renames"), ignore=record.get("ignore", ()))
    opened, others = found.base, found.others
    part, own = output_files(out, opened)[shard], open_checkpoint(opened.files[shard])
    chosen = find_rule(record["rule"])
    sources = _Shard(opened, others, names=set(own), device=device, buffers=record["buffers"], ignore=found.ignore)
    merged = Merge(sources, chosen, chosen.resolve(record["params"]))
    if _carries(part, record):
        for _ in merged:
            pass
    else:
        items = _with_progress(negate(own, merged, record["scale"]), len(own), on_tensor)
        save_checkpoint(part, items, like=own, metadata=record)
    return asdict(merged.counts)


def finish_shards(base: str | Path, out: str | Path) -> Path:
    """Write the index once every shard is there; the path that opens the whole.

    Raises:
        CheckpointError: if a shard is not there, or the index cannot be written.
    """
    opened = open_checkpoint(base)
    parts = output_files(out, opened)
    if missing := [part for part in parts[:-1] or parts if not part.exists()]:
        raise CheckpointError(
            f"{missing[0]} was written where this machine does not see it: choose an --out in a folder that every "
            "machine shares under one path."
        )
    if len(parts) > 1:
        with atomic_file(parts[-1]) as file:
            file.write(index_for(parts, opened))
    return parts[-1]


class _Shard(Sources):
    """Tensors of base and candidates: all of them for a rule's survey, those of one shard for the merge."""

    def __init__(self, *weights: Any, names: set[str], **settings: Any) -> None:
        super().__init__(*weights, **settings)
        self._names = names

    @property
    def names(self) -> list[str]:
        return [name for name in super().names if name in self._names]


def _carries(part: Path, record: Json) -> bool:
    """Whether a whole file with this record is there; it was renamed into place when it was complete."""
    try:
        return open_checkpoint(part).metadata == record
    except CheckpointError:
        return False


def _with_progress(items: Items, total: int, on_tensor: ProgressFn) -> Items:
    for done, item in enumerate(items, start=1):
        yield item
        on_tensor(Progress("step", step=done, total=total))
