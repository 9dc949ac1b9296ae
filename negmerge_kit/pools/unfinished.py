"""Unfinished candidates: POOL/unfinished/<id>* holds what a killed sweep goes on from, until it is recorded.

    POOL/unfinished/<id>.safetensors …   the state that an interrupted fine-tuning resumes from
    POOL/unfinished/<id>.json            weights are written, scores or record are missing: not to be trained again

Everything is named by the candidate's id, a digest of base, data and recipe, so nothing stale is ever resumed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.errors import PoolError
from negmerge_kit.pools.pool import RECORD, Candidate, Pool
from negmerge_kit.pools.pool_writer import candidate_file, record_candidate
from negmerge_kit.safe_json import read_json

FOLDER = "unfinished"


def state_file(pool: Pool, id: str) -> Path:
    """Path of the state that the fine-tuning of candidate `id` resumes from; its folder is created.

    Raises:
        PoolError: if the folder cannot be made.
    """
    folder = pool.folder / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PoolError(f"cannot make {folder}: {error.strerror or error}. Make the pool's folder writable.") from error
    return folder / f"{id}.safetensors"


def note_written(pool: Pool, entry: Candidate) -> None:
    """Note that a candidate's weights are on disk, before it is scored and recorded."""
    with atomic_file(state_file(pool, entry.id).with_suffix(".json")) as file:
        file.write(json.dumps(asdict(entry), allow_nan=False).encode())


def find_written(pool: Pool, id: str) -> Candidate | None:
    """The candidate whose weights an interrupted sweep wrote, if its file still has the noted hash."""
    try:
        entry = Candidate.from_json(read_json(pool.folder / FOLDER / f"{id}.json", dict))
    except (OSError, ValueError, TypeError):
        return None
    own = entry.id == id and entry.file == candidate_file(id)  # what is dropped later must not be another's file
    return entry if own and pool.problem(entry) is None else None


def drop_written(pool: Pool, entry: Candidate) -> None:
    """Remove a candidate's weights and their note: it cannot be recorded, and would fail alike once more."""
    _remove(pool.folder / FOLDER, entry.id)
    with suppress(OSError):
        (pool.folder / entry.file).unlink()


def record_finished(pool: Pool, entry: Candidate, order: Sequence[str] = ()) -> Pool:
    """Record a candidate at its place in `order`, and remove what an interrupted sweep would have gone on from."""
    pool = record_candidate(pool, entry, order=order)
    _remove(pool.folder / FOLDER, entry.id)
    return pool


def clear_up(pool: Pool) -> None:
    """Remove what killed writers left: half-written files and the states of recorded candidates.

    Call it with the pool held for writing, and with no worker at work: one may just have made the folder. What others
    write next to the pool's own files (an unlearned checkpoint, a retrained reference) is theirs.
    """
    for id in pool.reload().ids:
        _remove(pool.folder / FOLDER, id)
    own = [RECORD, pool.base_file.file, pool.heads_file.file]
    left = [part for name in own for part in pool.folder.glob(f".{name}.*.part")]
    for folder in (pool.folder / "candidates", pool.folder / FOLDER):
        left += folder.glob(".*.part")
    for part in left:
        with suppress(OSError):
            part.unlink()
    with suppress(OSError):
        (pool.folder / FOLDER).rmdir()  # only when nothing is left in it


def _remove(folder: Path, id: str) -> None:
    for path in folder.glob(f"{id}*"):
        with suppress(OSError):
            path.unlink()
