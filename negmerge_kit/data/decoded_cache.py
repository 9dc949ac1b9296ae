"""Images decoded once: a memory-mapped file of uint8 pixels and a record for each split.

CACHE/images/NAME-<data>/HxW-<transform>/SPLIT.u8        [n, 3, H, W], memory-mapped when opened
CACHE/images/NAME-<data>/HxW-<transform>/SPLIT.json      written last: without it the pixels are not whole

While a split is decoded, SPLIT.part holds its pixels and SPLIT.journal says how many of them are safely there: ImageNet
takes hours, and a stopped run goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from filelock import FileLock
from platformdirs import user_cache_path

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.data.transform import Transform, UnclearRangeError, notice
from negmerge_kit.errors import SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.types import Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 2
"""Grows when an image becomes other pixels than before: 2 reads 16-bit grey by its range. Older ones are decoded again.
"""
PLACE = "NEGMERGE_CACHE"
"""An environment variable of this name moves the cache to another disk."""
CHUNK = 256
"""Images between two writes of the journal: what a kill can cost at most."""

OnImages = Callable[[int, int], None]
"""Progress callback while a split is decoded: images done, images in all."""


class EncodedRows(Protocol):
    """Labelled images in a fixed order; `labels` knows them all, `read` gives encoded bytes one after another."""

    @property
    def labels(self) -> Sequence[int]:
        """The class number of every image."""
        ...

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """For row numbers in ascending order: a name that a user can find the image by, and how to get its bytes."""
        ...


@dataclass(frozen=True)
class Record:
    """Metadata of one decoded split.

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


class Decoded(NamedTuple):
    """One image: its name, with the reason if there is one; its pixels, None if it is corrupt; what was noticed."""

    name: str
    pixels: NDArray[np.uint8] | None
    noticed: tuple[str, ...] = ()


@dataclass(frozen=True)
class DecodedSplit:
    """Cache entry of one split, for one state of the data and one transform.

    Args:
        name, source: of the data, short and as `find_data` reads it.
        identity: plain values that change when the images do.
    """

    name: str
    source: str
    split: str
    identity: Json
    transform: Transform
    classes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Folder of this data state and transform; another state or transform has another."""
        place = cache_folder() / "images" / f"{self.name}-{_digest(self.identity)[:12]}"
        return place / f"{self.transform.height}x{self.transform.width}-{_digest(self.transform.json())[:6]}"

    def file(self, suffix: str) -> Path:
        """One of the split's files."""
        return self.folder / f"{self.split}.{suffix}"

    def record(self) -> Record | None:
        """The record of a split whose pixels are all there; None if they have to be decoded (again)."""
        try:
            values = json.loads(self.file("json").read_text(encoding="utf-8"))
            record = Record(**{**values, "classes": tuple(values["classes"]), "corrupt": tuple(values["corrupt"])})
            whole = self.file("u8").stat().st_size == len(record.labels) * self.transform.nbytes
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return record if whole and record.schema == SCHEMA else None

    def open(self, record: Record) -> ImageSet:
        """The split's images, mapped from the file: no memory is taken before they are looked at."""
        import torch

        shape = (len(record.labels), 3, *self.transform.size)
        # A private mapping: what a caller might write stays in memory.
        pixels = torch.from_file(str(self.file("u8")), shared=False, size=prod(shape), dtype=torch.uint8)
        labels = torch.tensor(record.labels, dtype=torch.int64)
        return ImageSet(self.name, pixels.view(shape), labels, record.classes, self.split, record.fingerprint)

    def problem(self) -> str | None:
        """What is wrong with a decoded split in one sentence, or None; reads every pixel."""
        pixels, record = self.file("u8"), self.record()
        remedy = f"delete {pixels} and prepare the data again"
        if record is None:
            return f"{pixels} is not whole, or its record cannot be read: {remedy}."
        try:
            found = _fingerprint(record.labels, pixels)
        except OSError as error:
            return f"{pixels} cannot be read ({error.strerror or error}): {remedy}."
        if found != record.fingerprint:
            return f"{pixels} is not what was decoded (its SHA-256 differs): {remedy}."
        return None

    def build(
        self,
        rows: Callable[[], tuple[EncodedRows, Sequence[int]]],
        *,
        corrupt: str = "refuse",
        on_images: OnImages = lambda done, total: None,
    ) -> Record:
        """The record of the split, decoding what is not decoded yet.

        Args:
            rows: gives the raw images and the row numbers of the split, in the split's order; not called if all is
                there.
            corrupt: "refuse" stops at the first image that cannot be decoded; "skip" leaves them out and names them.
            on_images: called after every chunk.

        Raises:
            SceneError: a corrupt image, no image at all, or a disk that is full or cannot be written.
        """
        record = self.record()
        if record is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / f".{self.split}.lock"):
                    # Another process may have made it while this one waited.
                    record = self.record() or self._decode(*rows(), corrupt, on_images)
            except OSError as error:
                raise SceneError(
                    f"the decoded images of {self.source} cannot be written to {self.folder} "
                    f"({error.strerror or error}): free some space, or set {PLACE} to another disk; "
                    "what is decoded is kept."
                ) from error
        if record.corrupt and corrupt == "refuse":
            raise SceneError(
                f"{record.source} ({record.split}) has {len(record.corrupt)} images that cannot be decoded, "
                f'{record.corrupt[0]} first: mend or remove them, or ask for corrupt = "skip".'
            )
        return record

    def _decode(self, rows: EncodedRows, indices: Sequence[int], corrupt: str, on_images: OnImages) -> Record:
        if not indices:
            raise SceneError(f"{self.source} has no {self.split} images: add some.")
        size, total = self.transform.nbytes, len(indices)
        place = {row: number for number, row in enumerate(indices)}
        done, bad, noticed = self._begun(total * size)
        self._check_space((total - done) * size)
        on_images(done, total)
        with self.file("part").open("r+b") as part, ThreadPoolExecutor(cores()) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF and palettes with transparency: common and harmless
            for chunk in _in_chunks(rows, sorted(indices)[done:], self.transform, pool):
                for row, image in chunk:
                    noticed.update(image.noticed)
                    if image.pixels is not None:
                        part.seek(place[row] * size)
                        part.write(image.pixels.tobytes())
                    elif corrupt == "skip":
                        bad[str(row)] = image.name
                    else:
                        raise SceneError(
                            f"{image.name} of {self.source} cannot be decoded: mend or remove it, or leave such "
                            'images out with corrupt = "skip" (--corrupt skip).'
                        )
                part.flush()
                os.fsync(part.fileno())
                done += len(chunk)
                with atomic_file(self.file("journal")) as file:
                    file.write(json.dumps({"schema": SCHEMA, "done": done, "bad": bad, "noticed": noticed}).encode())
                on_images(done, total)
        kept = [row for row in indices if str(row) not in bad]
        if not kept:
            raise SceneError(
                f"none of the {total} {self.split} images of {self.source} can be decoded: give "
                "JPEG, PNG or another format that Pillow reads."
            )
        if bad:
            self.file("journal").unlink()  # a kill while images move starts the split again
            _close_gaps(self.file("part"), [place[row] for row in kept], size)
        labels = [int(rows.labels[row]) for row in kept]
        fingerprint = _fingerprint(labels, self.file("part"))
        self.file("part").replace(self.file("u8"))
        record = Record(
            self.source,
            self.split,
            self.identity,
            self.transform.json(),
            self.classes,
            labels,
            kept,
            len(rows.labels),
            fingerprint,
            tuple(bad.values()),
            dict(noticed),
        )
        with atomic_file(self.file("json")) as file:
            file.write(json.dumps(asdict(record)).encode())
        self.file("journal").unlink(missing_ok=True)
        return record

    def _begun(self, nbytes: int) -> tuple[int, dict[str, str], Counter[str]]:
        """Progress of an earlier run: images done, in ascending order of rows, corrupt ones, and what was noticed.

        What a version with other rules for pixels has begun is begun again.
        """
        part, journal = self.file("part"), self.file("journal")
        try:
            values = json.loads(journal.read_text(encoding="utf-8"))
            if values["schema"] == SCHEMA and part.stat().st_size == nbytes:
                return values["done"], values["bad"], Counter(values["noticed"])
        except (OSError, ValueError, TypeError, KeyError):
            pass
        journal.unlink(missing_ok=True)  # before its pixels go
        with part.open("wb") as file:
            file.truncate(nbytes)
        return 0, {}, Counter()

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise SceneError(
                f"the decoded {self.split} images of {self.source} need {needed / 1e9:.2f} GB, but "
                f"{self.folder} has {free / 1e9:.2f} GB left: free some space, or set {PLACE} to another disk."
            )


def cache_folder() -> Path:
    """Folder of decoded images and pools: NEGMERGE_CACHE, or the user's cache folder."""
    return Path(os.environ[PLACE]) if os.environ.get(PLACE) else user_cache_path("negmerge-kit")


def cores() -> int:
    """Number of cores for this process: as many threads decode and augment, for Pillow leaves Python's lock."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_image(transform: Transform, encoded: tuple[str, Callable[[], bytes]]) -> Decoded:
    """Read and decode one image of `EncodedRows.read`; an unreadable one gives no pixels instead of an error."""
    from PIL import Image, UnidentifiedImageError

    name, read = encoded
    try:
        with Image.open(io.BytesIO(read())) as image:
            noticed = tuple(word for word, there in notice(image)._asdict().items() if there)
            return Decoded(name, transform(image), noticed)
    except UnclearRangeError as error:
        return Decoded(f"{name} ({error})", None)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return Decoded(name, None)


def _in_chunks(
    rows: EncodedRows, wanted: Sequence[int], transform: Transform, pool: ThreadPoolExecutor
) -> Iterator[list[tuple[int, Decoded]]]:
    """Yield row numbers and their decoded images by chunk; while one is consumed, the next is read and decoded."""
    stream, waiting = rows.read(wanted), deque[Iterator[tuple[int, Decoded]]]()
    for start in range(0, len(wanted), CHUNK):
        encoded = list(islice(stream, CHUNK))
        decoded = pool.map(partial(decode_image, transform), encoded)
        waiting.append(zip(wanted[start : start + CHUNK], decoded, strict=True))
        if len(waiting) > 1:
            yield list(waiting.popleft())
    yield from map(list, waiting)


def _close_gaps(pixels: Path, kept: Sequence[int], size: int) -> None:
    """Move the images behind a corrupt one up."""
    with pixels.open("r+b") as file:
        for to, number in enumerate(kept):
            if to != number:
                file.seek(number * size)
                image = file.read(size)
                file.seek(to * size)
                file.write(image)
        file.truncate(len(kept) * size)
        file.flush()
        os.fsync(file.fileno())


def _fingerprint(labels: list[int], pixels: Path) -> str:
    """`ImageSet.fingerprint`, from the file: SHA-256 over int64 labels, then pixels."""
    import numpy as np

    sha = hashlib.sha256(np.asarray(labels, dtype="<i8").tobytes())
    with pixels.open("rb") as file:
        return hashlib.file_digest(file, lambda: sha).hexdigest()


def _digest(values: Json) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
