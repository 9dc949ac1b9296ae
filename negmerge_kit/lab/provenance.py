"""What every kept result depends on besides its own inputs: our code, torch, the kind of device."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import torch

from negmerge_kit.types import Json

PACKAGE = Path(__file__).parents[1]


def made_with(device: torch.device) -> Json:
    """The common part of every "made from": what is kept under another one is computed anew.

    >>> sorted(made_with(torch.device("cpu")))
    ['code', 'device', 'torch']
    """
    return {"code": code_digest(), "torch": torch.__version__, "device": device.type}


def short_digest(made_from: Json) -> str:
    """16 hex digits that name the file of what was made from this.

    >>> short_digest({"a": 1, "b": 2}) == short_digest({"b": 2, "a": 1}) != short_digest({"a": 1, "b": 3})
    True
    """
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


@cache
def code_digest() -> str:
    """SHA-256 over the source of all that merges, trains and scores: a change of ours asks anew."""
    digest = hashlib.sha256()
    for room in ("merging", "scoring", "vision", "lab"):
        for file in sorted((PACKAGE / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
