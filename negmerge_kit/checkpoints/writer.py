"""Checkpoints written as they are computed: streamed tensor by tensor, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.header import NAMES, OUR_KEY, check_name, format_header
from negmerge_kit.checkpoints.overwrite_guard import files_of, refuse_inputs
from negmerge_kit.checkpoints.reader import Checkpoint
from negmerge_kit.checkpoints.shard_index import INDEX
from negmerge_kit.errors import CheckpointError, MismatchError
from negmerge_kit.merging.layout import layout_of
from negmerge_kit.safe_json import check_regular
from negmerge_kit.types import Items, Json, Weights

FLUSH = 1 << 26
"""Bytes written before they are handed to the disk."""
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


def save_checkpoint(
    path: str | Path,
    items: Items,
    *,
    like: Weights,
    metadata: Json | None = None,
    complete: Callable[[], Json] | None = None,
) -> Path:
    """Write a stream of `(name, tensor)` as safetensors, with the names, shapes and dtypes of `like`.

    One tensor is in memory at a time. The file appears when it is complete and on disk, or not at all; what was there
    before stays until then. `metadata` is stored as one JSON string, so equal tensors give equal bytes; where parts of
    it are known last, `complete` gives all of it after the tensors, as long in JSON as `metadata` is. If `like` is a
    sharded checkpoint the result is sharded alike: FILE-00001-of-00002.safetensors, …, and an index, whose path is
    returned.

    Raises:
        MismatchError: an item that `like` does not have, has in another shape or dtype, or has once only.
        CheckpointError: a folder that cannot be written, a full disk, or a path that is one of `like`'s own files.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     weights = {"w": torch.ones(2)}
    ...     save_checkpoint(Path(folder) / "w.safetensors", weights.items(), like=weights).stat().st_size
    72
    """
    path = Path(path)
    record = dict(getattr(like, "raw_metadata", {}))
    record.pop(OUR_KEY, None)
    if metadata is not None:
        record[OUR_KEY] = json.dumps(metadata, sort_keys=True)
    layout = layout_of(like)
    parts = output_files(path, like)
    refuse_inputs(parts, files_of(like))
    with ExitStack() as files:
        index = files.enter_context(atomic_file(parts[-1])) if len(parts) > 1 else None
        sinks = [
            _Sink(files.enter_context(atomic_file(file)), {name: layout[name] for name in names}, record)
            for file, names in reversed(list(zip(parts, _names(like), strict=False)))
        ]
        disk = files.enter_context(ThreadPoolExecutor(1))  # left before the files are closed
        flushes: list[Future[None]] = []
        places = {name: sink for sink in sinks for name in sink.layout}
        for name, tensor in items:
            if name not in places:
                raise MismatchError(
                    f"{name} is not among the {len(layout)} tensors that {path} is to hold: "
                    "write the base's names, no others."
                )
            places[name].put(name, tensor)
            del tensor  # its memory serves the next one
            if places[name].unflushed >= FLUSH and all(flush.done() for flush in flushes):
                flushes.append(disk.submit(places[name].flush))
        missing = [name for sink in sinks for name in sink.missing()]
        if missing:
            raise MismatchError(
                f"{len(missing)} tensors never came for {path}, first {missing[0]}: write every name of the base."
            )
        for flush in flushes:
            flush.result()
        if complete is not None:
            record[OUR_KEY] = json.dumps(complete(), sort_keys=True)
        for sink in sinks:
            sink.finish(record)
        if index is not None:
            index.write(index_for(parts, like))
    return parts[-1]


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex; CheckpointError when it cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "a"
    ...     _ = file.write_bytes(b"abc")
    ...     sha256_file(file)[:8]
    'ba7816bf'
    """
    try:
        with check_regular(Path(path)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error


class _Sink:
    """One file being filled: the place of every tensor is known before the first arrives."""

    def __init__(self, file: BinaryIO, layout: Layout, record: Mapping[str, str]) -> None:
        for name, (_, dtype) in layout.items():
            check_name(name)
            if dtype not in NAMES:
                raise CheckpointError(f"{name} is {dtype}, which safetensors cannot hold: convert it to float32.")
        # Wide types first, as the reference writer does: then every tensor starts at a multiple of its item size.
        ordered = sorted(layout.items(), key=lambda item: -item[1][1].itemsize)
        self.layout = dict(ordered)
        self._file = file
        self._ordered = [(name, shape, dtype) for name, (shape, dtype) in ordered]
        self._places: dict[str, int] = {}
        self.unflushed = 0
        self._header = position = len(format_header(self._ordered, record))
        for name, shape, dtype in self._ordered:
            self._places[name] = position
            position += torch.Size(shape).numel() * dtype.itemsize

    def put(self, name: str, tensor: Tensor) -> None:
        shape, dtype = self.layout[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise MismatchError(
                f"{name} came as {list(tensor.shape)} {tensor.dtype}, expected {list(shape)} {dtype}: "
                "write the base's shapes and dtypes."
            )
        if name not in self._places:
            raise MismatchError(f"{name} came twice: write every tensor once.")
        self._file.seek(self._places.pop(name))
        if tensor.numel():
            flat = tensor.detach().to("cpu").contiguous().reshape(-1)
            self.unflushed += self._file.write(flat.view(torch.uint8).numpy().data)

    def flush(self) -> None:
        """Hand to the disk what is written: it takes its time, and later tensors theirs."""
        self.unflushed = 0
        os.fsync(self._file.fileno())

    def finish(self, record: Mapping[str, str]) -> None:
        """Write the header, when all that it says is known."""
        header = format_header(self._ordered, record)
        if len(header) != self._header:
            raise ValueError(f"the header has become {len(header)} bytes, and {self._header} were left for it")
        self._file.seek(0)
        self._file.write(header)

    def missing(self) -> list[str]:
        return list(self._places)


def output_files(path: str | Path, like: Weights) -> list[Path]:
    """The files that `save_checkpoint` would write: one, or the shards and, last, their index."""
    path = Path(path)
    if not isinstance(like, Checkpoint) or like.index is None:
        return [path]
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path} has no .safetensors ending: name the output FILE.safetensors, "
            "its shards are numbered and written next to it."
        )
    count = len(like.files)
    shards = [path.with_name(f"{path.stem}-{k:05d}-of-{count:05d}.safetensors") for k in range(1, count + 1)]
    return [*shards, path.with_name(path.stem + INDEX)]


def _names(like: Weights) -> list[tuple[str, ...]]:
    if not isinstance(like, Checkpoint) or like.index is None:
        return [tuple(like)]
    return list(like.shards().values())


def index_for(parts: Sequence[Path], like: Weights) -> bytes:
    """The index of shards that hold the tensors of `like`, as `output_files` names them."""
    layout = layout_of(like)
    size = sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in layout.values())
    table: dict[str, Any] = {
        "metadata": {"total_size": size},
        "weight_map": {name: part.name for part, group in zip(parts, _names(like), strict=False) for name in group},
    }
    return (json.dumps(table, indent=2, sort_keys=True) + "\n").encode()
