"""A pool: one scene's base and its fine-tuned candidates, with recipes and scores, in a folder.

    POOL/pool.json                 schema, scene, base, candidates (id, file, sha256, recipe, scores, seconds, status)
    POOL/base.safetensors          POOL/heads.safetensors          POOL/candidates/<id>.safetensors

`pool.json` is rewritten, whole and atomically, after each candidate: whatever kills the writer,
finished work stays and is not done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint, sha256_file
from negmerge_kit.errors import PoolBusyError, PoolError
from negmerge_kit.types import Items, Json, Weights

SCHEMA = 1
RECORD = "pool.json"


@dataclass(frozen=True)
class StoredFile:
    """A weight file of the pool, relative to its folder, and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Candidate:
    """One fine-tuned model as pool.json records it; `scores` are its own best scale's, on validation."""

    id: str
    file: str
    sha256: str
    recipe: Json
    scores: Json | None = None
    seconds: float = 0.0
    status: str = "done"
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pool:
    """A pool as it was on disk when opened; `reload` sees what has been added since.

    >>> Pool(Path("p"), {}, StoredFile("base.safetensors", ""), StoredFile("heads.safetensors", ""), ()).ids
    []
    """

    folder: Path
    scene: Json
    base_file: StoredFile
    heads_file: StoredFile
    entries: tuple[Candidate, ...]

    @property
    def ids(self) -> list[str]:
        """Candidate ids in the order in which they merge."""
        return [entry.id for entry in self.entries]

    @property
    def base(self) -> Weights:
        """The pretrained weights, read lazily."""
        return self._open(self.base_file)

    @property
    def heads(self) -> Weights:
        """The frozen zero-shot head of each family, read lazily."""
        return self._open(self.heads_file)

    @property
    def candidates(self) -> list[Weights]:
        """All candidates' weights, read lazily, in the order of `ids`."""
        return [self._open(entry) for entry in self.entries]

    @property
    def recipes(self) -> dict[str, Json]:
        """Each candidate's recipe by id."""
        return {entry.id: entry.recipe for entry in self.entries}

    @property
    def scores(self) -> dict[str, Json | None]:
        """Each candidate's own scores by id."""
        return {entry.id: entry.scores for entry in self.entries}

    def candidate(self, id: str) -> Weights:
        """One candidate's weights, after checking that its file is the one that was recorded.

        Raises:
            PoolError: for an unknown id, or a file that is missing or changed.
        """
        return self.checked(self.entry(id))

    def entry(self, id: str) -> Candidate:
        """The record of one candidate.

        Raises:
            PoolError: if the pool has no such candidate; the message lists those it has.
        """
        for entry in self.entries:
            if entry.id == id:
                return entry
        raise PoolError(f"{self.folder} has no candidate '{id}': choose among {', '.join(self.ids) or 'none yet'}.")

    def checked(self, stored: StoredFile | Candidate) -> Weights:
        """The file's weights, if its bytes still have the recorded hash.

        Raises:
            PoolError: if the file is missing or its hash differs.
        """
        if problem := self.problem(stored):
            raise PoolError(problem)
        return self._open(stored)

    def problem(self, stored: StoredFile | Candidate) -> str | None:
        """What is wrong with a file of the pool in one sentence, or None."""
        path = self.folder / stored.file
        if not path.is_file():
            return f"{path} is missing: run the build again, it makes only what is missing."
        if sha256_file(path) != stored.sha256:
            return (
                f"{path} is not the file that was recorded (its SHA-256 differs): "
                "run the build again, it sets the file aside and makes a new one."
            )
        return None

    def verify(self) -> list[str]:
        """One sentence for each file that is missing or changed; an empty list means that all is well."""
        stored = [self.base_file, self.heads_file, *self.entries]
        return [problem for item in stored if (problem := self.problem(item))]

    def reload(self) -> Pool:
        """The pool as it is on disk now."""
        return open_pool(self.folder)

    def _open(self, stored: StoredFile | Candidate) -> Weights:
        return open_checkpoint(self.folder / stored.file)


def open_pool(folder: str | Path) -> Pool:
    """Open a pool folder; weights are read only when asked for.

    Raises:
        PoolError: if the folder holds no pool, or one that this version cannot read; the message
            says how to build one.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PoolError(
            f"{folder} holds no {RECORD}: make a pool with `negmerge pool build tiny --out {folder}`."
        ) from None
    except (OSError, ValueError) as error:
        raise PoolError(
            f"{folder / RECORD} cannot be read ({error}): restore it, or build the pool in a new folder."
        ) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else None
        raise PoolError(f"{folder / RECORD} has schema {found}, this version reads {SCHEMA}: build the pool anew.")
    try:
        entries = tuple(Candidate(**{**item, "losses": tuple(item["losses"])}) for item in record["candidates"])
        pool = Pool(folder, record["scene"], StoredFile(**record["base"]), StoredFile(**record["heads"]), entries)
    except (KeyError, TypeError) as error:
        raise PoolError(
            f"{folder / RECORD} lacks or misspells an entry ({error}): restore it, or build the pool anew."
        ) from error
    for stored in (pool.base_file, pool.heads_file, *pool.entries):
        _refuse_outside(folder, stored.file)
    return pool


def create_pool(folder: str | Path, scene: Json, base: Items, heads: Items, *, like: Weights) -> Pool:
    """Start a pool in `folder`, or open the one that is there if it is of the same scene.

    Raises:
        PoolError: if the folder holds a pool of another scene, or cannot be written.
    """
    folder = Path(folder)
    if (folder / RECORD).exists():
        pool = open_pool(folder)
        if pool.scene != scene:
            raise PoolError(
                f"{folder} holds a pool of {pool.scene.get('name')}, made with other data: choose another folder."
            )
        return pool
    try:
        (folder / "candidates").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PoolError(
            f"cannot make {folder}: {error.strerror or error}. Choose a folder that may be written to."
        ) from error
    files = {}
    for name, items, shape in (("base", base, like), ("heads", heads, None)):
        items = dict(items)
        path = save_checkpoint(
            folder / f"{name}.safetensors", items.items(), like=shape if shape is not None else items
        )
        files[name] = StoredFile(path.name, sha256_file(path))
    pool = Pool(folder, scene, files["base"], files["heads"], ())
    _write_record(pool)
    return pool


def candidate_id(pool: Pool, recipe: Json) -> str:
    """Digest of base, forget data and recipe: a changed recipe never picks up a stale file."""
    trained_on = [images["fingerprint"] for images in pool.scene["sets"] if images["split"] == "train"]
    made_from = [pool.base_file.sha256, pool.scene["mode"], trained_on, recipe]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]


def save_candidate(pool: Pool, recipe: Json, items: Items) -> Candidate:
    """Write a finished candidate's weights and return its entry, which is not in the pool yet.

    A worker anywhere may do this; whoever holds the pool's lock records the entry.

    Raises:
        CheckpointError: if the file cannot be written; nothing is left behind.
    """
    id = candidate_id(pool, recipe)
    path = save_checkpoint(pool.folder / "candidates" / f"{id}.safetensors", items, like=pool.base)
    return Candidate(id, f"candidates/{path.name}", sha256_file(path), recipe)


def record_candidate(pool: Pool, entry: Candidate) -> Pool:
    """Add an entry to pool.json, or replace the one of the same id; the pool with it is returned."""
    pool = pool.reload()
    if entry.id in pool.ids:
        entries = tuple(entry if other.id == entry.id else other for other in pool.entries)
    else:
        entries = (*pool.entries, entry)
    pool = replace(pool, entries=entries)
    _write_record(pool)
    return pool


def set_aside_damaged(pool: Pool) -> tuple[Pool, list[str]]:
    """Rename candidate files that no longer match their hash, so that the next sweep makes them anew.

    Nothing is deleted: the changed file keeps its bytes as `<id>.damaged`. Returns the pool without
    those candidates and one sentence for each.
    """
    told = []
    for entry in pool.entries:
        if problem := pool.problem(entry):
            path = pool.folder / entry.file
            if path.exists():
                path.replace(path.with_suffix(".damaged"))
            told.append(problem)
            pool = replace(pool, entries=tuple(other for other in pool.entries if other.id != entry.id))
    if told:
        _write_record(pool)
    return pool, told


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Hold the pool's lock while adding to it; a killed writer's lock is released by the system.

    Raises:
        PoolBusyError: if another process is writing to this pool; wait for it.
        PoolError: if the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise PoolBusyError(
            f"another process is adding candidates to {folder}: wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise PoolError(
            f"cannot write to {folder}: {error.strerror or error}. Choose a folder that may be written to."
        ) from error
    try:
        yield
    finally:
        lock.release()


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


def _refuse_outside(folder: Path, name: str) -> None:
    """A pool.json from elsewhere must not make us read files outside its folder."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise PoolError(
            f"{folder / RECORD} names the file '{name}' outside the pool: this is not a pool of ours; do not open it."
        )
