"""Checkpoints as mappings: opened lazily, mapped from disk, never unpickled, never written to."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.checkpoints.header import OUR_KEY, Entry, read_header
from negmerge_kit.checkpoints.hub import fetch, is_hub_id
from negmerge_kit.checkpoints.shard_index import INDEX, shard_names, weight_map
from negmerge_kit.errors import CheckpointError
from negmerge_kit.safe_json import check_regular, parse_json


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of one or several safetensors files, read when they are asked for.

    `checkpoint[name]` is a copy that is the caller's to change. `checkpoint.view(name)` shows the mapped file without
    a copy: to be read, not written. (Should someone write into it all the same, the mapping is private: the file on
    disk never changes.) `layout()` gives shapes and dtypes from the headers alone.
    """

    def __init__(self, path: Path, files: tuple[Path, ...], *, prefix: str = "", index: Path | None = None) -> None:
        self.path = path
        self.files = files
        self.index = index
        self.raw_metadata: dict[str, str] = {}
        self._entries: dict[str, tuple[Path, Entry]] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        for file in files:
            header = read_header(file)
            self.raw_metadata |= header.metadata
            for name, entry in header.entries.items():
                if name in self._entries:
                    raise CheckpointError(
                        f"{name} is in both {self._entries[name][0]} and {file}: "
                        "a tensor belongs to one shard. Save or download the checkpoint again."
                    )
                self._entries[name] = file, entry
        self._checked_against_index()
        if prefix:
            chosen = {
                name.removeprefix(prefix): place
                for name, place in self._entries.items()
                if name.startswith(prefix) and name != prefix
            }
            if not chosen:
                raise CheckpointError(
                    f"no tensor of {path} starts with {prefix!r}: it has {', '.join(list(self._entries)[:3])}, …"
                )
            self._entries = chosen

    def __getitem__(self, name: str) -> Tensor:
        return self.view(name).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path}: {len(self)} tensors>"

    def layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name to shape and dtype, from the headers."""
        return {name: (entry.shape, entry.dtype) for name, (_, entry) in self._entries.items()}

    def view(self, name: str) -> Tensor:
        """The tensor as it lies in the mapped file, without a copy: read it, never write to it."""
        file, entry = self._entries[name]
        if entry.nbytes == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        mapped = self._map(file)
        count = entry.nbytes // entry.dtype.itemsize
        if entry.start % entry.dtype.itemsize:  # legal in the format, but not every kernel reads across words
            part = torch.frombuffer(mapped, dtype=torch.uint8, count=entry.nbytes, offset=entry.start)
            return part.clone().view(entry.dtype).reshape(entry.shape)
        return torch.frombuffer(mapped, dtype=entry.dtype, count=count, offset=entry.start).reshape(entry.shape)

    def renamed(self, names: Mapping[str, str]) -> Checkpoint:
        """The same files under other names: each new name to one of this checkpoint's own; others are left out.

        Two names may show one tensor, as tied weights do.
        """
        other = copy(self)
        other._entries = {name: self._entries[own] for name, own in names.items()}
        return other

    def shards(self) -> dict[str, tuple[str, ...]]:
        """File name to the names of its tensors, in the order of the files."""
        table: dict[str, list[str]] = {file.name: [] for file in self.files}
        for name, (file, _) in self._entries.items():
            table[file.name].append(name)
        return {file: tuple(names) for file, names in table.items()}

    @property
    def metadata(self) -> dict[str, Any]:
        """What this package recorded when it wrote the file; empty for foreign files."""
        try:
            record = parse_json(self.raw_metadata.get(OUR_KEY, "{}"))
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            self._maps[file] = map_file(file)
        return self._maps[file]

    def _checked_against_index(self) -> None:
        if self.index is None:
            return
        listed = weight_map(self.index)
        found = {name: file.name for name, (file, _) in self._entries.items()}
        wrong = [name for name in {**listed, **found} if listed.get(name) != found.get(name)]
        if wrong:
            name = wrong[0]
            raise CheckpointError(
                f"{self.index} does not fit its shards at {len(wrong)} tensor{'s' if len(wrong) > 1 else ''}: it puts "
                f"{name} in {listed.get(name, 'no file')}, which lies in {found.get(name, 'no file')}. "
                "Download the checkpoint again."
            )


def open_checkpoint(path: str | Path, *, prefix: str = "") -> Checkpoint:
    """Open a safetensors file, or a sharded checkpoint by its index.json or its folder, as a lazy mapping.

    `hf:OWNER/NAME@COMMIT` is a repository on the Hub at one commit, downloaded once.

    Nothing is unpickled and no tensor is read before it is asked for. With `prefix` only the names that start with
    it are shown, without it: `prefix="visual."` of a CLIP is its image tower.

    Raises CheckpointError for a file that is missing, truncated, pickled, or not what its header says; the message
    names the file and the remedy.

    >>> import tempfile
    >>> from negmerge_kit.checkpoints import save_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     weights = {"visual.proj": torch.eye(2)}
    ...     file = save_checkpoint(Path(folder) / "model.safetensors", weights.items(), like=weights)
    ...     open_checkpoint(file, prefix="visual.")["proj"]
    tensor([[1., 0.],
            [0., 1.]])
    """
    path = fetch(str(path)) if is_hub_id(str(path)) else Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if path.name.endswith(INDEX):
        shards = tuple(path.parent / name for name in shard_names(path))
        return Checkpoint(path, shards, prefix=prefix, index=path)
    return Checkpoint(path, (path,), prefix=prefix)


def _in_folder(folder: Path) -> Path:
    for name in (f"model{INDEX}", "model.safetensors"):
        if (folder / name).exists():
            return folder / name
    for pattern in (f"*{INDEX}", "*.safetensors"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(f"{folder} holds several checkpoints: name one, such as {found[0].name}.")
    raise CheckpointError(
        f"{folder} holds no safetensors file: give a file, or convert old ones with `negmerge convert`."
    )


def map_file(path: Path) -> mmap.mmap:
    """A file's bytes, mapped; writing into them changes no file. A 30 GB file does not count as memory in use.

    Raises:
        CheckpointError: if there is no such file, or it is empty or no plain file.
    """
    try:
        with check_regular(path).open("rb") as file:
            if not hasattr(mmap, "MAP_NORESERVE"):
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            flags, access = mmap.MAP_PRIVATE | mmap.MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=access)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: check the path.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Check the path.") from error
