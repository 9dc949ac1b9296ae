"""A pool: one scene's base and its fine-tuned candidates, with recipes and scores, in a folder.

    POOL/pool.json                 schema, scene, base, candidates (id, file, sha256, recipe, scores, seconds, status)
    POOL/base.safetensors          POOL/heads.safetensors          POOL/candidates/<id>.safetensors

Here pools are read; `pool_writer` makes them and adds to them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from negmerge_kit.checkpoints.header import MADE_FROM
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import sha256_file
from negmerge_kit.errors import PoolError
from negmerge_kit.safe_json import NUMBER, checked, is_plain_file, read_json, shortened, wrong_entry
from negmerge_kit.types import Json, Weights

SCHEMA = 1
RECORD = "pool.json"
TRAINED_ON = "forget_sha256"
"""Under this name a candidate's file says which images it was trained on, by their fingerprint."""


_SCORED = {"scale": NUMBER, "kept": NUMBER, "forget": {"value": NUMBER}, "retain?": {"value": NUMBER}}
ENTRY: Json = {
    "id": re.compile(r"[\w.-]{1,200}"),
    "file": str,
    "sha256": str,
    "recipe": dict,
    "seconds?": NUMBER,
    "status?": str,
    "scores?": lambda found: (
        wrong_entry(found, {"status": str}) is None and (found["status"] != "ok" or wrong_entry(found, _SCORED) is None)
    ),
    "losses": [NUMBER],
    "rates?": [NUMBER],
}
"""A candidate in pool.json, in the kinds of `safe_json`."""
_FILE = {"file": str, "sha256": str}
_MODEL = {"arch": str, "pretrained?": str, "size?": int}
_IMAGES = {"name": str, "split": str, "fingerprint": str, "n?": int, "seed?": int, "indices?": str}
FIELDS: Json = {
    "scene": {
        "name": str,
        "mode": str,
        "forget": str,
        "retain": [str],
        "sets": [_IMAGES],
        "model": lambda found: isinstance(found, str) or wrong_entry(found, _MODEL) is None,
        "forgetting?": dict,
        "training?": dict,
        "corrupt?": str,
        "orientation?": str,
        "transparency?": str,
    },
    "base": _FILE,
    "heads": _FILE,
    "candidates": [ENTRY],
}


@dataclass(frozen=True)
class StoredFile:
    """A weight file of the pool, relative to its folder, and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Candidate:
    """One fine-tuned model as pool.json records it; `scores` are its own best scale's, on validation.

    `losses` and `rates` are the training loss and the learning rate of every step.
    """

    id: str
    file: str
    sha256: str
    recipe: Json
    scores: Json | None = None
    seconds: float = 0.0
    status: str = "done"
    losses: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, item: Json) -> Candidate:
        """The entry that pool.json holds; TypeError or ValueError for another thing.

        >>> Candidate.from_json({"id": "a", "file": "f", "sha256": "", "recipe": {}, "losses": [0.5]}).losses
        (0.5,)
        """
        item = checked(item, ENTRY)
        return cls(**{**item, "losses": tuple(item["losses"]), "rates": tuple(item.get("rates") or ())})


@dataclass(frozen=True)
class Pool:
    """A pool as it was on disk when opened; `reload` sees what has been added since.

    A `forced` pool gives out candidates of another base, too.

    >>> Pool(Path("p"), {}, StoredFile("base.safetensors", ""), StoredFile("heads.safetensors", ""), ()).ids
    []
    """

    folder: Path
    scene: Json
    base_file: StoredFile
    heads_file: StoredFile
    entries: tuple[Candidate, ...]
    forced: bool = False

    def __repr__(self) -> str:
        of = f"{len(self.entries)} candidate{'' if len(self.entries) == 1 else 's'}"
        what = f"forgetting {self.scene.get('forget')}, retaining {', '.join(self.scene.get('retain') or ())}"
        return f"<Pool {self.folder}: {of} of {self.scene.get('name')}\n {what}>"

    @property
    def name(self) -> str:
        """The folder's name, or that of the folder it lies in where it is called "pool", as `negmerge forget` does.

        >>> Pool(Path("/runs/faces/pool"), {}, StoredFile("", ""), StoredFile("", ""), ()).name
        'faces'
        """
        folder = self.folder.resolve()
        return (folder.parent.name if folder.name == "pool" else "") or folder.name

    @property
    def ids(self) -> list[str]:
        """Candidate ids in the order in which they merge."""
        return [entry.id for entry in self.entries]

    @property
    def copies(self) -> list[tuple[str, str]]:
        """Candidates whose files are equal byte for byte: the first, and each that would only repeat its vote."""
        first: dict[str, str] = {}
        return [
            (first[entry.sha256], entry.id)
            for entry in self.entries
            if first.setdefault(entry.sha256, entry.id) != entry.id
        ]

    @property
    def repeats(self) -> list[str]:
        """A sentence for each of `copies`."""
        left = "it is left out, one model has one vote"
        return [
            f"candidate {again} holds the same weights as {first}, byte for byte: {left}."
            for first, again in self.copies
        ]

    @property
    def distinct(self) -> tuple[str, ...]:
        """The ids without `copies`."""
        again = {id for _, id in self.copies}
        return tuple(id for id in self.ids if id not in again)

    @property
    def files(self) -> list[StoredFile | Candidate]:
        """Every weight file of the pool."""
        return [self.base_file, self.heads_file, *self.entries]

    @property
    def read_from(self) -> list[Path]:
        """The pool's own files, and the one that its base was taken from, if it was a file."""
        model = self.scene["model"]
        source = model.get("pretrained") if isinstance(model, dict) else None
        own = [self.folder / name for name in (RECORD, *(stored.file for stored in self.files))]
        return [*own, Path(source)] if source else own

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
        """All candidates' weights, read lazily, in the order of `ids`; `verify` says whether their files changed."""
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
        """One candidate's weights, after checking that its file is the one that was recorded, of this base and split.

        Raises:
            PoolError: for an unknown id, a file that is missing or changed, or a candidate of another base or that was
                trained on other images.
        """
        entry = self.entry(id)
        weights = self.checked(entry)
        if (other := self.stranger(entry)) and not self.forced:
            raise PoolError(
                f"candidate {id} was made from another base (SHA-256 {other[:12]}…, this pool's is "
                f"{self.base_file.sha256[:12]}…): leave it out, or use --force, which the card will name."
            )
        trained = open_checkpoint(self.folder / entry.file).metadata.get(TRAINED_ON)
        if trained not in (None, self.trained_on):
            raise PoolError(
                f"candidate {id} was trained on another split (images of SHA-256 {str(trained)[:12]}…, this pool "
                f"forgets those of {str(self.trained_on)[:12]}…): remove it and sweep again."
            )
        return weights

    @property
    def trained_on(self) -> str | None:
        """The fingerprint of the images that candidates are trained on."""
        sets = self.scene.get("sets", [])
        return next((images["fingerprint"] for images in sets if images["split"] == "train"), None)

    def stranger(self, stored: StoredFile | Candidate) -> str | None:
        """The SHA-256 of the base that a candidate's file, or the heads', names, where it is not this pool's base."""
        made_from = open_checkpoint(self.folder / stored.file).metadata.get(MADE_FROM)
        return None if made_from is None or made_from == self.base_file.sha256 else str(made_from)

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
            PoolError: if the file is missing or its hash differs, or if it holds heads of another model.
        """
        if problem := self.problem(stored):
            raise PoolError(problem)
        if stored == self.heads_file and (other := self.stranger(self.heads_file)):
            raise PoolError(
                f"the heads of {self.folder} were built for another model (base SHA-256 {other[:12]}…, this pool's is "
                f"{self.base_file.sha256[:12]}…): build the pool again in another folder."
            )
        return self._open(stored)

    def problem(self, stored: StoredFile | Candidate) -> str | None:
        """What is wrong with a file of the pool in one sentence, or None."""
        path = self.folder / stored.file
        if not path.is_file():
            return f"{path} is missing: run `negmerge pool build` again, it makes only what is missing."
        if sha256_file(path) != stored.sha256:
            return (
                f"{path} is not the file that was recorded (its SHA-256 differs): "
                "run `negmerge pool build` again, it sets the file aside and makes a new one."
            )
        return None

    def verify(self) -> list[str]:
        """One sentence for each file that is missing or changed; an empty list means that all is well."""
        return [problem for stored in self.files if (problem := self.problem(stored))]

    def only(self, ids: Collection[str]) -> Pool:
        """The pool as if it held no other candidates than these, in its own order."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.id in ids))

    def reload(self) -> Pool:
        """The pool as it is on disk now."""
        return open_pool(self.folder, force=self.forced)

    def _open(self, stored: StoredFile | Candidate) -> Weights:
        return open_checkpoint(self.folder / stored.file)


def open_pool(folder: str | Path, *, force: bool = False) -> Pool:
    """Open a pool folder; weights are read only when asked for. `force` lets candidates of another base pass.

    Raises:
        PoolError: if the folder holds no pool, or one that this version cannot read; the message
            says how to build one.
    """
    folder = Path(folder)
    if is_plain_file(folder):
        raise PoolError(f"{folder} is a file: give the pool's folder, the one in which its {RECORD} lies.")
    try:
        record = read_json(folder / RECORD, {"schema?": lambda schema: True})
    except FileNotFoundError:
        raise PoolError(
            f"{folder} holds no {RECORD}: make a pool with `negmerge pool build tiny --out {folder}`."
        ) from None
    except (OSError, ValueError) as error:
        raise PoolError(
            f"{folder / RECORD} cannot be read ({error}): restore it, or build the pool in a new folder."
        ) from error
    if (schema := record.get("schema")) != SCHEMA:
        raise PoolError(
            f"{folder / RECORD} has schema {shortened(schema)}, this version reads {SCHEMA}: "
            "build the pool in a new folder."
        )
    try:
        checked(record, FIELDS)
        entries = tuple(map(Candidate.from_json, record["candidates"]))
        base, heads = StoredFile(**record["base"]), StoredFile(**record["heads"])
        pool = Pool(folder, record["scene"], base, heads, entries, force)
        if len({entry.id for entry in entries}) < len(entries):
            raise ValueError("two candidates have one id")
    except (ValueError, TypeError) as error:
        raise PoolError(
            f"{folder / RECORD} lacks or misspells an entry ({error}): restore it, or build the pool in a new folder."
        ) from error
    for stored in pool.files:
        _refuse_outside(folder, stored.file)
    return pool


def _refuse_outside(folder: Path, name: str) -> None:
    """Refuse a path outside the pool's folder, which a foreign pool.json may name."""
    if not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder)):
        raise PoolError(
            f"{folder / RECORD} names the file '{name}' outside the pool: this is not a pool of ours; do not open it."
        )
