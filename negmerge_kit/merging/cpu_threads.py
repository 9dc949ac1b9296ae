"""Work side by side on a CPU: Python threads, one a core, in which torch shares no operation between cores.

Operations of a few microseconds cost more shared than alone: their threads wait for each other at every one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Iterable[T], threads: int, *, ahead: int | None = None) -> Iterator[R]:
    """`work` of every item, in order; it is done for at most `ahead` items before their results are asked for.

    Gradients and other modes of the calling thread do not hold there. An exception is raised at its item's place.

    >>> list(side_by_side(abs, [-1, 2], 2))
    [1, 2]
    """
    if threads == 1:
        yield from map(work, items)
        return
    pool = _threads(os.getpid(), threads)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            while ahead is not None and len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Threads that stay; a forked process has none of its parent's and makes its own."""
    shared, there = torch.get_num_threads(), Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question makes it what all others are, so it comes before
        torch.set_num_threads(1)
        there.wait()

    threads = ThreadPoolExecutor(count, "side by side", initializer=begin)
    for _ in range(count):
        threads.submit(int)
    there.wait()
    torch.set_num_threads(shared)  # what a thread sets for itself is also what threads born later begin with
    return threads
