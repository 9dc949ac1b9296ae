"""The header of a safetensors file: read strictly, written the same way every time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from negmerge_kit.errors import CheckpointError
from negmerge_kit.safe_json import UNSPEAKABLE, check_regular, parse_json, shortened

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000
"""Bytes that a header may have; the reference reader refuses longer ones too."""
MOST_SIDES = 64
"""Dimensions that a tensor may have; NumPy's are as many."""
MADE_FROM = "base_sha256"
"""Metadata entry of the files of candidates and heads: the SHA-256 of the base that they were made from."""
OUR_KEY = "negmerge"
"""The one metadata key that holds what this package records, as a JSON string."""


@dataclass(frozen=True)
class Entry:
    """One tensor's dtype, shape and byte range, counted from the start of the file.

    >>> Entry(torch.float32, (2, 3), 64).nbytes
    24
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """The tensor's bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """The entries of one file in the order of their bytes, and its metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of one safetensors file.

    Everything is checked before a tensor is touched: names once each, known dtypes, offsets that follow one another
    without a gap and end with the file (https://github.com/huggingface/safetensors#format). Raises CheckpointError
    with the file, what is wrong and what to do.
    """
    try:
        size = path.stat().st_size
        with check_regular(path).open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            text = file.read(length) if length <= min(LONGEST_HEADER, size - 8) else b""
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: check the path.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    except ValueError as error:  # a NUL, which no path has
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}. Check the path.") from error
    if not text and first[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(f"{path} is a pickled checkpoint, which is never loaded: run `negmerge convert {path}`.")
    if not text:
        raise _broken(path, "it is truncated or no safetensors file at all")
    try:
        table = parse_json(text)
    except ValueError as error:
        raise _broken(path, f"its header is not valid ({error})") from error
    if not isinstance(table, dict):
        raise _broken(path, "its header is not a table of tensors")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "its metadata is not a table of strings")
    entries = {name: _entry(path, name, spec, 8 + length) for name, spec in table.items()}
    return Header(_in_order(path, entries, 8 + length, size), metadata)


def format_header(
    layout: Iterable[tuple[str, tuple[int, ...], torch.dtype]], metadata: Mapping[str, str], *, length: int = 0
) -> bytes:
    """The bytes before the tensors, length included; the same layout always gives the same bytes.

    `layout` must be in the order in which the tensors follow. The text is padded so that tensors start at a multiple
    of eight, and up to `length` bytes in all.

    >>> format_header([("w", (2,), torch.float32)], {})[8:]
    b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
    """
    table: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, shape, dtype in layout:
        end = offset + math.prod(shape) * dtype.itemsize
        table[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > LONGEST_HEADER:
        raise CheckpointError(f"its header would be longer than {LONGEST_HEADER:,} bytes, which nobody reads.")
    text += b" " * max(-len(text) % 8, length - 8 - len(text))
    return struct.pack("<Q", len(text)) + text


def check_name(name: str) -> None:
    """Refuse a tensor's name that a safetensors file cannot hold; the reference reader refuses such files, too.

    >>> check_name("__metadata__")
    Traceback (most recent call last):
    negmerge_kit.errors.CheckpointError: no tensor can be called '__metadata__' in a safetensors file: rename it.
    """
    if name == "__metadata__" or UNSPEAKABLE.search(name):
        raise CheckpointError(f"no tensor can be called {shortened(name)} in a safetensors file: rename it.")


def check_shape(shape: Sequence[int]) -> None:
    """Refuse a shape of more dimensions or elements than a tensor can have; a side of 0 does not make up for others.

    >>> check_shape([0, 2**62, 2**62])
    Traceback (most recent call last):
    negmerge_kit.errors.CheckpointError: no tensor has the shape [0, 4611686018427387904, 4611686018427387904].
    """
    if len(shape) > MOST_SIDES or math.prod(max(side, 1) for side in shape) >= 2**60:
        raise CheckpointError(f"no tensor has the shape {shortened(list(shape))}.")


def _entry(path: Path, name: str, spec: object, origin: int) -> Entry:
    if not isinstance(spec, dict) or set(spec) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"the entry of {shortened(name)} is not a dtype, a shape and two offsets")
    dtype, shape, offsets = spec["dtype"], spec["shape"], spec["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{path} stores {shortened(name)} as {shortened(dtype)}, which is not supported: save it as F32 or BF16."
        )
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _broken(path, f"the shape or the offsets of {shortened(name)} are not whole numbers")
    try:
        check_name(name)
        check_shape(shape)
    except CheckpointError as error:
        raise _broken(path, str(error).removesuffix(".")) from None
    entry = Entry(DTYPES[dtype], tuple(shape), origin + offsets[0])
    if offsets[1] - offsets[0] != entry.nbytes:
        found = offsets[1] - offsets[0]
        raise _broken(path, f"{shortened(name)} has {found} bytes where its shape needs {entry.nbytes}")
    return entry


def _in_order(path: Path, entries: dict[str, Entry], origin: int, size: int) -> dict[str, Entry]:
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)))
    position = origin
    for name, entry in ordered.items():
        if entry.start != position:
            raise _broken(path, f"{shortened(name)} overlaps its neighbour or leaves a gap")
        position += entry.nbytes
    if position != size:
        word = "truncated" if position > size else "followed by foreign bytes"
        raise _broken(path, f"it is {word}: {size} bytes where its header tells of {position}")
    return ordered


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be used: {what}. Save or download it again.")
