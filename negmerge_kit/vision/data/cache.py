"""Decoded images on disk: one file of uint8 pixels a split, with a record of labels, rows and fingerprint beside it.

CACHE/images/NAME-<data>/HxW-<transform>/SPLIT.u8        [n, 3, H, W], memory-mapped when opened
CACHE/images/NAME-<data>/HxW-<transform>/SPLIT.json      written last: without it the pixels are not whole
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.result_store import digest
from negmerge_kit.errors import SceneError
from negmerge_kit.types import Json
from negmerge_kit.vision.images import ImageSet

if TYPE_CHECKING:
    from negmerge_kit.vision.data.transform import Transform

SCHEMA = 2
"""Grows when an image becomes other pixels than before: 2 reads 16-bit grey by its range. Older ones are decoded again.
"""
PLACE = "NEGMERGE_CACHE"
"""An environment variable of this name moves the cache to another disk."""


def cache_folder() -> Path:
    """Where decoded images lie: NEGMERGE_CACHE, or the user's cache folder."""
    return Path(os.environ[PLACE]) if os.environ.get(PLACE) else user_cache_path("negmerge-kit")


def split_folder(name: str, identity: Json, transform: Transform) -> Path:
    """The folder for one state of a data set at one transform; other images or another size get another one."""
    place = cache_folder() / "images" / f"{name}-{digest(identity)[:12]}"
    return place / f"{transform.height}x{transform.width}-{digest(transform.json())[:6]}"


@dataclass(frozen=True)
class Record:
    """What is known of one decoded split.

    `indices` are row numbers of the raw data, in the order of the images; `rows` is how many there are of it; `corrupt`
    names the images that could not be decoded and were left out; `noticed` counts those whose EXIF asks for a turn
    ("turned") and those with transparent pixels ("transparent"), whatever was made of them.
    """

    source: str
    split: str
    identity: Json
    transform: Json
    classes: tuple[str, ...]
    labels: list[int]
    indices: list[int]
    rows: int
    fingerprint: str
    corrupt: tuple[str, ...] = ()
    noticed: dict[str, int] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, folder: Path) -> None:
        """Put the record beside its pixels, whole or not at all."""
        with atomic_file(folder / f"{self.split}.json") as file:
            file.write(json.dumps(asdict(self)).encode())


def read_record(folder: Path, split: str) -> Record | None:
    """The record of a split whose pixels are all there; None if they have to be decoded (again)."""
    try:
        told = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
        record = Record(**{**told, "classes": tuple(told["classes"]), "corrupt": tuple(told["corrupt"])})
        size = (folder / f"{split}.u8").stat().st_size
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = len(record.labels) * 3 * record.transform["height"] * record.transform["width"]
    return record if record.schema == SCHEMA and size == whole else None


def open_images(folder: Path, record: Record, name: str) -> ImageSet:
    """The split's images, mapped from the file: no memory is taken before they are looked at."""
    import torch

    shape = (len(record.labels), 3, record.transform["height"], record.transform["width"])
    # A private mapping: what a caller might write stays in memory.
    pixels = torch.from_file(str(folder / f"{record.split}.u8"), shared=False, size=_count(shape), dtype=torch.uint8)
    labels = torch.tensor(record.labels, dtype=torch.int64)
    return ImageSet(name, pixels.view(shape), labels, record.classes, record.split, record.fingerprint)


def fingerprint_of(labels: list[int], pixels: Path) -> str:
    """`ImageSet.fingerprint`, from the file: SHA-256 over int64 labels, then pixels."""
    import numpy as np

    sha = hashlib.sha256(np.asarray(labels, dtype="<i8").tobytes())
    with pixels.open("rb") as file:
        while block := file.read(1 << 22):
            sha.update(block)
    return sha.hexdigest()


def problem(folder: Path, split: str) -> str | None:
    """What is wrong with a decoded split in one sentence, or None; reads every pixel."""
    remedy = f"delete {folder / split}.u8 and prepare the data again"
    record = read_record(folder, split)
    if record is None:
        return f"{folder / split}.u8 is not whole, or its record cannot be read: {remedy}."
    try:
        found = fingerprint_of(record.labels, folder / f"{split}.u8")
    except OSError as error:
        return f"{folder / split}.u8 cannot be read ({error.strerror or error}): {remedy}."
    return (
        None
        if found == record.fingerprint
        else (f"{folder / split}.u8 is not what was decoded (its SHA-256 differs): {remedy}.")
    )


def refuse_corrupt(record: Record) -> None:
    """Refuse a split that was decoded with images left out, where that was not asked for.

    Raises:
        SceneError: naming the first of them.
    """
    if record.corrupt:
        raise SceneError(
            f"{record.source} ({record.split}) has {len(record.corrupt)} images that cannot be decoded, "
            f'{record.corrupt[0]} first: mend or remove them, or ask for corrupt = "skip".'
        )


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
