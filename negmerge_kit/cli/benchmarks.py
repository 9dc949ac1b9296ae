"""`negmerge bench`: measurements, each with its baseline from the same run."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from negmerge_kit.cli.flags import Parser, print_json
from negmerge_kit.types import Json

SUBJECTS = {
    "merge": "merging files: ours, the authors' loop, and reading alone",
    "slider": "a slider move: to new numbers and curve marker, on the page's handler and over HTTP",
}


def bench(arguments: list[str]) -> int:
    """Measure one subject, or all of them."""
    parser = Parser("bench", "; ".join(f"{name}: {text}" for name, text in SUBJECTS.items()))
    parser.add_argument("subject", choices=[*SUBJECTS, "all"])
    parser.add_argument("--pool", type=Path, metavar="POOL", help="pool for `slider` (default: the embedded scene's)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    subjects = list(SUBJECTS) if options.subject == "all" else [options.subject]
    results: Json = {name: import_module(f"negmerge_kit.bench.{name}").bench(options.pool) for name in subjects}
    if options.json:
        print_json(results if options.subject == "all" else results[options.subject])
        return 0
    for name, result in results.items():
        print(f"{name}: {SUBJECTS[name]}")
        print(table(result["rows"]))
    return 0


def table(rows: list[Json]) -> str:
    """Rows of one shape as aligned columns.

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
