"""What each visitor chose last, so that what is still being worked out for an older choice can end."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

MOST = 512


class Visitors:
    """The latest choice of each visitor, over all pools; the longest silent are forgotten first.

    >>> visitors = Visitors()
    >>> visitors.chose("me", "a")
    >>> visitors.stands_at("me", "a"), visitors.stands_at("me", "b"), visitors.stands_at("unheard-of", "b")
    (True, False, True)
    """

    def __init__(self) -> None:
        self._latest: OrderedDict[str, Hashable] = OrderedDict()
        self._turn = threading.Lock()

    def chose(self, visitor: str, what: Hashable) -> None:
        """Take in that this visitor now wants this; None is nothing at all."""
        with self._turn:
            self._latest[visitor] = what
            self._latest.move_to_end(visitor)
            if len(self._latest) > MOST:
                self._latest.popitem(last=False)

    def stands_at(self, visitor: str, what: Hashable) -> bool:
        """Whether that is what this visitor wants, as far as anybody knows."""
        with self._turn:
            return self._latest.get(visitor, what) == what
