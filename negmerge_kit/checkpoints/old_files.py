"""Files of torch.save of any version: a zip, or five pickles and the numbers after them. Tensors as the file says."""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negmerge_kit.checkpoints.header import DTYPES, check_shape
from negmerge_kit.checkpoints.pickles import Made, Name, Storage, Tree
from negmerge_kit.checkpoints.reader import map_file
from negmerge_kit.errors import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
"""First number in files of the format that torch wrote before version 1.6."""
LONGEST_PICKLE = 256 << 20
"""Bytes of data.pkl: the weights are outside it, so more is no checkpoint."""
STORED_NAMES = {str(dtype): dtype for dtype in DTYPES.values()}
_KINDS = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "Untyped": torch.uint8,
}
_REBUILD = "torch._utils._rebuild_"
WRAPPED = (f"{_REBUILD}parameter", f"{_REBUILD}parameter_with_state", "torch.nn.parameter.Parameter")
TENSOR = (f"{_REBUILD}tensor", f"{_REBUILD}tensor_v2", f"{_REBUILD}tensor_v3")
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
UNDERSTOOD = {*WRAPPED, *TENSOR, SUBCLASS, "collections.OrderedDict"}
TENSORS = (_REBUILD, SUBCLASS, "torch.nn.parameter.Parameter")
"""Names of what makes tensors begin so."""


class Stored(NamedTuple):
    """A tensor as the pickle describes it: the storage's id, and what part of it in which order."""

    storage: Any
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype | None


class OldFile:
    """Content of a .pt or .pth file of any torch version, read without importing or calling anything that it names.

    Attributes:
        content: the pickle's tree (see `pickles`).
        named: the classes and functions that the pickle names and that are not torch's own way to write tensors.

    Raises:
        CheckpointError: for a file that is no torch checkpoint, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._mapped = map_file(path)
        self._places: dict[str, tuple[int, int]] = {}
        self._unchecked: dict[str, int] = {}
        tree = self._zipped(path) if self._mapped[:2] == b"PK" else self._sequential()
        self.content = tree.content
        self.named = tuple(sorted(name for name in tree.named if name not in UNDERSTOOD and not _is_kind(name)))
        self.size = len(self._mapped)

    def read(self, tensor: Stored) -> Tensor:
        """The tensor, as a view of the mapped file; a bad description of it is refused."""
        key, dtype, first, count = _described(tensor.storage)
        dtype = tensor.dtype or dtype
        shape, stride, offset = tensor.shape, tensor.stride, tensor.offset
        start, length = self._place(key)
        count = min(count, length // dtype.itemsize - first)
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if math.prod(shape) == 0:
            return torch.empty(shape, dtype=dtype)
        if last >= count:
            raise CheckpointError("it reaches beyond its numbers, which are cut short: get the file again.")
        if math.prod(shape) > count:
            raise CheckpointError(
                f"its shape {list(shape)} shows its {count} numbers several times over (it was expanded): "
                "save its .contiguous() copy."
            )
        start += first * dtype.itemsize
        flat = torch.frombuffer(self._mapped, dtype=torch.uint8, count=count * dtype.itemsize, offset=start)
        flat = flat.clone() if start % dtype.itemsize else flat
        return flat.view(dtype).as_strided(shape, stride, offset)

    def _place(self, key: str) -> tuple[int, int]:
        """Start of a storage in the file, and its bytes; its checksum, where it has one, is compared once."""
        if key not in self._places:
            raise CheckpointError(f"the numbers of storage {key!r} are missing: get the file again.")
        start, length = self._places[key]
        expected = self._unchecked.pop(key, None)
        if expected is not None and zlib.crc32(memoryview(self._mapped)[start : start + length]) != expected:
            raise CheckpointError(f"the numbers of storage {key!r} have changed (their CRC differs): get it again.")
        return start, length

    def _zipped(self, path: Path) -> Tree:
        """torch's format since 1.6: a zip with data.pkl and one uncompressed member a storage."""
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise CheckpointError("two members of it have one name: the file is damaged, get it again.")
            end = archive.start_dir
        pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("it is a zip without one data.pkl, so no torch checkpoint: give a .pt or .pth file.")
        folder = pickles[0].removesuffix("data.pkl")
        wanted = {
            name: info
            for name, info in members.items()
            if name in (pickles[0], folder + "byteorder") or name.startswith(folder + "data/")
        }
        spans = {name: self._span(info) for name, info in wanted.items()}
        for start, length in sorted(spans.values(), reverse=True):
            if start + length > end:
                raise CheckpointError("members of it overlap: the file is damaged, get it again.")
            end = start
        if spans[pickles[0]][1] > LONGEST_PICKLE:
            raise CheckpointError("its data.pkl is too long for a checkpoint.")
        content = {
            name: self._mapped[start : start + length]
            for name, (start, length) in spans.items()
            if not name.startswith(folder + "data/")
        }
        if content.get(folder + "byteorder", b"little") != b"little":
            raise CheckpointError("it was written on a big-endian machine, which is not supported.")
        if zlib.crc32(content[pickles[0]]) != wanted[pickles[0]].CRC:
            raise CheckpointError("its data.pkl has changed (its CRC differs): get it again.")
        self._places = {name.removeprefix(folder + "data/"): span for name, span in spans.items()}
        self._unchecked = {name.removeprefix(folder + "data/"): info.CRC for name, info in wanted.items()}
        return Tree(content[pickles[0]])

    def _span(self, info: zipfile.ZipInfo) -> tuple[int, int]:
        """Byte range of a member; only stored members have as many as the archive promises."""
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise CheckpointError(
                f"its member {info.filename!r} is compressed, which torch never does: "
                "unpack it and save it again with torch.save."
            )
        local = self._mapped[info.header_offset : info.header_offset + 30]
        if local[:4] != b"PK\3\4":
            raise CheckpointError(f"its member {info.filename!r} is not where it should be: get it again.")
        return info.header_offset + 30 + sum(struct.unpack("<HH", local[26:])), info.file_size

    def _sequential(self) -> Tree:
        """torch's format before 1.6: five pickles one after another, then the storages' lengths and raw numbers."""
        file = self._mapped
        if Tree(file).content != MAGIC:
            raise CheckpointError("it is a pickle but no torch checkpoint: give a file written by torch.save.")
        _, system = Tree(file), Tree(file).content
        if isinstance(system, list) and ("little_endian", False) in list(zip(system[::2], system[1::2], strict=False)):
            raise CheckpointError("it was written on a big-endian machine, which is not supported.")
        tree, keys = Tree(file), Tree(file).content
        sizes = {key: dtype.itemsize for key, dtype, *_ in map(_described, tree.storages)}
        for key in keys if isinstance(keys, list) else []:
            if type(key) is not str or key not in sizes:
                raise CheckpointError("a storage belongs to no tensor, so its length is unknown: get the file again.")
            length = struct.unpack("<q", file.read(8))[0] * sizes[key]
            if not 0 <= length <= len(file) - file.tell():
                raise CheckpointError("its numbers are cut short: get the file again.")
            self._places[key] = (file.tell(), length)
            file.seek(length, 1)
        return tree


def tensor_of(value: Any) -> Stored | None:
    """The tensor that torch would make of a part of the tree, or None where it would make something else.

    Raises:
        CheckpointError: for a tensor of a kind that safetensors cannot hold; the message names the kind.
    """
    for _ in range(4):  # a parameter of a tensor of a subclass: no file wraps deeper
        if not isinstance(value, Made):
            return None
        if value.maker in WRAPPED and value.arguments:
            value = value.arguments[0]
        elif value.maker == SUBCLASS and len(value.arguments) > 2:
            value = Made(value.arguments[0], value.arguments[2])
        elif value.maker in TENSOR and len(value.arguments) > 3:
            return _plain(value.maker == TENSOR[2], value.arguments)
        else:
            break
    if isinstance(value, Made) and isinstance(value.maker, Name) and value.maker.startswith(_REBUILD):
        kind = value.maker.removeprefix(_REBUILD)
        raise CheckpointError(f"it is no plain tensor ({kind!r}): save its dense, dequantised copy.")
    return None


def _plain(typed_apart: bool, arguments: tuple[Any, ...]) -> Stored:
    """A tensor of a storage; in the newer form the dtype comes after the hooks."""
    named = arguments[6] if typed_apart and len(arguments) > 6 else None
    if named is not None and named not in STORED_NAMES:
        raise CheckpointError(f"its dtype {named!s} has no name in safetensors: save it as float32.")
    if any(arguments[7 if typed_apart else 6 :][:1]):
        raise CheckpointError("it is conjugated or negated lazily: save its .resolve_conj().resolve_neg() copy.")
    dtype = STORED_NAMES[named] if named is not None else None
    storage, offset, shape, stride = arguments[:4]
    if not (_naturals(shape) and _naturals(stride) and len(shape) == len(stride) and _naturals((offset,))):
        raise CheckpointError("it has no sane shape: the file is damaged, get it again.")
    check_shape(shape)
    return Stored(storage, offset, shape, stride, dtype)


def _described(storage: Any) -> tuple[str, torch.dtype, int, int]:
    """Key, dtype, first element and number of elements of a storage, or of the part of one that it is."""
    id = storage.id if isinstance(storage, Storage) else None
    if not (isinstance(id, tuple) and len(id) >= 5 and id[0] == "storage" and isinstance(id[1], Name)):
        raise CheckpointError("it has no storage: the file is damaged, get it again.")
    kind, key, count = id[1].rpartition(".")[2].removesuffix("Storage"), id[2], id[4]
    if not _is_kind(id[1]):
        raise CheckpointError(f"its numbers are {kind!r}, which safetensors cannot hold: save them as float32.")
    part = id[5][1:3] if len(id) > 5 and isinstance(id[5], tuple) else (0, count)
    if type(key) is not str or not _naturals((count, *part)) or len(part) != 2 or sum(part) > count:
        raise CheckpointError("its storage has no sane length: the file is damaged, get it again.")
    return key, _KINDS[kind], part[0], part[1]


def _is_kind(name: str) -> bool:
    module, _, kind = name.rpartition(".")
    return module.split(".")[0] == "torch" and kind.endswith("Storage") and kind.removesuffix("Storage") in _KINDS


def _naturals(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 2**63 for value in values)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or hostile file makes Python raise into one error that names the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        MemoryError,
        OverflowError,
        RuntimeError,  # NotImplementedError and RecursionError, too
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        struct.error,
    ) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{path} is no torch checkpoint, or a damaged one ({said}): get it again.") from error
