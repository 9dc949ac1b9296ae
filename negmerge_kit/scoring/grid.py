"""The scales that a search tries."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from math import isfinite

from negmerge_kit.errors import ParameterError

DEFAULT_SCALES = tuple(step / 20 for step in range(21))
"""0, 0.05 ... 1: the 21 points of the paper's code."""


def check_scale(scale: float) -> float:
    """The scale itself if it is a finite number of 0 or more.

    Raises:
        ParameterError: otherwise; scales are subtracted, so a negative one would teach instead.

    >>> check_scale(0.7)
    0.7
    """
    if not (isfinite(scale) and scale >= 0):
        raise ParameterError(f"scale is {scale}: give a finite number of 0 or more (it is always subtracted).")
    return float(scale)


def parse_scales(text: str) -> list[float]:
    """Scales from `start:stop:step` (stop included) or a comma-separated list.

    Steps are decimal, so 0:1:0.05 holds 0.15 and not 0.15000000000000002.

    Raises:
        ParameterError: if the text is neither; write 0:1:0.05 or 0.5,0.7,0.9.

    >>> parse_scales("0:0.2:0.05")
    [0.0, 0.05, 0.1, 0.15, 0.2]
    >>> parse_scales("0.5,0.7")
    [0.5, 0.7]
    """
    try:
        if ":" not in text:
            return [check_scale(float(part)) for part in text.split(",")]
        start, stop, step = (Decimal(part) for part in text.split(":"))
        if start > stop:
            raise ParameterError(f"scales '{text}' end before they start: write {stop}:{start}:{abs(step)}.")
        count = int((stop - start) / step) + 1
        if step <= 0 or not 1 <= count <= 10_001:
            raise ValueError(text)
    except (ValueError, ArithmeticError, InvalidOperation) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(
            f"scales '{text}' cannot be read: write START:STOP:STEP or a list such as 0.5,0.7."
        ) from None
    return [check_scale(float(start + step * index)) for index in range(count)]
