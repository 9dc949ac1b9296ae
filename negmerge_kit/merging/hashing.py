"""Counter-based random numbers, one a place: the same for every chunking, device and order of the candidates."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def random_codes(seed: int, name: str, index: Tensor) -> Tensor:
    """One uniform number in [0, 2^32) for each element of the tensor `name`, as int64.

    A counter-based generator: the counter is the element's index i in the flattened tensor, the key is the 8-byte
    BLAKE2b digest of the text "SEED:NAME", read as two little-endian 32-bit words k1, k2. With i folded to 32 bits
    (i ⊕ i >> 32), the number is h(h(i ⊕ k1) ⊕ k2), where h is the 32-bit hash in `_mixed`. h is a bijection, so the
    numbers of one tensor (below 2^32 elements) are all different.

    >>> codes = random_codes(0, "w", torch.arange(1000))
    >>> len(codes.unique()), bool((random_codes(0, "w", torch.arange(500, 1000)) == codes[500:]).all())
    (1000, True)
    """
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    first, second = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    word = (index ^ (index >> 32)) & WORD
    return _mixed(_mixed(word ^ first) ^ second)


def value_codes(seed: int, name: str, index: Tensor, values: Tensor) -> Tensor:
    """Like `random_codes`, but also keyed by each element's value: h(random_codes ⊕ v).

    v is the bits of the float, sign-extended to 64 and folded to 32 (v ⊕ v >> 32). Candidates then have independent
    numbers without being numbered, so their order does not matter.
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
