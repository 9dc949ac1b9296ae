"""Filling a pool: base first, then one candidate after another, each recorded when its file is on disk.

`pool.json` is rewritten, whole and atomically, after each candidate: whatever kills the writer,
finished work stays and is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from filelock import FileLock, Timeout

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.header import MADE_FROM
from negmerge_kit.checkpoints.writer import save_checkpoint, sha256_file
from negmerge_kit.errors import PoolBusyError, PoolError
from negmerge_kit.pools.pool import RECORD, SCHEMA, TRAINED_ON, Candidate, Pool, StoredFile
from negmerge_kit.pools.result_store import digest
from negmerge_kit.types import Items, Json, Weights


def create_pool(folder: str | Path, scene: Json, base: Weights, heads: Weights) -> Pool:
    """Start a pool in `folder` with its base and heads.

    Raises:
        PoolError: if the folder holds a pool already, or cannot be written.
    """
    folder = Path(folder)
    if (folder / RECORD).exists():
        raise PoolError(f"{folder} holds a pool already: open it, or choose another folder.")
    try:
        (folder / "candidates").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PoolError(
            f"cannot make {folder}: {error.strerror or error}. Choose a folder that may be written to."
        ) from error
    path = save_checkpoint(folder / "base.safetensors", base.items(), like=base)
    base_file = StoredFile(path.name, sha256_file(path))
    path = save_checkpoint(folder / "heads.safetensors", heads.items(), like=heads, metadata=_made_from(base_file))
    pool = Pool(folder, scene, base_file, StoredFile(path.name, sha256_file(path)), ())
    _write_record(pool)
    return pool


def restore_base(pool: Pool, base: Weights, heads: Weights) -> list[str]:
    """Write base and heads again where their files are missing or changed, if that gives the recorded bytes.

    A changed file keeps its bytes as `<name>.damaged`. Returns one sentence for each file.

    Raises:
        PoolError: if these weights are not the ones that were recorded; the pool's folder has to be made again.
    """
    problems = []
    for stored, weights, record in ((pool.base_file, base, None), (pool.heads_file, heads, _made_from(pool.base_file))):
        problem = pool.problem(stored)
        if problem is None:
            continue
        path = pool.folder / stored.file
        if path.exists():
            path.replace(path.with_suffix(".damaged"))
        save_checkpoint(path, weights.items(), like=weights, metadata=record)
        if sha256_file(path) != stored.sha256:
            path.unlink()
            raise PoolError(
                f"{path} is missing or changed and cannot be made again: delete {pool.folder} and build the pool again."
            )
        problems.append(problem)
    return problems


def candidate_id(pool: Pool, recipe: Json) -> str:
    """Digest of base, size of images, forget data and recipe: a changed recipe never picks up a stale file."""
    model = pool.scene.get("model")
    size = [model["size"]] if isinstance(model, dict) and "size" in model else []
    trained_on = [images["fingerprint"] for images in pool.scene["sets"] if images["split"] == "train"]
    return digest([pool.base_file.sha256, pool.scene["mode"], trained_on, recipe, *size])[:12]


def candidate_file(id: str) -> str:
    """Path of a candidate's weights, relative to the pool's folder.

    >>> candidate_file("4c6abe002237")
    'candidates/4c6abe002237.safetensors'
    """
    return f"candidates/{id}.safetensors"


def save_candidate(pool: Pool, recipe: Json, items: Items) -> Candidate:
    """Write a finished candidate's weights and return its entry, which is not in the pool yet.

    Any worker may do this; the process that holds the pool's lock records the entry.

    Raises:
        CheckpointError: if the file cannot be written; nothing is left behind.
    """
    id = candidate_id(pool, recipe)
    path = pool.folder / candidate_file(id)
    made_from = _made_from(pool.base_file) | ({TRAINED_ON: pool.trained_on} if pool.trained_on else {})
    save_checkpoint(path, items, like=pool.base, metadata=made_from)
    return Candidate(id, candidate_file(id), sha256_file(path), recipe)


def record_candidate(pool: Pool, entry: Candidate, *, order: Sequence[str] = ()) -> Pool:
    """Add an entry to pool.json, or replace the one of the same id; the pool with it is returned.

    `order` lists the ids in the pool's order: sums are taken in it, so it must not depend on which was fastest.
    Without it, or for an id that it lacks, the entry comes last.
    """
    pool = pool.reload()
    entries = [entry if other.id == entry.id else other for other in pool.entries]
    if entry.id not in pool.ids:
        later = order[order.index(entry.id) + 1 :] if entry.id in order else ()
        place = next((k for k, other in enumerate(entries) if other.id in later), len(entries))
        entries.insert(place, entry)
    pool = replace(pool, entries=tuple(entries))
    _write_record(pool)
    return pool


def set_aside_damaged(pool: Pool) -> tuple[Pool, list[str]]:
    """Rename candidate files that no longer match their hash, so that the next sweep makes them again.

    Nothing is deleted: the changed file keeps its bytes as `<id>.damaged`. Returns the pool without
    those candidates and one sentence for each.
    """
    problems = []
    for entry in pool.entries:
        if problem := pool.problem(entry):
            path = pool.folder / entry.file
            if path.exists():
                path.replace(path.with_suffix(".damaged"))
            problems.append(problem)
            pool = replace(pool, entries=tuple(other for other in pool.entries if other.id != entry.id))
    if problems:
        _write_record(pool)
    return pool, problems


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Hold the pool's lock while adding to it; a killed writer's lock is released by the system.

    Raises:
        PoolBusyError: if another process is writing to this pool; wait for it.
        PoolError: if the folder cannot be written.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise PoolBusyError(
            f"{holder(folder)} is adding candidates to {folder}: wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise PoolError(
            f"cannot write to {folder}: {error.strerror or error}. Choose a folder that may be written to."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # where nothing came of it nothing stays, not even an empty folder
            if made and {path.name for path in folder.iterdir()} <= {".lock", "candidates"}:
                if (folder / "candidates").is_dir():
                    (folder / "candidates").rmdir()
                (folder / ".lock").unlink()
                folder.rmdir()
        lock.release()


def holder(folder: Path) -> str:
    """The process that holds the pool's lock, in words: its process number where the system lists locks (Linux)."""
    with suppress(OSError, ValueError):
        inode = (folder / ".lock").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, process, place, *_ = line.split()
            if kind == "FLOCK" and int(process) > 0 and int(place.rpartition(":")[2]) == inode:
                return f"another process ({process})"
    return "another process"


def _made_from(base: StoredFile) -> Json:
    return {MADE_FROM: base.sha256}


def _write_record(pool: Pool) -> None:
    record = {
        "schema": SCHEMA,
        "scene": pool.scene,
        "base": asdict(pool.base_file),
        "heads": asdict(pool.heads_file),
        "candidates": [asdict(entry) for entry in pool.entries],
    }
    with atomic_file(pool.folder / RECORD) as file:
        file.write(json.dumps(record, indent=1, allow_nan=False).encode())
