"""Results on disk by what they were made from: looked up by a key of plain values, absent where anything differs.

    FOLDER/<kind>-<digest of key>.json             {"made_from": key, "value": any JSON}
    FOLDER/<kind>-<digest of key>.safetensors      named tensors; the metadata have made_from

A key is a mapping of plain JSON values with all that decides the result: file hashes, settings, and
`made_with(device)` where a model has answered. Order of its entries does not matter; 1 and 1.0 differ.

    store = ResultStore(pool.folder / "searches")
    points = store.get("points", key)              # the value, or None
    store.put("points", key, points)               # True; False where the folder cannot be written
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.errors import CheckpointError, MismatchError
from negmerge_kit.safe_json import read_json
from negmerge_kit.types import Json, Weights

KEY = "made_from"
"""The entry of every record, and of the metadata of tensors, that holds the whole key."""


def digest(values: Any) -> str:
    """Return the SHA-256 of plain JSON values in hex; the order of a mapping's entries does not matter.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have; TypeError for what is no plain value.

    >>> digest({"a": 0.5, "b": None}) == digest({"b": None, "a": 0.5}) != digest({"a": 0.5})
    True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()


class ResultStore:
    """Read and write results in one folder, which is made in an existing one when the first of them is written.

    Files are written whole or not at all, so any number of processes may share a folder: of two that write the same
    key, the later one's file stays. A file that is damaged, foreign or made from another key counts as absent.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = ResultStore(folder)
    ...     store.put("row", {"rule": "negmerge", "keep": 0.95}, [1, 2.5])
    ...     store.get("row", {"keep": 0.95, "rule": "negmerge"}), store.get("row", {"keep": 0.9, "rule": "negmerge"})
    True
    ([1, 2.5], None)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, kind: str, key: Json, suffix: str = ".json") -> Path:
        """Return the file of a result, whether it is there or not; tensors have the suffix `.safetensors`."""
        return self.folder / f"{kind}-{digest(key)[:16]}{suffix}"

    def get(self, kind: str, key: Json) -> Any:
        """Return the JSON value that was put under this key, or None."""
        try:
            record = read_json(self.path(kind, key), dict)
        except (OSError, ValueError):
            return None
        return record.get("value") if _same(record.get(KEY), key) else None

    def put(self, kind: str, key: Json, value: Any) -> bool:
        """Write a JSON value under this key; return whether it is on disk.

        Raises:
            ValueError: for NaN and infinity, TypeError for what is no plain value.
        """
        text = json.dumps({KEY: key, "value": value}, indent=1, allow_nan=False)
        try:
            self.folder.mkdir(exist_ok=True)
            with atomic_file(self.path(kind, key)) as file:
                file.write(text.encode())
        except (OSError, CheckpointError):  # a read-only or full disk: the caller goes on with what it has in memory
            return False
        return True

    def get_tensors(self, kind: str, key: Json) -> Checkpoint | None:
        """Return the tensors that were put under this key, read when they are asked for, or None."""
        try:
            found = open_checkpoint(self.path(kind, key, ".safetensors"))
        except CheckpointError:
            return None
        return found if _same(found.metadata.get(KEY), key) else None

    def put_tensors(
        self, kind: str, key: Json, tensors: Weights, *, like: Weights | None = None, metadata: Json | None = None
    ) -> bool:
        """Write named tensors under this key; return whether they are on disk.

        Args:
            like: weights whose names, shapes and dtypes the tensors must have, as `save_checkpoint` checks them.
            metadata: plain values to be written along, found again in `get_tensors(…).metadata`.

        Raises:
            MismatchError: if the tensors are not like `like`.
        """
        path = self.path(kind, key, ".safetensors")
        record = {**(metadata or {}), KEY: key}
        try:
            self.folder.mkdir(exist_ok=True)
            save_checkpoint(path, tensors.items(), like=tensors if like is None else like, metadata=record)
        except MismatchError:
            raise
        except (OSError, CheckpointError):
            return False
        return True


def _same(made_from: Any, key: Json) -> bool:
    """Whether a record was made from this key; tuples come back as lists."""
    return isinstance(made_from, dict) and digest(made_from) == digest(key)


RESULTS_VERSION = 1
"""Raise it with every change after which a merge, a score, a search or a training can give another number, or a kept
result has other entries.

Results that pools keep from before are then computed again. A change of wording or speed leaves it as it is.
`tests/pools/test_results_version.py` fails where numbers changed and this did not.
"""


def made_with(device: torch.device) -> Json:
    """Return the environment part of a result's key: results version, torch version, device type.

    >>> sorted(made_with(torch.device("cpu")))
    ['device', 'results', 'torch']
    """
    return {"results": RESULTS_VERSION, "torch": torch.__version__, "device": device.type}
