"""`negmerge reproduce clip-negation | cifar10-random`: the papers' tables next to ones measured here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.options import (
    Parser,
    add_executor_flags,
    add_gone_flag,
    add_training_flags,
    percent,
    print_json,
    seconds,
)
from negmerge_kit.cli.reproduce_random import TABLE, check_result, reproduce_random, write_result
from negmerge_kit.cli.sweep import begin_pool, executor_of, fill
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.progress import Progress
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from negmerge_kit.scoring.scale_search import BISECT_GONE
from negmerge_kit.types import MODES, Json

if TYPE_CHECKING:
    from negmerge_kit.reproduction.clip_negation import Published

TABLES = ("clip-negation", TABLE)
GRIDS = {"standard": "paper-randaugment", "linear": "paper-randaugment-linear"}
"""The published pools."""


def reproduce(arguments: list[str]) -> int:
    """Fine-tune, search and score every row of a published table; goes on where it was stopped."""
    if TABLE in arguments:
        return reproduce_random([word for word in arguments if word != TABLE])
    parser = Parser("reproduce", "Measure a published table again; goes on where it was stopped.")
    parser.add_argument(
        "table",
        choices=TABLES,
        help="clip-negation: forget one data set, keep a control; "
        "`negmerge reproduce cifar10-random --help` tells the options of that one",
    )
    parser.add_argument(
        "--model", default="ViT-B-32/openai", metavar="ARCH/TAG", help="or ARCH/FILE; default %(default)s"
    )
    parser.add_argument(
        "--datasets", default="all", metavar="DATA,DATA", help="what to forget, in turn (default all 8)"
    )
    parser.add_argument("--control", default="imagenet", metavar="DATA", help="what to keep (default %(default)s)")
    parser.add_argument(
        "--mode", default="standard", choices=MODES, help="how candidates are trained (default %(default)s)"
    )
    parser.add_argument(
        "--grid", metavar="GRID", help="candidates; default paper-randaugment, or paper-randaugment-linear"
    )
    parser.add_argument(
        "--rows", default="all", metavar="ROW,ROW", help="base, single, uniform, ties, magmax, negmerge"
    )
    parser.add_argument("--keep", type=float, default=0.95, help="share of the control to keep (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reproduction"), metavar="DIR", help="pools and results")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    add_gone_flag(parser, "--bisect", BISECT_GONE)
    parser.add_argument("--dry-run", action="store_true", help="tell downloads, GPU hours and disk; do nothing")
    parser.add_argument("--tflops", type=float, default=None, metavar="X", help="what the GPU sustains, for --dry-run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_executor_flags(parser)
    add_training_flags(parser)
    options = parser.parse_args(arguments)
    options.grid = options.grid or GRIDS[options.mode]

    from negmerge_kit.data import find_data
    from negmerge_kit.models.model_spec import find_model
    from negmerge_kit.reproduction.clip_negation import ROWS, averages, find_published, measure
    from negmerge_kit.scoring.retention_floor import check_keep
    from negmerge_kit.sweeps.finetune_job import pool_order
    from negmerge_kit.training.recipe import grid, grid_of
    from negmerge_kit.unlearning.workbench import Workbench

    # A misspelt value raises here, before hours are spent.
    spec, published = find_model(options.model), find_published(str(find_model(options.model)), options.mode)
    texts = list(published.sets) if options.datasets == "all" else _names(options.datasets)
    rows = list(ROWS) if options.rows == "all" else _names(options.rows)
    if unknown := [row for row in rows if row not in ROWS]:
        raise ParameterError(f"there is no row '{unknown[0]}': choose among {', '.join(ROWS)}.")
    executor, _, keep = executor_of(options), grid(options.grid, mode=options.mode), check_keep(options.keep)
    assert isinstance(keep, float)
    sources = [find_data(text) for text in texts]
    if len({source.name for source in sources}) < len(sources):
        raise ParameterError(f"--datasets names one set twice: {options.datasets}.")
    if options.dry_run:
        return _dry_run(options, texts, rows)

    # Linear candidates have their own pools and their own table.
    suffix = "" if options.mode == "standard" else f"-{options.mode}"
    path = options.out / f"{options.table}{suffix}.json"
    check_result(path)
    parts: list[Json] = []
    for text, source in zip(texts, sources, strict=True):
        name = f"{source.name} from {spec}{suffix and ', ' + options.mode}"
        scene = ZeroShotScene(name, spec.as_json(), text, (options.control,), options.mode)
        store, damaged = begin_pool(scene, options.out / f"{source.name}{suffix}", options.device)
        recipes = grid_of(store.scene, options.grid, options.precision)
        swept = fill("reproduce", store, recipes, options, executor, damaged)
        # Candidates of another --grid in the same folder take no part.
        pool = store.reload().only(pool_order(store, recipes))
        if not pool.ids:
            why = swept["failed"][0]["why"].strip().splitlines()[-1]
            raise NegmergeError(f"no candidate of {source.name} could be fine-tuned: {why}")
        bench = Workbench(pool, device=options.device)

        def print_progress(progress: Progress, name: str = source.name) -> None:
            print(f"{name}: {progress.message}", file=sys.stderr)

        part = measure(bench, published, rows=rows, keep=keep, on_row=print_progress)
        parts.append(part | {"failed": swept["failed"]})
        result = {
            "table": options.table,
            "model": str(spec),
            "mode": options.mode,
            "grid": options.grid,
            "control": options.control,
            "keep": keep,
            "datasets": parts,
            "averages": averages(parts, published),
            "published": published.numbers | {"sources": published.sources},
        }
        write_result(path, result)
    if options.json:
        print_json(result)
    else:
        _show(result, published)
    return 0


def _dry_run(options: argparse.Namespace, texts: list[str], rows: list[str]) -> int:
    from negmerge_kit.data import find_data
    from negmerge_kit.models.linearized import linearize
    from negmerge_kit.models.load import untrained
    from negmerge_kit.models.model_spec import TIMM, find_model
    from negmerge_kit.models.preprocessing import transform_of
    from negmerge_kit.training.forecast import SUSTAINED, forecast
    from negmerge_kit.training.recipe import Recipe, grid

    spec = find_model(options.model)
    if spec.arch.startswith(TIMM):
        raise ParameterError(f"{spec} has no text tower, which this table needs: give an open_clip model.")

    def recipes(name: str, images: int) -> tuple[Recipe, ...]:
        return grid(options.grid, data=name, images=images, mode=options.mode)

    model = untrained(spec.arch, device="cpu")
    merged = len([row for row in rows if row not in ("base", "single")])
    cost = forecast(
        [find_data(text) for text in texts],
        find_data(options.control),
        linearize(model) if options.mode == "linear" else model,
        transform_of(spec.as_json()),
        recipes,
        merged=merged,
        single="single" in rows,
        tflops=SUSTAINED if options.tflops is None else options.tflops,
    )
    cost = {"table": options.table, "model": str(spec), "mode": options.mode, "grid": options.grid, **cost}
    if options.json:
        print_json(cost)
        return 0
    control = cost["control"]
    size = f"{cost['model']}, {cost['mode']}: {_size(cost['model_bytes'])}"
    print(f"{size}; {control['data']}: {_size(control['download_bytes'])}")
    for row in cost["rows"]:
        print(
            f"{row['data']:12} {_size(row['download_bytes']):>8} to download ({row['licence']}), {row['candidates']} "
            f"candidates, {row['training_hours']:.1f} h training, {row['search_hours']:.2f} h searching, "
            f"{_size(row['disk_bytes'])} on disk"
        )
    print(
        f"in all       {_size(cost['download_bytes']):>8} to download, {cost['gpu_hours']:.1f} GPU hours at an assumed "
        f"{cost['assumed_tflops']:g} TFLOP/s, {_size(cost['disk_bytes'])} on disk"
    )
    return 0


def _show(result: Json, published: Published) -> None:
    for part in result["datasets"]:
        hours = seconds(part["training_seconds"])
        print(f"\n{part['data']} ({part['candidates']} candidates, {hours} to train), test")
        for line in part["rows"]:
            paper = line["published"] or {}
            at = "infeasible" if line["scale"] is None else f"scale {line['scale']:g}"
            print(f"  {line['title']:40} {at:11} {seconds(line['seconds']):>6}")
            if line["outcome"]:
                print(f"    {line['outcome']}")
            for side in ("forget", "retain"):
                score = line["test"] and line["test"][side]
                print(f"    {side} {percent(score)}   published {_share(paper.get(side))}")
    print("\naverages over the sets above; published: over the paper's eight")
    for line in result["averages"]:
        paper = line["published"] or {}
        sides = [
            f"{side} {_share(line['measured'][side])} (published {_share(paper.get(side))})"
            for side in ("forget", "retain")
        ]
        print(f"  {line['title']:40} {'   '.join(sides)}")
    for name, source in published.sources.items():
        print(f"{name}: {source}")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ParameterError("an empty list was given: name at least one, or leave the option out.")
    return names


def _share(value: float | None) -> str:
    return "  —   " if value is None else f"{100 * value:.2f} %"


def _size(count: int | None) -> str:
    if count is None:
        return "yours"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
