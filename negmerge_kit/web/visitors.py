"""What each visitor chose last, so that what is still being worked out for an older choice can end, and is not shown.

Requests of one page can overtake each other: a first merge takes a second, the move after it a tenth. The page numbers
them as it sends them, and an answer that a later request has overtaken is left out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

MOST = 512
LAST = 1 << 53
"""The largest number that a page's script counts to."""


class _Anything:
    """Stands for whatever a visitor of whom nothing is known may want."""


@dataclass
class _Visitor:
    wants: object = _Anything
    chose: int = 0
    asked: int = 0


class Visitors:
    """The latest choice of each visitor, over all pools; the longest silent are forgotten first.

    >>> visitors = Visitors()
    >>> visitors.chose("me", "a")
    >>> visitors.stands_at("me", "a"), visitors.stands_at("me", "b"), visitors.stands_at("unheard-of", "b")
    (True, False, True)
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Visitor] = OrderedDict()
        self._turn = threading.Lock()

    def asked(self, visitor: str, number: object, *, chooses: bool) -> None:
        """Take in that the visitor's page sent a request of this number, for another choice or within the one it had.

        >>> visitors = Visitors()
        >>> visitors.asked("me", 2, chooses=True)
        >>> visitors.overtaken("me", 1), visitors.overtaken("me", 2), visitors.overtaken("me", 1, by_choice=True)
        (True, False, True)
        """
        with self._turn:
            known = self._of(visitor)
            known.asked = max(known.asked, _counted(number))
            if chooses:
                known.chose = max(known.chose, _counted(number))

    def overtaken(self, visitor: str, number: object, *, by_choice: bool = False) -> bool:
        """Whether a later request of that page, or a later choice, has arrived; one without a number never is."""
        with self._turn:
            known, number = self._of(visitor), _counted(number)
            return 0 < number < (known.chose if by_choice else known.asked)

    def chose(self, visitor: str, what: object, number: object = 0) -> None:
        """Take in that this visitor now wants this, unless a later choice has arrived; None is nothing at all."""
        with self._turn:
            known = self._of(visitor)
            if not 0 < _counted(number) < known.chose:
                known.wants = what

    def turned(self, visitor: str, what: object, number: object) -> None:
        """Take in a choice where it is the request of this number that makes it: `asked` and `chose` in one.

        >>> visitors = Visitors()
        >>> visitors.turned("me", "b", 2)
        >>> visitors.turned("me", "a", 1)
        >>> visitors.stands_at("me", "b"), visitors.overtaken("me", 1)
        (True, True)
        """
        self.asked(visitor, number, chooses=True)
        self.chose(visitor, what, number)

    def stands_at(self, visitor: str, what: object) -> bool:
        """Whether that is what this visitor wants, as far as anybody knows."""
        with self._turn:
            wants = self._of(visitor).wants
            return wants is _Anything or wants == what

    def _of(self, visitor: str) -> _Visitor:
        known = self._known.setdefault(visitor, _Visitor())
        self._known.move_to_end(visitor)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return known


def _counted(number: object) -> int:
    """The number of a request; 0 for what is none, which scripts may send."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= LAST:
        return 0
    return int(number)
