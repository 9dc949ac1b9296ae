"""Seeds derived from one seed for each use of it, and seeded dropout while a network trains."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from negmerge_kit.training.recipe import SEEDS


def derived_seed(seed: int, *use: str | int) -> int:
    """The seed of one use of a seed: 63 bits of SHA-256, so that no two uses draw the same numbers.

    >>> derived_seed(0, "retrained model") == derived_seed(0, "retrained model")
    True
    >>> len({derived_seed(seed, "shadow model", k) for seed in range(3) for k in range(4)})
    12
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *use))).encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEEDS


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """What torch draws inside, such as dropout masks, comes from the seed; afterwards its generators are restored.

    A block holds no `yield` to a caller, whose own draws would come from the seed too. Only the generators of the CPU
    and of this device are touched: `torch.manual_seed` would reseed every other GPU for good.

    >>> before = torch.get_rng_state()
    >>> with seeded(torch.device("cpu"), 3): first = torch.rand(2)
    >>> with seeded(torch.device("cpu"), 3): again = torch.rand(2)
    >>> torch.equal(first, again), torch.equal(before, torch.get_rng_state())
    (True, True)
    """
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
