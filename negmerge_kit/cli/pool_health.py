"""The health of candidates as the columns and warnings that `pool show` and `agreement` print."""

from __future__ import annotations

from collections.abc import Sequence

from negmerge_kit.types import Json

HEADS = f"{'norm':>9}{'x median':>10}{'cosine':>8}{'':5}"
EXPLAINED = "norm: length of the delta; x median: that in median norms; cosine: with the mean of the others"


def health_cells(row: Json | None) -> str:
    """A candidate's columns under `HEADS`; dashes for what is not known.

    >>> health_cells({"norm": 2.5, "times_median": 1.25, "cosine": 0.5, "odd": False})
    '      2.5      1.25    0.50     '
    """
    row = row or {"norm": None, "times_median": None, "cosine": None, "odd": False}
    numbers = (("norm", "9.3g"), ("times_median", "10.2f"), ("cosine", "8.2f"))
    cells = (
        f"{'-':>{form.partition('.')[0]}}" if row[name] is None else f"{row[name]:{form}}" for name, form in numbers
    )
    return f"{''.join(cells)}{'  odd' if row['odd'] else '':5}"


def print_warnings(rows: Sequence[Json], suggestion: str) -> None:
    """Print why each odd candidate is odd, and what that means for a merge."""
    for row in rows:
        if row["odd"]:
            print(f"warning: {row['why']}")
    if suggestion:
        print(suggestion)
