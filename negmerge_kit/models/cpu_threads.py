"""Small networks on a CPU: one thread for each operation, and parallel forward passes, one on each core.

Threads that share an operation of a few microseconds cost more than they save: they wait for each other at each of a
pass's hundreds of operations. Whole passes share nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL = 5_000_000
"""Weights below which a network's operations are too short to be shared between threads."""

MOST_LANES = 8
"""Parallel passes at most: beyond it they wait for the one interpreter that starts their operations."""


def is_small(network: nn.Module) -> bool:
    """Whether operations of this network are too short to be shared between threads.

    >>> is_small(nn.Linear(10, 10))
    True
    """
    return sum(weight.numel() for weight in network.parameters()) < SMALL


def lanes_of(network: nn.Module) -> int:
    """Number of parallel forward passes of a network on the CPU; 1 where their operations are shared instead."""
    return min(torch.get_num_threads(), MOST_LANES) if is_small(network) else 1


@contextmanager
def short_operations(network: nn.Module) -> Iterator[None]:
    """Run this thread's operations on one core within the block if the network is small: for sequential steps."""
    threads = torch.get_num_threads()
    if is_small(network):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
