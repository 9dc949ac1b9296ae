"""`negmerge bench`: measurements, each with its baseline from the same run."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path

from negmerge_kit.bench.table import table
from negmerge_kit.cli.flags import Parser, print_json
from negmerge_kit.errors import ParameterError
from negmerge_kit.types import Json

SUBJECTS = {
    "merge": "merging files: ours, the authors' loop, and reading alone",
    "sparse": "merging a base of 20 GB in shards, made of holes on disk: the memory it needs",
    "search": "the scale search: ours beside the authors' way, which decodes and builds anew at every scale",
    "finetune": "fine-tuning: ours beside the authors' loop of workers that decode at every sight",
    "classifier": "training ResNet-18 on images of 32 x 32: ours beside a plain torchvision loader",
    "sweep": "what an executor costs: 16 jobs of 5 s one after another, in processes and on Ray",
    "users": "visitors at once over HTTP: errors, waiting, everyone's own numbers, memory afterwards",
    "slider": "a slider move: weights updated and images scored, and /score of a served app",
}

GIVEN = ("model", "images", "device", "workers", "users", "seconds")


def bench(arguments: list[str]) -> int:
    """Measure one subject, or all of them."""
    parser = Parser("bench", "; ".join(f"{name}: {text}" for name, text in SUBJECTS.items()))
    parser.add_argument("subject", choices=[*SUBJECTS, "all"])
    parser.add_argument("--pool", type=Path, metavar="POOL", help="for `slider` and `search` (default: embedded)")
    parser.add_argument(
        "--model", metavar="ARCH", help="open_clip architecture with random weights, for `search` and `slider`"
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="how many pictures, for all but `merge`, `sparse` and `sweep`"
    )
    parser.add_argument("--device", help="auto, cpu, cuda or mps, for all but `merge`, `sparse` and `sweep`")
    parser.add_argument("--workers", type=int, metavar="N", help="the authors' loader processes, as for --images")
    parser.add_argument("--users", type=int, metavar="N", help="how many visitors, for `users` (default: 20)")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long they stay, for `users` (default: 120)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    subjects = list(SUBJECTS) if options.subject == "all" else [options.subject]
    given = {name: getattr(options, name) for name in GIVEN}
    results: Json = {name: _measure(name, options.pool, given) for name in subjects}
    if options.json:
        print_json(results if options.subject == "all" else results[options.subject])
        return 0
    for name, result in results.items():
        print(f"{name}: {SUBJECTS[name]}")
        print(table(result["rows"]))
        if "checks" in result:
            print(table(result["checks"]))
    return 0


def _measure(subject: str, pool: Path | None, given: Json) -> Json:
    measure = import_module(f"negmerge_kit.bench.{subject}").bench
    settings = {name: value for name, value in given.items() if value is not None}
    if strange := sorted(settings.keys() - signature(measure).parameters):
        raise ParameterError(f"`bench {subject}` takes no --{strange[0]}: leave it out.")
    result: Json = measure(pool, **settings)
    return result
