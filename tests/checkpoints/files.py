"""Files for the tests: raw headers, and checkpoints cut into shards."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from safetensors.torch import save_file


def write_raw(path: Path, table, body: bytes) -> Path:
    text = (table if isinstance(table, str) else json.dumps(table)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def sharded(folder: Path, weights, count: int, stem: str = "model") -> Path:
    """The weights dealt out over `count` files with the usual index, whose path is returned."""
    names = list(weights)
    weight_map = {}
    for k in range(count):
        file = f"{stem}-{k + 1:05d}-of-{count:05d}.safetensors"
        save_file({name: weights[name].contiguous() for name in names[k::count]}, folder / file)
        weight_map |= dict.fromkeys(names[k::count], file)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index
