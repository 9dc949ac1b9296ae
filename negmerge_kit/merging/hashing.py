"""Random numbers that belong to a place: the same for every chunking, device and order of the candidates."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def random_codes(seed: int, name: str, index: Tensor) -> Tensor:
    """One uniform number in [0, 2^32) for each element of the tensor `name`, as int64.

    A counter-based generator: two rounds of a 32-bit integer hash over the element's index, keyed by seed and name.
    Each round is a bijection, so the numbers of one tensor (below 2^32 elements) are all different.

    >>> codes = random_codes(0, "w", torch.arange(1000))
    >>> len(codes.unique()), bool((random_codes(0, "w", torch.arange(500, 1000)) == codes[500:]).all())
    (1000, True)
    """
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    first, second = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    word = (index ^ (index >> 32)) & WORD
    return _mixed(_mixed(word ^ first) ^ second)


def value_codes(seed: int, name: str, index: Tensor, values: Tensor) -> Tensor:
    """As `random_codes`, but also drawn from each element's value.

    Candidates then have independent numbers without being numbered, so their order does not matter.
    """
    bits = values.view(torch.int64) if values.dtype is torch.float64 else values.view(torch.int32).to(torch.int64)
    return _mixed(random_codes(seed, name, index) ^ ((bits ^ (bits >> 32)) & WORD))


def _mixed(word: Tensor) -> Tensor:
    # Multipliers and shifts of a published low-bias 32-bit hash ("prospector", public domain).
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & WORD
    word = word ^ (word >> 15)
    word = (word * 0x846CA68B) & WORD
    return word ^ (word >> 16)
