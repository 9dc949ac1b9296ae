"""Old checkpoints, torch's zip and the format before it, read through the inert unpickler."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from negmerge_kit.checkpoints.unpickler import Inert, InertUnpickler, Pending
from negmerge_kit.errors import CheckpointError

LONGEST_PICKLE = 256 << 20
"""Bytes of pickle text: the weights lie outside it, so more is no checkpoint of ours."""
MAGIC = 0x1950A86A20F9469CFC6C
"""First number in files of the format that torch wrote before version 1.6."""


@dataclass(frozen=True)
class OldFile:
    """An unpickled file: what it holds, with tensors pending, and a way to their numbers."""

    content: Any
    storages: Callable[[str, torch.dtype, int], Tensor]
    named: tuple[str, ...]


def read_pickled(path: Path) -> OldFile:
    """Read a .pt or .pth file of any torch version without importing or calling anything that it names.

    Raises CheckpointError for a file that is no torch checkpoint or is damaged.
    """
    with errors_named(path), path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        return _zipped(path, file) if start == b"PK" else _sequential(path, file)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Whatever a damaged or hostile file makes Python raise, as one error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: check the path.") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        MemoryError,
        RecursionError,
        OverflowError,
        NotImplementedError,
        RuntimeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        ImportError,
        AssertionError,
    ) as error:
        raise CheckpointError(
            f"{path} is no torch checkpoint, or a damaged one ({type(error).__name__}: {error}): get it again."
        ) from error


def _zipped(path: Path, file: BinaryIO) -> OldFile:
    """torch's format since 1.6: a zip with data.pkl and one uncompressed member a storage."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("it is a zip without one data.pkl, so no torch checkpoint: give a .pt or .pth file.")
        if members[pickles[0]].file_size > LONGEST_PICKLE:
            raise CheckpointError("its data.pkl is too long for a checkpoint.")
        folder = pickles[0].removesuffix("data.pkl")
        if folder + "byteorder" in members and archive.read(folder + "byteorder") != b"little":
            raise CheckpointError("it was written on a big-endian machine, which is not supported.")
        reader = InertUnpickler(io.BytesIO(archive.read(pickles[0])))
        content = reader.load()

    def storage(key: str, dtype: torch.dtype, length: int) -> Tensor:
        info = members.get(f"{folder}data/{key}")
        if info is None or info.file_size < length * dtype.itemsize:
            raise CheckpointError(f"the numbers of storage {key} are missing or cut short: get the file again.")
        with zipfile.ZipFile(path) as archive:
            return _numbers(archive.read(info), dtype, length)

    return OldFile(content, storage, tuple(sorted(reader.named)))


def _sequential(path: Path, file: BinaryIO) -> OldFile:
    """torch's format before 1.6: five pickles one after another, then the storages' raw numbers."""
    if InertUnpickler(file).load() != MAGIC:
        raise CheckpointError("it is a pickle but no torch checkpoint: give a .pt or .pth file written by torch.save.")
    InertUnpickler(file).load()
    system = InertUnpickler(file).load()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError("it was written on a big-endian machine, which is not supported.")
    reader = InertUnpickler(file)
    content = reader.load()
    keys = InertUnpickler(file).load()
    lengths: dict[str, tuple[int, int]] = {}
    types = {pending.storage[0]: pending.storage[1] for pending in _pending(content)}
    for key in keys:
        length = struct.unpack("<q", file.read(8))[0]
        lengths[str(key)] = (file.tell(), length)
        if str(key) not in types:
            raise CheckpointError(f"storage {key} belongs to no tensor, so its length is unknown: get the file again.")
        file.seek(length * types[str(key)].itemsize, io.SEEK_CUR)

    def storage(key: str, dtype: torch.dtype, length: int) -> Tensor:
        with path.open("rb") as again:
            start, stored = lengths[key]
            size = min(length, stored) * dtype.itemsize
            if start + size > path.stat().st_size:
                raise CheckpointError("its numbers are cut short: get the file again.")
            again.seek(start)
            return _numbers(again.read(size), dtype, length)

    return OldFile(content, storage, tuple(sorted(reader.named)))


def _numbers(raw: bytes, dtype: torch.dtype, length: int) -> Tensor:
    if len(raw) < length * dtype.itemsize:
        raise CheckpointError("its numbers are cut short: get the file again.")
    if length == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype, count=length)


def _pending(content: Any) -> list[Pending]:
    """Every tensor inside, wherever it hangs."""
    found, seen, waiting = [], set(), [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Pending):
            found.append(value)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        if isinstance(value, Inert):
            waiting += vars(value).values()
    return found
