"""Peak anonymous memory of a streamed merge, each measured in a process of its own above the level after imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells anonymous memory"),
]

TO_FILE = """
import sys
from pathlib import Path
import negmerge_kit
import torch
from benchmarks.bench_merge import peak_memory
from benchmarks.bench_sparse import write_holes
from negmerge_kit.checkpoints.merge_files import merge_files
folder, candidates = Path(sys.argv[1]), int(sys.argv[2])
paths = [write_holes(folder / str(k), shards=2, tensors=2, elements=4_000_000) for k in range(candidates + 1)]
# A candidate of zeros is the base itself, and refused: one element of each is set.
for k, index in enumerate(paths[1:], start=1):
    with next(index.parent.glob("*.safetensors")).open("r+b") as file:
        file.seek(-k, 2)
        file.write(b"\\x01")
torch.ones(1).sum()
print(peak_memory(lambda: merge_files(paths[0], paths[1:], out=folder / "out.safetensors")) / 1e6)
"""
SPARSE = """
import negmerge_kit
import torch
from benchmarks.bench_sparse import bench
torch.ones(1).sum()
import json, sys
row = bench(gigabytes=2, shards=5, tensor_megabytes=400, folder=sys.argv[1])["rows"][0]
print(json.dumps(row))
"""


def told(code: str, *words: object) -> str:
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_streaming_to_a_file_needs_one_tensor_and_a_little_whatever_the_number_of_candidates(tmp_path):
    """The bound is 300 MB and the largest tensor (16 MB here; thirty candidates hold 2 GB)."""
    peaks = []
    for candidates in (3, 30):
        (tmp_path / str(candidates)).mkdir()
        peaks.append(float(told(TO_FILE, tmp_path / str(candidates), candidates)))
    assert all(10 < peak <= 300 + 16 for peak in peaks), peaks
    assert abs(peaks[1] - peaks[0]) < 80, peaks


def test_a_sharded_model_of_holes_merges_in_less_memory_than_it_has(tmp_path):
    """2 GB in five shards and as large a candidate, in tensors of 400 MB as `python -m benchmarks sparse` has at 20 GB.

    Memory goes with the largest tensor, not with the model: the bound of 1 GB is the one for 20 GB.
    """
    row = json.loads(told(SPARSE, tmp_path))
    assert row["gigabytes"] == pytest.approx(2) and row["tensors"] == row["shards"] == 5 and row["largest_mb"] == 400
    assert 400 < row["peak_mb"] <= row["limit_mb"] == 1000
    assert not list(tmp_path.iterdir())
