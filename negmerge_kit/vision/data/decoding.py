"""Decode and resize once, in parallel, into a file of uint8 pixels; killed half-way, the next run goes on.

While a split is made, SPLIT.part holds its pixels and SPLIT.journal one line for each chunk that is safely in it. Both
go when the record is written.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from filelock import FileLock

from negmerge_kit.errors import SceneError
from negmerge_kit.types import Json
from negmerge_kit.vision.data.cache import SCHEMA, Record, fingerprint_of, read_record, refuse_corrupt
from negmerge_kit.vision.data.rgb import UnclearRangeError, notice
from negmerge_kit.vision.data.rows import Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from negmerge_kit.vision.data.transform import Transform

CHUNK = 256
"""Images between two lines of the journal: what a kill can cost at most."""

Decoded: TypeAlias = "tuple[str, NDArray[np.uint8] | None, tuple[str, ...]]"
"""An image's name, with the reason if there is one, and its pixels, [3, H, W], or None if it is corrupt; and what of it
was noticed."""

OnImages = Callable[[int, int], None]
"""Told after every chunk: how many images of the split are decoded, of how many."""


@dataclass(frozen=True)
class Request:
    """One split of one state of a data set, to be decoded at one transform into `folder`."""

    folder: Path
    source: str
    split: str
    identity: Json
    transform: Transform
    classes: tuple[str, ...]

    @property
    def part(self) -> Path:
        """The pixels while they are not all there."""
        return self.folder / f"{self.split}.part"

    @property
    def journal(self) -> Path:
        """What of `part` is there for certain."""
        return self.folder / f"{self.split}.journal"

    @property
    def pixels(self) -> Path:
        """The finished pixels."""
        return self.folder / f"{self.split}.u8"


def decode_split(
    request: Request,
    rows: Callable[[], tuple[Rows, Sequence[int]]],
    *,
    corrupt: str = "refuse",
    on_images: OnImages = lambda done, total: None,
) -> Record:
    """The record of a split, decoding what is not decoded yet.

    Args:
        request: what to decode, and where to.
        rows: gives the raw images and the row numbers of the split, in the split's order; not called if all is there.
        corrupt: "refuse" stops at the first image that cannot be decoded; "skip" leaves them out and names them.
        on_images: told of the progress.

    Raises:
        SceneError: a corrupt image, no image at all, or a disk that is full or cannot be written.
    """
    record = read_record(request.folder, request.split)
    if record is None:
        try:
            request.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(request.folder / f".{request.split}.lock"):
                # Another process may have made it while this one waited.
                record = read_record(request.folder, request.split)
                if record is None:
                    record = _decode(request, *rows(), corrupt, on_images)
        except OSError as error:
            raise SceneError(
                f"the decoded images of {request.source} cannot be written to {request.folder} "
                f"({error.strerror or error}): free some space, or set NEGMERGE_CACHE to another disk; "
                "what is decoded is kept."
            ) from error
    if corrupt == "refuse":
        refuse_corrupt(record)
    return record


def _decode(request: Request, rows: Rows, indices: Sequence[int], corrupt: str, on_images: OnImages) -> Record:
    if not indices:
        raise SceneError(f"{request.source} has no {request.split} images: add some.")
    size = request.transform.nbytes
    ascending = sorted(indices)
    place = {row: number for number, row in enumerate(indices)}
    done, bad, noticed = _resume(request, len(indices) * size)
    _check_space(request, (len(indices) - done) * size)
    on_images(done, len(ascending))
    with (
        request.part.open("r+b") as file,
        request.journal.open("a", encoding="utf-8") as journal,
        ThreadPoolExecutor(cores()) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # odd EXIF and palettes with transparency: common and harmless
        for todo, answers in _in_chunks(rows, ascending[done:], request.transform, pool):
            fresh = {str(row): name for row, (name, pixels, _) in zip(todo, answers, strict=True) if pixels is None}
            if fresh and corrupt == "refuse":
                raise SceneError(
                    f"{next(iter(fresh.values()))} of {request.source} cannot be decoded: mend or remove "
                    'it, or leave such images out with corrupt = "skip" (--corrupt skip).'
                )
            for row, (_, pixels, _) in zip(todo, answers, strict=True):
                if pixels is not None:
                    file.seek(place[row] * size)
                    file.write(pixels.tobytes())
            file.flush()
            os.fsync(file.fileno())
            bad |= fresh
            noticed += Counter(word for _, _, words in answers for word in words)
            done += len(todo)
            journal.write(_line(done, fresh, noticed))
            journal.flush()
            on_images(done, len(ascending))
    return _finish(request, rows, indices, bad, noticed)


def _line(done: int, bad: dict[str, str], noticed: Counter[str]) -> str:
    """One of the journal: images that are safe, corrupt ones since the last line, and what was noticed in all."""
    return json.dumps({"schema": SCHEMA, "done": done, "bad": bad, "noticed": noticed}) + "\n"


def _in_chunks(
    rows: Rows, wanted: Sequence[int], transform: Transform, pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[int], list[Decoded]]]:
    """Chunks of row numbers and what became of them; while one is taken, the next is read and decoded."""
    stream, waiting = rows.read(wanted), deque[tuple[Sequence[int], Iterator[Decoded]]]()
    for start in range(0, len(wanted), CHUNK):
        todo = wanted[start : start + CHUNK]
        waiting.append((todo, pool.map(_decoder(transform), list(islice(stream, len(todo))))))
        if len(waiting) > 1:
            rows_done, answers = waiting.popleft()
            yield rows_done, list(answers)
    for rows_done, answers in waiting:
        yield rows_done, list(answers)


def _finish(request: Request, rows: Rows, indices: Sequence[int], bad: dict[str, str], noticed: Counter[str]) -> Record:
    kept = [row for row in indices if str(row) not in bad]
    if not kept:
        raise SceneError(
            f"none of the {len(indices)} {request.split} images of {request.source} can be decoded: give "
            "JPEG, PNG or another format that Pillow reads."
        )
    if bad:
        _close_gaps(request, [number for number, row in enumerate(indices) if str(row) not in bad])
    labels = [int(rows.labels[row]) for row in kept]
    fingerprint = fingerprint_of(labels, request.part)
    request.part.replace(request.pixels)
    record = Record(
        request.source,
        request.split,
        request.identity,
        request.transform.json(),
        request.classes,
        labels,
        kept,
        len(rows.labels),
        fingerprint,
        tuple(bad.values()),
        dict(noticed),
    )
    record.write(request.folder)
    request.journal.unlink()
    return record


def _close_gaps(request: Request, kept: Sequence[int]) -> None:
    """Move the images behind a corrupt one up; a kill in the middle starts the split anew."""
    size = request.transform.nbytes
    with request.journal.open("a", encoding="utf-8") as journal:
        journal.write(json.dumps({"closing": True}) + "\n")
    with request.part.open("r+b") as file:
        for to, number in enumerate(kept):
            if to != number:
                file.seek(number * size)
                image = file.read(size)
                file.seek(to * size)
                file.write(image)
        file.truncate(len(kept) * size)
        file.flush()
        os.fsync(file.fileno())


def _resume(request: Request, total: int) -> tuple[int, dict[str, str], Counter[str]]:
    """How many images, in ascending order of rows, an earlier run has decoded, which were corrupt, what was noticed.

    What a version with other rules for pixels has begun is begun again.
    """
    done = 0
    bad: dict[str, str] = {}
    noticed: Counter[str] = Counter()
    if request.journal.is_file() and request.part.is_file() and request.part.stat().st_size == total:
        for line in request.journal.read_text(encoding="utf-8").splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                break  # cut off by the kill
            if "closing" in told or told.get("schema") != SCHEMA:
                done, bad, noticed = 0, {}, Counter()
                break
            done, bad, noticed = told["done"], bad | told["bad"], Counter(told["noticed"])
    if not done:
        with request.part.open("wb") as file:
            file.truncate(total)
    # Only whole lines stay, so that what is appended can be read.
    request.journal.write_text(_line(done, bad, noticed) if done else "", encoding="utf-8")
    return done, bad, noticed


def _check_space(request: Request, needed: int) -> None:
    free = shutil.disk_usage(request.folder).free
    if free < needed:
        raise SceneError(
            f"the decoded {request.split} images of {request.source} need {needed / 1e9:.2f} GB, but "
            f"{request.folder} has {free / 1e9:.2f} GB left: free some space, or set NEGMERGE_CACHE to "
            "another disk."
        )


def cores() -> int:
    """How many cores this process may use: as many threads decode and augment, for Pillow leaves Python's lock."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decoder(transform: Transform) -> Callable[[tuple[str, Callable[[], bytes]]], Decoded]:
    from PIL import Image, UnidentifiedImageError

    def decode(named: tuple[str, Callable[[], bytes]]) -> Decoded:
        name, read = named
        try:
            with Image.open(io.BytesIO(read())) as image:
                words = tuple(word for word, there in notice(image)._asdict().items() if there)
                return name, transform(image), words
        except UnclearRangeError as error:
            return f"{name} ({error})", None, ()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
            return name, None, ()

    return decode
