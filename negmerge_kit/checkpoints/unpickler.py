"""An unpickler that runs nothing: every class and function that a pickle names becomes an inert stand-in."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

import torch
from torch import Tensor

from negmerge_kit.errors import CheckpointError

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


REFUSED = (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)


class Inert:
    """What stands where a pickle names a class: it takes any arguments and state, and does nothing."""

    named = ""

    def __new__(cls, *_: object, **__: object) -> Inert:
        """Accept whatever the file passes."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
            state = state[0]
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})

    def __call__(self, *_: object, **__: object) -> Inert:
        """Calling a stand-in gives another."""
        return Inert()

    def append(self, _: object) -> None:
        """List items of an unknown class are dropped."""

    def extend(self, _: object) -> None:
        """List items of an unknown class are dropped."""

    def __setitem__(self, _: object, __: object) -> None:
        pass


class Pending(NamedTuple):
    """A tensor as the pickle describes it; its numbers are read when the whole file is known to be sane.

    A tuple, because a pickle can put what it likes into anything that has attributes.
    """

    storage: tuple[str, torch.dtype, int]
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self, storages: Callable[[str, torch.dtype, int], Tensor]) -> Tensor:
        """The tensor, as a copy of its own."""
        flat = storages(*self.storage)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        empty = 0 in self.shape
        if (
            self.offset < 0
            or any(value < 0 for value in (*self.shape, *self.stride))
            or not (empty or last < flat.numel())
        ):
            raise CheckpointError("a tensor reaches beyond its numbers: the file is damaged, get it again.")
        return flat.as_strided(self.shape, self.stride, self.offset).clone().contiguous()


class _Bounded:
    """A file that refuses to read more than it has: a damaged length must not become a buffer of that length."""

    def __init__(self, file: io.BytesIO | BinaryIO) -> None:
        self._file = file
        place = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(place)
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        if count > self._end - self._file.tell():
            raise EOFError("it ends too early")
        return self._file.read(count)

    def readinto(self, buffer: bytearray) -> int:
        """Fill the buffer."""
        data = self.read(len(buffer))
        buffer[:] = data
        return len(data)


class _Call:
    """One of our own functions under the name that a pickle uses; without attributes that it could change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> Any:
        return self._function(*arguments)


class InertUnpickler(pickle._Unpickler):  # type: ignore[misc, name-defined, unused-ignore]
    """Resolves names from a list of its own; whatever is not on it becomes an `Inert` class.

    The unpickler written in Python, because the one in C takes as much memory as a hostile memo index asks for; and
    without the instructions that no checkpoint has but that name objects of this process or sizes without bound.
    """

    dispatch: ClassVar = {
        code: step for code, step in pickle._Unpickler.dispatch.items() if bytes([code]) not in REFUSED
    }

    def __init__(self, file: io.BytesIO | BinaryIO) -> None:
        super().__init__(_Bounded(file), encoding="utf-8")
        self.named: dict[str, type[Inert]] = {}
        self._known: dict[str, Any] = {name: _Call(function) for name, function in FUNCTIONS.items()} | dict(CONTAINERS)

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; nothing is imported."""
        full = f"{module}.{name}"
        if full in self._known:
            return self._known[full]
        if module.startswith("torch") and name in STORAGES:
            return _Storage(name)
        if full not in self.named:
            self.named[full] = type(name.rpartition(".")[2] or "Inert", (Inert,), {"named": full})
        return self.named[full]

    def persistent_load(self, pid: Any) -> Any:
        """A storage: its key, its type and its length; in old files also a module's source text, which is dropped."""
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError("an unknown kind of persistent object")
        kind, key, length = pid[1], pid[2], pid[4]
        dtype = kind.dtype if isinstance(kind, _Storage) else None
        if dtype is None or not isinstance(length, int) or length < 0:
            raise pickle.UnpicklingError(f"a storage of an unknown type for {key}")
        return (str(key), dtype, length)


class _Storage:
    """The type of a storage, told by its name."""

    def __init__(self, name: str) -> None:
        self.dtype = STORAGES[name]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> Pending:
    key, dtype, length = storage
    if not (
        isinstance(dtype, torch.dtype)
        and all(type(value) is int for value in (offset, *shape, *stride))
        and len(shape) == len(stride)
    ):
        raise pickle.UnpicklingError("a tensor without a sane shape")
    return Pending((str(key), dtype, int(length)), offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: Any, *_: object) -> Any:
    return data


CONTAINERS: Mapping[str, type] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
}
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
