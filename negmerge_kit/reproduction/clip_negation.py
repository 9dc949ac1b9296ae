"""The paper's table of CLIP negation: what was published, what is measured here, row by row."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from negmerge_kit.comparison.greedy import best_single
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scoring.early_stopping import Point
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES, KEEP, ScaleSearch, outcome
from negmerge_kit.types import Json
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench

ROWS = {
    "base": "Pre-trained",
    "single": "Task arithmetic, best single candidate",
    "uniform": "Uniform merge",
    "ties": "TIES",
    "magmax": "MagMax",
    "negmerge": "NegMerge",
}
"""The rows of the paper's table, in its order."""

AS_PUBLISHED: dict[str, dict[str, Any]] = {"ties": {"trim_over": "all"}}
"""Parameters whose value in the papers' tables is not the default."""

RECORD = Path(__file__).parent / "published" / "clip_negation.json"


@dataclass(frozen=True)
class Published:
    """The published numbers of one architecture; empty for any other.

    >>> published = find_published("ViT-B-32-quickgelu/openai")
    >>> published.row("negmerge", "cars"), published.average("ties")["forget"]
    ({'scale': 0.9, 'forget': 0.274, 'retain': 0.6038}, 0.2621)
    >>> find_published("tiny").average("ties") is None
    True
    """

    sets: tuple[str, ...]
    numbers: Json = field(repr=False)
    sources: Json = field(repr=False)

    def row(self, row: str, name: str) -> Json | None:
        """`{"forget", "retain"}` on test of one row and data set, as far as it was published."""
        if row == "base":
            scores = self.numbers.get("zero_shot", {}).get("test", {})
            return {"forget": scores[name], "retain": scores["imagenet"]} if name in self.sets and scores else None
        found: Json | None = self.numbers.get("rows", {}).get(row, {}).get(name)
        return found

    def average(self, row: str) -> Json | None:
        """The same, averaged over all the paper's data sets."""
        found: Json | None = self.numbers.get("averages", {}).get(row)
        return found


def find_published(model: str, mode: str = "standard") -> Published:
    """The published numbers of a model's architecture, whatever its activation's name and its tag.

    Args:
        mode: of how its candidates are trained; the base answers alike in both.

    >>> find_published("ViT-B-32/openai", "linear").average("negmerge")
    {'forget': 0.0803}
    """
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    arch = model.partition("/")[0].removesuffix("-quickgelu")
    numbers = record["models"].get(arch, {})
    if mode == "linear":
        rows = record["linear"].get(arch, {})
        base = {row: numbers["averages"][row] for row in ("base",) if rows and "averages" in numbers}
        numbers = {name: numbers[name] for name in ("zero_shot",) if name in numbers} | rows
        numbers |= {"averages": base | rows["averages"]} if rows else {}
    return Published(tuple(record["sets"]), numbers, record["sources"])


def measure(
    bench: Workbench,
    published: Published,
    *,
    rows: Sequence[str] = tuple(ROWS),
    keep: float = KEEP,
    scales: Sequence[float] = DEFAULT_SCALES,
    on_row: ProgressFn = no_progress,
) -> Json:
    """One data set's part of the table: every row's scale chosen on validation, scored once on test.

    Searches and test scores are kept in the pool's folder, so that what was measured before is not measured again:
    "seconds" is the time that a row took in this call.

    Args:
        on_row: called with each row that comes next.
    """
    pool, name = bench.pool, bench.scene.sources[0].name
    measured = []
    for index, row in enumerate(rows):
        on_row(Progress(ROWS[row], step=index, total=len(rows)))
        started = time.perf_counter()
        choice, found, searches = _searched(bench, row, keep, scales)
        best = found.best if found else None
        at = 0.0 if row == "base" else (best.scale if best else None)
        test = None if at is None else bench.score(choice, at, "test").point(at)
        measured.append(
            {
                "row": row,
                "title": ROWS[row],
                "status": found.status if found else "ok",
                "params": {} if row in ("base", "single") else dict(choice.params),
                "scale": at,
                "validation": _pair(best if found else bench.base_scores("val").point(0.0)),
                "test": _pair(test),
                "published": published.row(row, name),
                "outcome": outcome(found) if found else None,
                "searches": searches,
                "merge_seconds": bench.merged(choice).seconds if row != "base" else 0.0,
                "seconds": time.perf_counter() - started,
            }
        )
    return {
        "data": name,
        "forget": bench.scene.forget,
        "retain": list(bench.scene.retain),
        "candidates": len(pool.distinct),
        "training_seconds": sum(entry.seconds for entry in pool.entries),
        "rows": measured,
    }


def averages(parts: Sequence[Json], published: Published) -> list[Json]:
    """Each row's mean over the data sets that have it, with the paper's mean over all of its.

    >>> part = {"data": "cars", "rows": [{"row": "base", "title": "Pre-trained", "test": {
    ...     "forget": {"value": 0.5}, "retain": {"value": 0.6}}}]}
    >>> averages([part], find_published("ViT-B-32/openai"))[0]["measured"]
    {'forget': 0.5, 'retain': 0.6, 'sets': ['cars']}
    """
    lines = []
    for row, title in ROWS.items():
        found = [(part["data"], line["test"]) for part in parts for line in part["rows"] if line["row"] == row]
        scored = [(name, test) for name, test in found if test]
        if not found:
            continue
        mean = {
            side: fmean(test[side]["value"] for _, test in scored) if scored else None for side in ("forget", "retain")
        }
        lines.append(
            {
                "row": row,
                "title": title,
                "measured": mean | {"sets": [name for name, _ in scored]},
                "published": published.average(row),
                "complete": {name for name, _ in scored} == set(published.sets),
            }
        )
    return lines


def _searched(
    bench: Workbench, row: str, keep: float, scales: Sequence[float]
) -> tuple[Choice, ScaleSearch | None, int]:
    """What a row subtracts, its scale search, and how many searches that took."""
    if row == "base":
        return bench.choose(), None, 0
    if row != "single":
        choice = bench.choose(rule=row, params=AS_PUBLISHED.get(row))
        return choice, bench.search(choice, keep=keep, scales=scales), 1

    def search(ids: tuple[str, ...]) -> ScaleSearch:
        # One candidate merged by any rule is itself; this is the choice that the sweep has searched already.
        return bench.search(bench.choose(ids), keep=keep, scales=scales)

    selection = best_single(bench.pool.distinct, search)
    return bench.choose(selection.candidates), selection.search, selection.searches


def _pair(point: Point | None) -> Json | None:
    if point is None or point.forget is None or point.retain is None:
        return None
    pair: dict[str, Any] = {"forget": point.forget.json(), "retain": point.retain.json()}
    return pair
