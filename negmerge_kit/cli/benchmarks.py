"""`negmerge bench`: measurements, each with its baseline from the same run."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from negmerge_kit.bench.table import table
from negmerge_kit.cli.flags import Parser, print_json
from negmerge_kit.types import Json

SUBJECTS = {
    "merge": "merging files: ours, the authors' loop, and reading alone",
    "sparse": "merging a base of 20 GB in shards, made of holes on disk: the memory it needs",
    "finetune": "fine-tuning: ours beside the authors' loop of workers that decode at every sight",
    "sweep": "what an executor costs: 16 jobs of 5 s one after another, in processes and on Ray",
    "slider": "a slider move: weights updated and images scored, and /score of a served app",
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
