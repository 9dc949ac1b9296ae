"""Parallel work on a CPU: Python threads, one a core, each with single-threaded torch operations.

Operations of a few microseconds are slower on several threads, which wait for each other at every one.
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
    """Apply `work` to the items in parallel; yield results in order, computed at most `ahead` items in advance.

    Gradient and other modes of the calling thread do not apply there. An exception is raised at its item's place.

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
