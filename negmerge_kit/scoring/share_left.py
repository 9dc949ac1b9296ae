"""Share of the base's knowledge that is left: a number's position between a floor and the base's value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Leftover:
    """A position between a floor, 0, and the base, 1, with the 95 % interval of the number that was placed."""

    value: float
    low: float
    high: float


def share_left(found: tuple[float, float, float], *, floor: float, base: tuple[float, float, float]) -> Leftover | None:
    """(found - floor) / (base - floor), and the same of both ends of the interval of `found`; floor and base as given.

    0 is the value of a model that never knew, 1 that of the base. Numbers that
    knowledge raises, such as accuracy, and numbers that it lowers, such as the share of images that an attack calls
    never seen, are placed alike.

    Args:
        found, base: (value, low, high), fractions.

    Returns:
        None where the base's interval holds the floor: between them is nothing to be placed in.

    >>> share_left((0.709, 0.68, 0.736), floor=0.44, base=(0.821, 0.796, 0.843)).value
    0.7060367454068242
    >>> share_left((0.5, 0.4, 0.6), floor=0.1, base=(0.12, 0.08, 0.2))
    """
    at, low, high = base
    if low <= floor <= high:
        return None
    ends = sorted((end - floor) / (at - floor) for end in found[1:])
    return Leftover((found[0] - floor) / (at - floor), *ends)
