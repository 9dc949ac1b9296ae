"""Small networks on a CPU: one thread for each operation, and forward passes side by side, one on each core.

Threads that share an operation of a few microseconds cost more than they save: they wait for each other at each of a
pass's hundreds of operations. Whole passes share nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import nn

SMALL = 5_000_000
"""Weights below which a network's operations are too short to be shared between threads."""

MOST_LANES = 8
"""Passes side by side at most: beyond it they wait for the one interpreter that starts their operations."""

T = TypeVar("T")
R = TypeVar("R")


def is_small(network: nn.Module) -> bool:
    """Whether operations of this network are too short to be shared between threads.

    >>> is_small(nn.Linear(10, 10))
    True
    """
    return sum(weight.numel() for weight in network.parameters()) < SMALL


def lanes_of(network: nn.Module) -> int:
    """How many forward passes of a network on the CPU run side by side; 1 where their operations are shared instead."""
    return min(torch.get_num_threads(), MOST_LANES) if is_small(network) else 1


@contextmanager
def short_operations(network: nn.Module) -> Iterator[None]:
    """Within the block this thread shares no operation if the network is small: for steps, which follow each other."""
    threads = torch.get_num_threads()
    if is_small(network):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(work: Callable[[T], R], items: Sequence[T], lanes: int) -> list[R]:
    """`work` of every item, in order; in more than one lane each has a thread of its own, which shares no operation.

    Gradients and other modes of the calling thread do not hold there. An exception is the first item's that has one.

    >>> side_by_side(abs, [-1, 2], 2)
    [1, 2]
    """
    if lanes == 1:
        return [work(item) for item in items]
    return list(_threads(os.getpid(), lanes).map(work, items))


@cache
def _threads(process: int, lanes: int) -> ThreadPoolExecutor:
    """Threads that stay; a forked process has none of its parent's and makes its own."""
    shared, there = torch.get_num_threads(), Barrier(lanes + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question makes it what all others are, so it comes before
        torch.set_num_threads(1)
        there.wait()

    threads = ThreadPoolExecutor(lanes, "lane", initializer=begin)
    for _ in range(lanes):
        threads.submit(int)
    there.wait()
    torch.set_num_threads(shared)  # what a thread sets for itself is also what threads born later begin with
    return threads
