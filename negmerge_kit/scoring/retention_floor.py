"""How much retention must stay: one floor for all retain images, or each retain set's own."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, isfinite
from typing import TypeAlias

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.early_stopping import Least, Point

KEEP = 0.95
"""Share of the base's retention that the paper's protocol keeps."""

Keep: TypeAlias = float | Mapping[str, float]
"""Share of the base's retain accuracy to keep: pooled over all retain images, or each named set's own share."""


def check_keep(keep: Keep) -> Keep:
    """The share or shares themselves, if each is above 0 and at most 1.

    Raises:
        ParameterError: otherwise, or for no share at all.

    >>> check_keep({"shapes": 0.97})
    {'shapes': 0.97}
    """
    shares = dict(keep) if isinstance(keep, Mapping) else {"": keep}
    for name, share in shares.items():
        if not (isfinite(share) and 0.0 < share <= 1.0):
            where = f" for {name}" if name else ""
            raise ParameterError(f"keep is {share}{where}: give the share of retention to keep, above 0 and at most 1.")
    if not shares:
        raise ParameterError("keep names no retain set: give a share such as 0.95, or NAME=0.97,NAME=0.9.")
    return shares if isinstance(keep, Mapping) else float(keep)


def parse_keep(text: str) -> Keep:
    """A share, or NAME=SHARE,NAME=SHARE for floors of single retain sets.

    Raises:
        ParameterError: if the text is neither, a set is named twice, or a share is out of range.

    >>> parse_keep("0.95"), parse_keep("shapes=0.97,letters=0.9")
    (0.95, {'shapes': 0.97, 'letters': 0.9})
    """
    try:
        if "=" not in text:
            return check_keep(float(text))
        parts = [part.rpartition("=") for part in text.split(",")]
        shares = {name.strip(): float(share) for name, _, share in parts}
        if "" in shares or len(shares) < len(parts):
            raise ValueError(text)
    except ValueError as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"keep '{text}' cannot be read: write 0.95, or NAME=0.97,NAME=0.9.") from None
    return check_keep(shares)


def keep_text(keep: Keep) -> str:
    """The floor in words.

    >>> keep_text(0.95), keep_text({"shapes": 0.97})
    ("0.95 of the base's retention", "0.97 of the base's retention of shapes")
    """
    if not isinstance(keep, Mapping):
        return f"{keep:g} of the base's retention"
    return ", ".join(f"{share:g} of the base's retention of {name}" for name, share in keep.items())


def images_needed(keep: Keep, base: Point) -> Least:
    """How many retain images must be right: the smallest counts whose shares reach keep times the base's.

    Raises:
        ParameterError: for a set that the base was not scored on; the message lists the sets.
    """
    if not isinstance(keep, Mapping):
        assert base.retain is not None
        return _needed(keep, base.retain)
    if unknown := sorted(set(keep) - set(base.sets)):
        known = ", ".join(base.sets) or "none: this scorer does not tell its sets apart"
        raise ParameterError(f"there is no retain set '{unknown[0]}': choose among {known}.")
    return {name: _needed(share, base.sets[name]) for name, share in keep.items()}


def reaches(point: Point, least: Least) -> bool:
    """Whether a point was scored in full and meets every floor."""
    if point.stopped is not None or point.retain is None:
        return False
    if not isinstance(least, Mapping):
        return point.retain.correct >= least
    return all(point.sets[name].correct >= needed for name, needed in least.items())


def _needed(keep: float, base: Accuracy) -> int:
    """Smallest count whose share reaches keep times the base's share (the comparison that select_scale makes)."""
    floor = keep * base.value
    count = max(0, ceil(floor * base.n) - 1)
    while count / base.n < floor:
        count += 1
    return count
