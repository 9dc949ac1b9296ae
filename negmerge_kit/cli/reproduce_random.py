"""`negmerge reproduce cifar10-random`: the papers' table of classifiers that forget a random tenth, measured here."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.classifier_tables import SHOWN, standings_table
from negmerge_kit.cli.compare import compare_pool
from negmerge_kit.cli.options import (
    Parser,
    add_buffers_flag,
    add_executor_flags,
    add_recompute_flag,
    add_training_flags,
    print_json,
)
from negmerge_kit.cli.sweep import begin_pool, executor_of, fill
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.comparison.methods import Method
    from negmerge_kit.comparison.options import ComparisonOptions
    from negmerge_kit.reproduction.cifar10_random import PublishedRows
    from negmerge_kit.scenes.classifier_scene import ClassifierScene

TABLE = "cifar10-random"
GRIDS = {"resnet18": "paper-cifar", "vgg16-bn": "paper-cifar-vgg16", "swin-t": "cifar-swin"}
"""The published pool of each network; of Swin-T none is known here, and the grid is the kit's own."""
ABOUT = (
    "Train a classifier, retrain it without a random tenth of its images, unlearn that tenth by every rule and "
    "baseline, and put the published rows next to the measured ones; goes on where it was stopped."
)


def reproduce_random(arguments: list[str]) -> int:
    """Make base, retrained model, candidates, baselines and the table; returns the exit code."""
    options = _parser().parse_args(arguments)
    options.grid = options.grid or GRIDS.get(options.model, "paper-cifar")

    from negmerge_kit.comparison.options import ComparisonOptions
    from negmerge_kit.reproduction.cifar10_random import find_published_rows, with_published
    from negmerge_kit.scoring.early_stopping import parse_scales
    from negmerge_kit.training.recipe import grid, grid_of

    # A misspelt value raises here, before hours are spent.
    parse_scales(options.scales)
    terms = ComparisonOptions(options.choose, options.shadows, options.seed, options.epochs)
    methods, executor = published_methods(options.rules, options.baselines), executor_of(options)
    grid(options.grid, mode="standard")
    scene = _scene(options)
    published = find_published_rows(options.model, options.data, options.share)
    if options.dry_run:
        return _dry_run(options, scene, methods, terms)

    from negmerge_kit.cli.data import prepare_scene
    from negmerge_kit.sweeps.finetune_job import pool_order
    from negmerge_kit.training.recipe import reseeded

    path = options.out / f"{_folder(options)}-{Path(options.grid).stem}.json"
    check_result(path)
    prepare_scene(scene)
    store, damaged = begin_pool(scene, options.out / _folder(options), options.device)
    recipes = reseeded(grid_of(store.scene, options.grid, options.precision), options.seed)
    swept = fill("reproduce", store, recipes, options, executor, damaged)
    # The base, its rivals and what other grids made are shared; the candidates of other grids take no part.
    pool = store.reload().only(pool_order(store, recipes))
    if not pool.ids:
        raise NegmergeError(f"no candidate could be fine-tuned: {swept['failed'][0]['why'].strip().splitlines()[-1]}")
    comparison, _ = compare_pool(pool, methods, terms, options)
    result = {
        "table": TABLE,
        "model": options.model,
        "data": options.data,
        "grid": options.grid,
        "forgetting": scene.forgetting.label,
        "never_seen": scene.parts.never_seen,
        "failed": swept["failed"],
        "rows": with_published(comparison, published),
        "published": {
            "sources": published.sources,
            "second_hand": list(published.second_hand),
            "why_none": published.why_none,
        },
        "comparison": comparison.json(),
    }
    write_result(path, result)
    if options.json:
        print_json(result)
        return 0
    if result["never_seen"]:
        print(f"split as published: the base never saw {result['never_seen']} of the images to forget")
    print(standings_table(comparison))
    _show(result["rows"], published)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(f"reproduce {TABLE}", ABOUT)
    add = parser.add_argument
    add("--model", default="resnet18", metavar="NETWORK", help="of the kit, or timm/NAME (default resnet18)")
    add("--data", default="cifar10", metavar="DATA", help="or cifar10:PATH for a local copy (default %(default)s)")
    add("--share", type=float, default=0.1, help="share of the training images to forget (default %(default)s)")
    add(
        "--seed",
        type=int,
        default=2,
        help="of all that is drawn: share, base, candidates, baselines, retrained and "
        "shadow models (default %(default)s)",
    )
    add(
        "--as-published",
        action="store_true",
        help="repeat the protocol's split, whose base never saw a tenth of the "
        "images to forget: of cifar10 the reference code's own indices; of a folder, whose files lie otherwise, "
        "the protocol only",
    )
    add(
        "--grid",
        metavar="GRID",
        help="candidates; default: "
        + ", ".join(f"{grid} for {network}" for network, grid in GRIDS.items())
        + "; paper-cifar for others",
    )
    add("--rules", default="all", metavar="RULE,RULE", help="as for compare")
    add(
        "--baselines",
        default="all",
        metavar="NAME,NAME",
        help="as for compare, but all means those of the table's protocol: newer ones, such as ssd, are taken by name",
    )
    add("--choose", default="gap", metavar="floor|gap", help="as for compare (default %(default)s)")
    add("--keep", type=float, default=0.95, help="share of the base's retention to keep, with --choose floor")
    add("--scales", default="0:1:0.05", metavar="A:B:STEP", help="scales to try")
    add_buffers_flag(parser)
    add("--shadows", type=int, default=0, metavar="K", help="shadow models of the likelihood ratio attack (default 0)")
    add(
        "--epochs",
        type=int,
        metavar="N",
        help="of base, retrained model and baselines, instead of the published "
        "ones: a rehearsal, which the result says",
    )
    add("--out", type=Path, default=Path("reproduction"), metavar="DIR", help="pool and result")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add_recompute_flag(parser)
    add("--dry-run", action="store_true", help="count steps, time and bytes; do nothing")
    add("--tflops", type=float, default=None, metavar="X", help="what the device sustains, for --dry-run")
    add("--json", action="store_true", help="print JSON")
    add_executor_flags(parser)
    add_training_flags(parser)
    return parser


def published_methods(rules: str, baselines: str) -> tuple[Method, ...]:
    """Methods in the table's rows; a rule named without parameters takes those of the papers' tables.

    `all` baselines are those of the reference protocol and the searches; newer ones have no published row here and are
    taken by name.

    >>> [dict(method.params) for method in published_methods("ties,ties:density=0.1", "none")]
    [{}, {'trim_over': 'all'}, {'density': 0.1}]
    """
    from negmerge_kit.comparison.methods import SEARCHES, find_methods
    from negmerge_kit.reproduction.cifar10_random import PROTOCOL
    from negmerge_kit.reproduction.clip_negation import AS_PUBLISHED

    if baselines.strip() == "all":
        baselines = ",".join([*PROTOCOL, *SEARCHES])
    return tuple(
        replace(method, params=tuple(AS_PUBLISHED.get(method.name, dict(method.params)).items()))
        for method in find_methods(rules, baselines, classifier=True)
    )


def _scene(options: argparse.Namespace) -> ClassifierScene:
    from negmerge_kit.models.model_spec import CLASSIFIER, find_model
    from negmerge_kit.scenes.classifier_scene import ClassifierScene
    from negmerge_kit.scenes.forget_set import Forgetting

    if find_model(f"{CLASSIFIER}{options.model}").pretrained is not None:
        raise ParameterError(
            f"--model {options.model} names weights, and this table trains its base from scratch: leave them out."
        )
    training: Json = {"seed": options.seed} | ({"epochs": options.epochs} if options.epochs else {})
    if options.precision:
        training["precision"] = options.precision
    forgetting = Forgetting(options.data, share=options.share, seed=options.seed, as_published=options.as_published)
    name = f"random {100 * options.share:g} % of {forgetting.source.name}, {options.model}"
    return ClassifierScene(name, f"{CLASSIFIER}{options.model}", forgetting, training=training)


def _folder(options: argparse.Namespace) -> str:
    """Folder name of the pool: one for each split and base, shared by candidates of several grids."""
    parts = [TABLE, options.model.replace("/", "-"), f"seed{options.seed}"]
    parts += ["as-published"] * options.as_published + [f"{options.epochs}-epochs"] * bool(options.epochs)
    return "-".join(parts)


def _dry_run(
    options: argparse.Namespace, scene: ClassifierScene, methods: tuple[Method, ...], terms: ComparisonOptions
) -> int:
    from negmerge_kit.reproduction.cifar10_random import forecast_rows
    from negmerge_kit.scoring.early_stopping import parse_scales
    from negmerge_kit.training.forecast import SUSTAINED
    from negmerge_kit.training.from_scratch import base_recipe
    from negmerge_kit.training.recipe import grid

    cost = forecast_rows(
        scene,
        scene.untrained(device="cpu"),
        methods,
        base_recipe(scene),
        lambda name, images: grid(options.grid, data=name, images=images),
        options=terms,
        scales=parse_scales(options.scales),
        tflops=SUSTAINED if options.tflops is None else options.tflops,
    )
    cost = {"table": TABLE, "model": options.model, "grid": options.grid, **cost}
    if options.json:
        print_json(cost)
        return 0
    n = cost["images"]
    print(f"{scene.name}: {n['forgotten']} images to forget, {n['remaining']} to keep, {n['test']} to test on")
    for row in cost["rows"]:
        print(f"  {row['row']:20} {row['trainings']:>5} trained {row['steps']:>10} steps {3600 * row['hours']:>9.0f} s")
    print(f"  {'searching':20} {cost['scales']:>5} scales  {'':>10}       {3600 * cost['search_hours']:>9.0f} s")
    print(f"  {'attacks':20} {cost['attacks']:>5} {3600 * cost['attack_hours']:>33.0f} s of one CPU core")
    size = "yours" if cost["download_bytes"] is None else f"{cost['download_bytes'] / 1e6:.0f} MB"
    print(
        f"in all {cost['steps']} steps, {cost['gpu_hours']:.1f} GPU hours at an assumed {cost['assumed_tflops']:g} "
        f"TFLOP/s; {size} to download ({cost['licence']}), {cost['disk_bytes'] / 1e9:.1f} GB on disk"
    )
    return 0


def _show(rows: list[Json], published: PublishedRows) -> None:
    if published.why_none:
        print(f"\n{published.why_none}")
        return
    columns = "".join(f"{title:>11}" for title in SHOWN.values())
    print(f"\n{'published, % (* second hand)':40}{columns}")
    used = set()
    for line in rows:
        for row in line["published"]:
            used.add(row["source"])
            mark = "*" * row["second_hand"]
            cells = "".join(f"{_cell(row.get(name)):>11}" for name in SHOWN)
            print(f"{row['title'] + mark:40}{cells}  {row['source']}")
    for source in published.sources:
        if source in used:
            print(f"{source}: {published.sources[source]}")


def _cell(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.2f}"


def check_result(path: Path) -> None:
    """Make the results' folder, and refuse to replace a file that is no result, before hours are spent."""
    from negmerge_kit.checkpoints.overwrite_guard import Kind, check_output, make_folder

    make_folder(path.parent)
    check_output(path, Kind("a result of `negmerge reproduce`", lambda old: json.loads(old.read_bytes())["table"]))


def write_result(path: Path, result: Json) -> None:
    """Write one JSON file, whole or not at all."""
    from negmerge_kit.checkpoints.atomic import atomic_file

    with atomic_file(path) as file:
        file.write(json.dumps(result, indent=1, allow_nan=False).encode())
