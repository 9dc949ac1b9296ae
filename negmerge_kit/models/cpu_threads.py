"""Small networks on a CPU: one thread for each operation, and parallel forward passes, one on each core.

Threads that share an operation of a few microseconds cost more than they save: they wait for each other at each of a
pass's hundreds of operations. Whole passes share nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")
R = TypeVar("R")

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


def side_by_side(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Apply `work` to the items on so many threads with single-threaded torch operations; yield results in order.

    Gradient and other modes of the calling thread do not apply there. An exception is raised at its item's place.

    >>> list(side_by_side(abs, [-1, 2], 2))
    [1, 2]
    """
    if threads == 1:
        yield from map(work, items)
        return
    pool = _threads(os.getpid(), threads)
    waiting: deque[Future[R]] = deque(pool.submit(work, item) for item in items)
    try:
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Thread pool of a process, kept for reuse; keyed by process id, because a fork loses its parent's threads."""
    shared, there = torch.get_num_threads(), Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first query initialises the thread's count, so it comes before
        torch.set_num_threads(1)
        there.wait()

    threads = ThreadPoolExecutor(count, "side by side", initializer=begin)
    for _ in range(count):
        threads.submit(int)
    there.wait()
    torch.set_num_threads(shared)  # a thread's setting is also the default of threads started later
    return threads
