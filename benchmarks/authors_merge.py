"""NegMerge as the authors' script does it, saving included.

python benchmarks/authors_merge.py BASE CANDIDATE… OUT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def authors_loop(files: Sequence[str | Path]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The base and the merged task vector: whole task vectors in dicts, one candidate after another."""
    base = load_file(files[0])
    total: dict[str, Any] = {}
    signs: dict[str, Any] = {}
    for file in files[1:]:
        candidate = load_file(file)
        vector = {name: candidate[name] - base[name] for name in base}
        total = {name: total.get(name, 0) + vector[name] for name in vector}
        signs = {name: signs.get(name, 0) + torch.sign(vector[name]) for name in vector}
    n = len(files) - 1
    merged = {
        name: torch.where(signs[name].abs() == n, total[name] / n, torch.zeros_like(total[name])) for name in total
    }
    return base, merged


if __name__ == "__main__":
    *inputs, out = sys.argv[1:]
    weights, delta = authors_loop(inputs)
    save_file({name: weights[name] - delta[name] for name in weights}, out)
