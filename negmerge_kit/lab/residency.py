"""Where a pool's candidates live: on the device in float32, there in bfloat16, or on disk, by what fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from negmerge_kit.merging.alike import layout_of
from negmerge_kit.types import Weights

Residency = Literal["float32", "bfloat16", "streamed"]

SHARE = 0.8
"""Of the free memory, this much may be taken: forward passes need the rest."""
SPARE_DELTAS = 3
"""Merged deltas that must fit beside the candidates: the one shown, the next one, and room to merge it."""

TELLS: Mapping[Residency, str] = {
    "float32": "",
    "bfloat16": "sliders use changes rounded to bfloat16, because float32 does not fit on this device; searches, "
    "scores of whole splits and files are float32, read from disk",
    "streamed": "candidates are read from disk for every merge, because they do not fit on this device",
}


def residency(whole: int, halved: int, delta: int, free: int | None) -> Residency:
    """The best way that fits: everything as it is stored, changes in bfloat16, or read from disk for every merge.

    Args:
        whole: bytes of all candidates' moved tensors as they are stored.
        halved: bytes of the same as bfloat16 changes.
        delta: bytes of one merged delta.
        free: bytes that the device has left; None where nobody can say, as on the CPU, whose files are mapped anyway.

    >>> [residency(100, 50, 10, free) for free in (None, 200, 100, 50)]
    ['float32', 'float32', 'bfloat16', 'streamed']
    """
    if free is None:
        return "float32"
    room = SHARE * free - SPARE_DELTAS * delta
    if whole <= room:
        return "float32"
    return "bfloat16" if halved <= room and halved < whole else "streamed"


def free_memory(device: torch.device) -> int | None:
    """Bytes that tensors can still take on a device; None on the CPU."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None


def let_go(device: torch.device) -> None:
    """Give memory that no tensor uses any more back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class Rounded(dict[str, Tensor]):
    """The changes τ of the tensors that one candidate moved, in bfloat16: signs and zeros are float32's own.

    The exponent has float32's range, so that only moves below 1e-38 vanish; values keep eight bits.
    """

    holds_deltas = True


class Streamed(Mapping[str, Tensor]):
    """A candidate on disk: tensors that it did not move are the base's own objects, the others views of its file."""

    def __init__(self, base: Weights, weights: Weights, moved: frozenset[str]) -> None:
        self._base, self._weights, self._moved = base, weights, moved

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[name] if name in self._moved else self._base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def layout(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """The base's shapes and dtypes; without it every tensor would be read to say them."""
        return layout_of(self._base)
