"""Measurements as aligned text."""

from __future__ import annotations

from collections.abc import Sequence

from negmerge_kit.types import Json


def table(rows: Sequence[Json]) -> str:
    """Rows of one shape as aligned columns, four digits a number.

    >>> print(table([{"who": "ours", "ms": 12.0}, {"who": "theirs", "ms": 130.0}]))
    who     ms
    ours    12
    theirs  130
    """
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(names))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
