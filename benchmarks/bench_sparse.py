"""A model far larger than memory, made of holes on disk: how much memory its merge needs."""

from __future__ import annotations

import json
import struct
import tempfile
import time
from pathlib import Path

from benchmarks.bench_merge import peak_memory
from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging import unlearn
from negmerge_kit.types import Json

LIMIT_MB = 1000
"""What the merge may need above the level before."""


def bench(
    pool: object = None,
    *,
    gigabytes: float = 20,
    shards: int = 5,
    tensor_megabytes: float = 400,
    candidates: int = 1,
    folder: str | Path | None = None,
) -> Json:
    """Merge a sharded float32 base and candidates of its size, streamed tensor by tensor and dropped.

    The files are holes: every byte is read (as zero), none takes room on disk. `peak_mb` is anonymous memory above
    the level before. `pool` is not used. Raises ParameterError when there is not one tensor a shard.

    >>> row = bench(gigabytes=0.002, shards=2, tensor_megabytes=0.5)["rows"][0]
    >>> row["tensors"], row["gigabytes"]
    (4, 0.002)
    """
    elements = int(tensor_megabytes * 1e6) // 4
    each = round(gigabytes * 1e9 / shards / (4 * elements))
    if each < 1:
        raise ParameterError(f"{gigabytes:g} GB in {shards} shards leave no room for a tensor: give more gigabytes.")
    with tempfile.TemporaryDirectory(dir=folder, prefix="negmerge-bench-") as place:
        paths = [
            write_holes(Path(place) / str(number), shards=shards, tensors=each, elements=elements)
            for number in range(candidates + 1)
        ]
        started = time.perf_counter()
        peak = peak_memory(lambda: merge_all(paths))
    row = {
        "gigabytes": shards * each * 4 * elements / 1e9,
        "shards": shards,
        "tensors": shards * each,
        "largest_mb": 4 * elements / 1e6,
        "candidates": candidates,
        "seconds": time.perf_counter() - started,
        "peak_mb": peak / 1e6,
        "limit_mb": LIMIT_MB,
    }
    return {"rows": [row]}


def merge_all(paths: list[Path]) -> None:
    """Every tensor of the unlearned model, computed and dropped."""
    base, *candidates = map(open_checkpoint, paths)
    for item in unlearn(base, candidates, scale=1.0):
        del item  # as a writer would: its memory serves the next one


def write_holes(folder: Path, *, shards: int, tensors: int, elements: int) -> Path:
    """A sharded float32 checkpoint of zeros that takes no room on disk; the path of its index is returned."""
    folder.mkdir(parents=True)
    places: dict[str, str] = {}
    for shard in range(1, shards + 1):
        file = folder / f"model-{shard:05d}-of-{shards:05d}.safetensors"
        names = [f"{shard}.{number}" for number in range(tensors)]
        size = 4 * elements
        table = {
            name: {"dtype": "F32", "shape": [elements], "data_offsets": [k * size, (k + 1) * size]}
            for k, name in enumerate(names)
        }
        text = json.dumps(table).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as sink:
            sink.write(struct.pack("<Q", len(text)) + text)
            sink.truncate(8 + len(text) + tensors * size)
        places |= dict.fromkeys(names, file.name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index
