"""Images as their first authors distribute them: idx files (MNIST, Fashion-MNIST) and CIFAR's binary batches.

Each image is handed on as a PGM or PPM, the shortest files of the same pixels, so that it is decoded and cached as any
other.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from negmerge_kit.errors import SceneError

Bytes = NDArray[np.uint8]

IDX_STARTS = {"train": "train", "test": "t10k"}
IDX_FOLDERS = {"mnist": ("", "raw", "MNIST/raw"), "fashion-mnist": ("", "raw", "FashionMNIST/raw")}
"""Where a set's idx files may be below the folder that is named: as they are unpacked, and as torchvision has them."""
BATCHES: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10": {
        "train": ("data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"),
        "test": ("test_batch.bin",),
    },
    "cifar100": {"train": ("train.bin",), "test": ("test.bin",)},
}
BATCH_FOLDERS = {"cifar10": ("", "cifar-10-batches-bin"), "cifar100": ("", "cifar-100-binary")}
PICKLES = {
    "cifar10": ("data_batch_1", "cifar-10-batches-py/data_batch_1"),
    "cifar100": ("meta", "cifar-100-python/meta"),
}
BINARIES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
SIDE = 32
"""Height and width of CIFAR's images."""
LARGEST = 1 << 32
"""Bytes that an idx file may say it holds."""


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Images of one split, in the order of their files.

    Attributes:
        folder: where they are from; `files`: their files' names.
        pixels: uint8, [n, H, W] or [n, 3, H, W].
        labels: a class number for each.
    """

    folder: Path
    files: tuple[str, ...]
    pixels: Bytes
    labels: tuple[int, ...]

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """A name for each wanted image, and what encodes it."""
        for row in wanted:
            yield f"image {row} of {self.folder / self.files[0]}", partial(encoded, self.pixels[row])


def encoded(pixels: Bytes) -> bytes:
    r"""A grey [H, W] or colour [3, H, W] image as PGM or PPM.

    >>> encoded(np.array([[0, 255]], dtype=np.uint8))
    b'P5 2 1 255\n\x00\xff'
    """
    kind, rows = (b"P5", pixels) if pixels.ndim == 2 else (b"P6", pixels.transpose(1, 2, 0))
    height, width = rows.shape[:2]
    return b"%s %d %d 255\n" % (kind, width, height) + rows.tobytes()


def open_arrays(name: str, root: Path, classes: int) -> dict[str, ArrayRows] | None:
    """The training and test images of a named set below a folder; None where no such files are.

    Args:
        name: of the set, as `find_data` has it.
        classes: how many it has.

    Raises:
        SceneError: files that are cut or do not belong together, or CIFAR's pickles, which nothing here unpickles.
    """
    found = _open(name, root)
    for split, rows in found.items() if found else ():
        if (largest := max(rows.labels)) >= classes:
            raise SceneError(
                f"{rows.folder} has the {split} label {largest}, and {name} has {classes} classes: it is another set."
            )
    return found


def holds_arrays(root: Path) -> bool:
    """Whether a folder has idx files or CIFAR's batches in it."""
    idx = any(
        next(_idx(root / place, "train", "images", 3), None) for places in IDX_FOLDERS.values() for place in places
    )
    batches = ((name, place) for name, places in BATCH_FOLDERS.items() for place in places)
    return idx or any((root / place / BATCHES[name]["train"][0]).is_file() for name, place in batches)


def _open(name: str, root: Path) -> dict[str, ArrayRows] | None:
    for folder in (root / place for place in IDX_FOLDERS.get(name, ())):
        if next(_idx(folder, "train", "images", 3), None):
            return {split: _read_idx(folder, start) for split, start in IDX_STARTS.items()}
    for folder in (root / place for place in BATCH_FOLDERS.get(name, ())):
        if (folder / BATCHES[name]["train"][0]).is_file():
            return {split: _read_batches(folder, files, name) for split, files in BATCHES[name].items()}
    for file in (root / place for place in PICKLES.get(name, ())):
        if file.is_file():
            raise SceneError(
                f"{file.parent} holds CIFAR's pickled batches, and nothing here is ever unpickled: take "
                f"{BINARIES[name]} from the same page, or a sub-folder of images for each class."
            )
    return None


def _idx(folder: Path, start: str, kind: str, dimensions: int) -> Iterator[Path]:
    for name in (f"{start}-{kind}-idx{dimensions}-ubyte", f"{start}-{kind}.idx{dimensions}-ubyte"):
        yield from (path for ending in ("", ".gz") if (path := folder / (name + ending)).is_file())


def _read_idx(folder: Path, start: str) -> ArrayRows:
    found: list[tuple[str, Bytes]] = []
    for kind, dimensions in (("images", 3), ("labels", 1)):
        path = next(_idx(folder, start, kind, dimensions), None)
        if path is None:
            raise SceneError(
                f"{folder} has no {start}-{kind}-idx{dimensions}-ubyte: put all four files of the set there."
            )
        try:
            opened: IO[bytes] = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[assignment]
            with opened as file:
                found.append((path.name, _array(file, path, dimensions)))
        except (OSError, EOFError) as error:
            raise SceneError(f"{path} cannot be read ({error}): fetch it again.") from error
    (images, pixels), (labels, numbers) = found
    if len(pixels) != len(numbers):
        raise SceneError(
            f"{folder / images} has {len(pixels):,} images, and {labels} {len(numbers):,} labels: they are of two sets."
        )
    return ArrayRows(folder, (images, labels), pixels, tuple(numbers.tolist()))


def _array(file: IO[bytes], path: Path, dimensions: int) -> Bytes:
    head = file.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
        raise SceneError(f"{path} is no idx file of bytes in {dimensions} dimensions: fetch it again.")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    size = math.prod(shape)
    if not 0 < size <= LARGEST:
        raise SceneError(f"{path} says that it holds {' x '.join(map(str, shape))} bytes: fetch it again.")
    data = file.read(size + 1)
    if len(data) != size:
        raise SceneError(f"{path} is {'cut' if len(data) < size else 'longer than it says'}: fetch it again.")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_batches(folder: Path, files: tuple[str, ...], name: str) -> ArrayRows:
    labels = 2 if name == "cifar100" else 1  # CIFAR-100 has the superclass in front
    width, parts = labels + 3 * SIDE * SIDE, []
    for path in (folder / file for file in files):
        try:
            data = np.fromfile(path, np.uint8)
        except OSError as error:
            raise SceneError(f"{path} cannot be read ({error.strerror}): fetch it again.") from error
        if not len(data) or len(data) % width:
            raise SceneError(f"{path} is cut: fetch it again.")
        parts.append(data.reshape(-1, width))
    rows = np.concatenate(parts)
    pixels = rows[:, labels:].reshape(-1, 3, SIDE, SIDE)
    return ArrayRows(folder, files, pixels, tuple(rows[:, labels - 1].tolist()))
