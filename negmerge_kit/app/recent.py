"""A bounded memory that threads share: the longest unused entry goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `most` entries by key.

    >>> recent = Recent(2)
    >>> for name in "abac":
    ...     recent.put(name, name.upper())
    >>> recent.get("a"), recent.get("b")
    ('A', None)
    """

    def __init__(self, most: int) -> None:
        self._most, self._entries, self._turn = most, OrderedDict[K, V](), threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The entry of this key, if it is still there."""
        with self._turn:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Take in an entry."""
        with self._turn:
            self._entries[key] = value
            self._trim(key)

    def setdefault(self, key: K, make: Callable[[], V]) -> V:
        """The entry of this key, made where it is not there."""
        with self._turn:
            if key not in self._entries:
                self._entries[key] = make()
            self._trim(key)
            return self._entries[key]

    def clear(self) -> None:
        """Forget all."""
        with self._turn:
            self._entries.clear()

    def _trim(self, newest: K) -> None:
        self._entries.move_to_end(newest)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
