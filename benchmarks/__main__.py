"""Measurements of the kit, each with its baseline from the same run.

    python -m benchmarks SUBJECT [--json]

Run it in a checkout of the repository; `--help` lists the subjects and the options of each.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path

from benchmarks.table import table
from negmerge_kit.cli.options import Parser, print_json
from negmerge_kit.cli.signals import exit_code, heeding
from negmerge_kit.cli.terminal import plain_terminal
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.sweeps.malloc import keep_freed_memory
from negmerge_kit.types import Json

PROGRAM = "python -m benchmarks"

SUBJECTS = {
    "merge": "merging files: ours, the authors' loop, and reading alone",
    "sparse": "merging a base of 20 GB in shards, made of holes on disk: the memory it needs",
    "search": "the scale search: ours and the authors' way, which decodes and builds again at every scale",
    "finetune": "fine-tuning: ours and the authors' loop of workers that decode at every sight",
    "classifier": "training ResNet-20, on a GPU ResNet-18, on images of 32 x 32: ours and a plain torchvision loader",
    "sweep": "what an executor costs: 16 jobs of 5 s one after another, in processes and on Ray",
    "users": "visitors at once over HTTP: errors, waiting, everyone's own numbers, memory afterwards",
    "slider": "a slider move: weights updated and images scored, and /score of a served app",
}

GIVEN = ("model", "images", "device", "workers", "users", "seconds", "sizes", "counts", "former", "repeats")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one subject; returns the exit code: 0 done, 2 wrong input, 130 and 143 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with plain_terminal():
        try:
            with heeding(signal.SIGTERM):
                return _main(words)
        except NegmergeError as error:
            print(f"{PROGRAM}: {error}", file=sys.stderr)
            return 2
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith(("negmerge_kit", "benchmarks")):
                raise
            print(f"{PROGRAM}: {error.name} is not installed: `make setup` brings it.", file=sys.stderr)
            return 2
        except KeyboardInterrupt as interrupt:
            print(f"{PROGRAM}: stopped.", file=sys.stderr)
            return exit_code(interrupt)


def _main(words: list[str]) -> int:
    parser = Parser("", "; ".join(f"{name}: {text}" for name, text in SUBJECTS.items()))
    parser.prog = PROGRAM
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
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="parameters of a model, for `merge`")
    parser.add_argument("--counts", type=int, nargs="+", metavar="N", help="how many candidates, for `merge`")
    parser.add_argument("--former", metavar="TREE", help="checkout of another version, measured too, for `merge`")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns of each way, for `merge` (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(words)
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
    measure = import_module(f"benchmarks.bench_{subject}").bench
    settings = {name: value for name, value in given.items() if value is not None}
    if strange := sorted(settings.keys() - signature(measure).parameters):
        raise ParameterError(f"`{subject}` takes no --{strange[0]}: leave it out.")
    result: Json = measure(pool, **settings)
    return result


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
