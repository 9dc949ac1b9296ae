"""Sparse delta files: the non-zero values and one bit an element, to apply at any scale and to undo."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.header import OUR_KEY, check_shape, format_header
from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
from negmerge_kit.errors import CheckpointError, MismatchError, ParameterError, check_scale
from negmerge_kit.merging.layout import layout_of, merges, peek
from negmerge_kit.merging.negation import subtract
from negmerge_kit.safe_json import NUMBER, checked, shortened
from negmerge_kit.types import Item, Items, Json, Weights

FORMAT = "negmerge-sparse-delta-1"
MASK, VALUES, BASE = "#mask", "#values", "#base"
RECORD = {"scale?": NUMBER, "shapes": {...: [lambda side: type(side) is int and side >= 0]}}
"""What the file's metadata hold, in the kinds of `safe_json`."""


def save_delta(
    path: str | Path, items: Items, *, base: Weights, scale: float | None = None, metadata: Json | None = None
) -> Path:
    """Write a merged delta sparse: for each tensor a bit an element, and the values where the bit is set.

    With `scale` the file also carries the base's values at those places, so that `undo_delta` gives the base back
    bit for bit after `apply_delta` at that scale. Streamed and atomic, as `save_checkpoint`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     base = {"w": torch.ones(4)}
    ...     delta = {"w": torch.tensor([0.0, 0.5, 0.0, -1.0])}
    ...     open_delta(save_delta(Path(folder) / "d.safetensors", delta.items(), base=base))["w"]
    tensor([ 0.0000,  0.5000,  0.0000, -1.0000])
    """
    with DeltaWriter(Path(path), base, scale=scale, metadata=metadata) as writer:
        for name, delta in items:
            writer.put(name, delta)
    return Path(path)


class DeltaWriter:
    """`save_delta` one tensor at a time, for a merge that also writes the unlearned model.

    `complete` gives all metadata after the tensors, as in `save_checkpoint`.
    """

    def __init__(
        self,
        path: Path,
        base: Weights,
        *,
        scale: float | None = None,
        metadata: Json | None = None,
        complete: Callable[[], Json] | None = None,
    ) -> None:
        self._base = base
        self._layout = {name: spec for name, spec in layout_of(base).items() if merges(spec[1])}
        self._scale = None if scale is None else check_scale(scale)
        self._path = path
        self._complete = complete
        self._own: Json = {
            "format": FORMAT,
            "scale": self._scale,
            "shapes": {name: list(shape) for name, (shape, _) in self._layout.items()},
        }
        self._record = {OUR_KEY: json.dumps(self._own | (metadata or {}), sort_keys=True)}
        self._context = atomic_file(path)
        self._written: list[tuple[str, tuple[int, ...], torch.dtype]] = []
        self._names: set[str] = set()
        self._finished = False
        # The header comes first but is known last: room is left for the longest that it can become.
        dense = [part for name, (shape, dtype) in self._layout.items() for part in _dense_parts(name, shape, dtype)]
        self._room = len(format_header(dense, self._record))

    def __enter__(self) -> DeltaWriter:
        self._file = self._context.__enter__()
        self._file.seek(self._room)
        return self

    def put(self, name: str, delta: Tensor) -> None:
        """Write one tensor of the delta; MismatchError when the base has no such tensor."""
        shape = tuple(delta.shape)
        if self._layout.get(name) != (shape, delta.dtype) or name in self._names:
            raise MismatchError(
                f"{name} {list(delta.shape)} {delta.dtype} is no tensor of the base, or came twice: "
                "write the delta that was merged from this base."
            )
        self._names.add(name)
        flat = delta.detach().to("cpu").reshape(-1)
        kept = flat != 0
        values = [(VALUES, flat[kept])]
        if self._scale is not None:
            values.append((BASE, peek(self._base, name).to("cpu").reshape(-1)[kept]))
        mask = torch.zeros(_mask_bytes(shape), dtype=torch.uint8)
        mask[: (len(kept) + 7) // 8] = torch.from_numpy(np.packbits(kept.numpy(), bitorder="little"))
        self._write(name + MASK, mask)
        for ending, tensor in values:
            self._write(name + ending, tensor)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._finished:
            try:
                self.finish()
            except BaseException as failure:
                self._context.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._context.__exit__(kind, error, trace)

    def finish(self) -> None:
        """Write the header and hand all bytes to the disk: what can fail has failed before another file appears."""
        missing = [name for name in self._layout if name not in self._names]
        if missing:
            raise MismatchError(
                f"{len(missing)} tensors never came for {self._path}, first {missing[0]}: "
                "write every floating tensor of the base."
            )
        if self._complete is not None:
            self._record = {OUR_KEY: json.dumps(self._own | self._complete(), sort_keys=True)}
        header = format_header(self._written, self._record, length=self._room)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        self._finished = True

    def _write(self, name: str, tensor: Tensor) -> None:
        self._written.append((name, tuple(tensor.shape), tensor.dtype))
        if tensor.numel():
            self._file.write(tensor.contiguous().view(torch.uint8).numpy().data)


class SparseDelta(Mapping[str, Tensor]):
    """A sparse delta file as a mapping of dense tensors; fits wherever a delta does."""

    def __init__(self, stored: Checkpoint) -> None:
        self.path = stored.path
        self.files = stored.files
        self._stored = stored
        self._layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        record: dict[str, Any] = stored.metadata
        self.record = record
        self.scale: float | None = record.get("scale")
        present = stored.layout()
        try:
            for name, shape in checked(record, RECORD)["shapes"].items():
                check_shape(shape)
                values, dtype = present.get(name + VALUES, ((), torch.uint8))
                if len(values) != 1 or not dtype.is_floating_point:
                    raise ValueError(f"its values of {shortened(name)} are missing, or no floating-point numbers")
                if present.get(name + MASK) != ((_mask_bytes(tuple(shape)),), torch.uint8):
                    raise ValueError(f"its mask of {shortened(name)} is missing, or not as long as {shape} needs")
                if present.get(name + BASE, (values, dtype)) != (values, dtype):
                    raise ValueError(f"its base's values of {shortened(name)} are not as many as its own")
                self._layout[name] = tuple(shape), dtype
            if self.scale is not None:
                check_scale(self.scale)
        except (ValueError, CheckpointError) as error:
            said = str(error).removesuffix(".")
            raise CheckpointError(f"{stored.path} is a damaged delta: {said}. Merge it again.") from error

    def __getitem__(self, name: str) -> Tensor:
        shape, dtype = self._layout[name]
        dense = torch.zeros(math.prod(shape), dtype=dtype)
        dense[self.places(name)] = self._stored.view(name + VALUES)
        return dense.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    def layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name to shape and dtype of the dense delta."""
        return dict(self._layout)

    def places(self, name: str) -> Tensor:
        """The flat positions of the non-zero values."""
        count = math.prod(self._layout[name][0])
        bits = np.unpackbits(self._stored.view(name + MASK).numpy(), count=count, bitorder="little")
        places = torch.from_numpy(np.flatnonzero(bits))
        if len(places) != self._stored.layout()[name + VALUES][0][0]:
            raise CheckpointError(
                f"{self.path} is damaged at {name}: its mask and its values differ in number. Merge it again."
            )
        return places

    def kept_values(self, name: str) -> Tensor:
        """The non-zero values of one tensor, at its `places`."""
        return self._stored.view(name + VALUES)

    def base_values(self, name: str) -> Tensor:
        """The base's values at `places`; CheckpointError when the delta was written without them."""
        if self.scale is None or name + BASE not in self._stored:
            raise CheckpointError(
                f"{self.path} carries no values of its base, so nothing can be undone exactly: "
                "write the delta together with the unlearned file."
            )
        return self._stored.view(name + BASE)


def open_delta(path: str | Path) -> SparseDelta | Checkpoint:
    """Open a delta file, sparse or dense, as a mapping of dense tensors."""
    stored = open_checkpoint(path)
    return SparseDelta(stored) if stored.metadata.get("format") == FORMAT else stored


def undo_delta(unlearned: Weights, delta: SparseDelta | Checkpoint, scale: float) -> Iterator[Item]:
    """The base, bit for bit, from what `apply_delta` made of it with this delta at this scale.

    Every changed place is checked first: it must hold exactly what the base's value minus scale times delta gives.
    Raises ParameterError for another scale than the delta was written for, CheckpointError for a delta without the
    base's values, MismatchError for a model that was not made with it.
    """
    if not isinstance(delta, SparseDelta):
        raise CheckpointError(
            f"{delta.path} is a dense delta, which cannot be undone exactly: "
            "use a sparse one, written together with the unlearned file."
        )
    if delta.scale is not None and check_scale(scale) != delta.scale:
        raise ParameterError(f"{delta.path} was written for scale {delta.scale:g}, not {scale:g}: undo that scale.")
    for name, (shape, dtype) in layout_of(unlearned).items():
        weights = peek(unlearned, name).clone()
        if merges(dtype):
            if delta.layout().get(name) != (shape, dtype):
                raise MismatchError(f"{delta.path} has no delta for {name} {list(shape)}: it is of another model.")
            places, before = delta.places(name), delta.base_values(name)
            flat = weights.reshape(-1)
            after = subtract(before, delta.kept_values(name), scale)
            if not torch.equal(flat[places].view(torch.uint8), after.view(torch.uint8)):
                raise MismatchError(
                    f"{name} is not what this delta makes of its base at scale {scale:g}: "
                    "undo needs the very file that was written, unchanged."
                )
            flat[places] = before
        yield name, weights


def _dense_parts(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    count = math.prod(shape)
    return [
        (name + MASK, (_mask_bytes(shape),), torch.uint8),
        (name + VALUES, (count,), dtype),
        (name + BASE, (count,), dtype),
    ]


def _mask_bytes(shape: tuple[int, ...]) -> int:
    """One bit an element, in whole words so that the values behind it are aligned."""
    return (math.prod(shape) + 63) // 64 * 8
