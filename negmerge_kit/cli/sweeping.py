"""`negmerge sweep`: fine-tune a grid of candidates of any scene, here or on a cluster."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.last_lines import print_end, same_flags
from negmerge_kit.cli.options import Parser, add_executor_flags, add_training_flags, print_json, seconds
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.progress import Progress
from negmerge_kit.types import Json
from negmerge_kit.vision.scenes import scene_from_json

if TYPE_CHECKING:
    from negmerge_kit.checkpoints.pool import Pool
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.lab.training.execution import Execution
    from negmerge_kit.lab.training.recipe import Recipe
    from negmerge_kit.sweeps.protocol import Executor, Job, Outcome
    from negmerge_kit.types import Weights
    from negmerge_kit.vision.scene import Scene


def sweep(arguments: list[str]) -> int:
    """Make a scene's pool and fine-tune the candidates that it lacks; goes on where it was stopped."""
    parser = Parser("sweep", "Fine-tune a grid of candidates into a pool; goes on where it was stopped.")
    parser.add_argument(
        "--scene",
        required=True,
        metavar="SCENE",
        help="tiny:FAMILY, tiny-classifier, a pool folder, or FILE.toml; "
        "indices to forget in it count the data's own training images, of cifar10 as torchvision does",
    )
    parser.add_argument("--grid", required=True, metavar="GRID", help="a preset's name, or FILE.toml")
    parser.add_argument("--out", type=Path, required=True, metavar="POOL", help="folder of the pool")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--dry-run", action="store_true", help="take a few steps here and say how long all takes")
    parser.add_argument(
        "--tflops",
        type=float,
        metavar="X",
        help="what the device sustains, where --dry-run cannot measure: without the data or the weights (default 40)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_executor_flags(parser)
    add_training_flags(parser)
    options = parser.parse_args(arguments)
    if options.tflops is not None and not options.dry_run:
        parser.error("--tflops is for --dry-run: what runs is measured, not assumed")

    from negmerge_kit.cli.data import prepare_scene
    from negmerge_kit.lab.training.recipe import grid
    from negmerge_kit.vision.scenes import open_scene

    executor, scene = executor_of(options), open_scene(options.scene)
    grid(options.grid, mode=scene.mode)  # what is misspelt is told before anything is made
    if options.dry_run:
        return _dry_run(scene, options, parser)
    prepare_scene(scene)
    store, damaged = begin_pool(scene, options.out, options.device)
    recipes = scene_grid(store, options.grid, options.precision)
    return tell(fill("sweep", store, recipes, options, executor, damaged), options, parser)


def _dry_run(scene: Scene, options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Say how long the sweep takes, from a few steps that are taken now, or from what a device is assumed to do."""
    from negmerge_kit.lab.training.forecast import SUSTAINED, check_tflops, count_images
    from negmerge_kit.lab.training.from_scratch import base_recipe
    from negmerge_kit.lab.training.recipe import grid
    from negmerge_kit.lab.training.sweep_forecast import assumed_seconds, measured_seconds
    from negmerge_kit.vision.load import untrained
    from negmerge_kit.vision.model_spec import find_model

    tflops = SUSTAINED if options.tflops is None else check_tflops(options.tflops)
    own, why, model = scene.trains_base, None, None
    if all(source.is_ready(splits, image_size=scene.transform) for source, splits in scene.needs()):
        try:
            model = scene.untrained(device=options.device) if own else scene.load(device=options.device)
        except NegmergeError as error:
            why = str(error)
    else:
        why = "the data are not here yet"

    def recipes(images: int) -> tuple[Recipe, ...]:
        found = grid(options.grid, data=scene.sources[0].name, images=images)
        return tuple(replace(recipe, precision=options.precision) for recipe in found) if options.precision else found

    if model is not None:
        images, val = scene.images("train").forget, scene.images("val")
        runs, scored = recipes(len(images)), len(val.forget) + sum(len(each) for each in val.retain)
        base = (scene.parts.seen, base_recipe(scene)) if own else None
        told = measured_seconds(model, images, runs, scored=scored, base=base)
    elif scene.own_head:
        raise ParameterError(
            f"the time of {scene.name} cannot be forecast: {why}; prepare the data first, with `negmerge data prepare`."
        )
    else:
        n = count_images(scene.sources[0], "train", scene.transform)
        runs, scored = recipes(n), sum(count_images(source, "val", scene.transform) for source in scene.sources)
        model = untrained(find_model(scene.model).arch, device="cpu")
        told = assumed_seconds(model, n, runs, scored=scored, tflops=tflops)
    told = {
        "scene": scene.name,
        "grid": options.grid,
        "candidates": len(runs),
        "measured": why is None,
        "device": str(model.device) if why is None else None,
        "assumed_tflops": None if why is None else tflops,
        "why_assumed": why,
        **told,
    }
    if options.json:
        print_json(told)
        return 0
    by = (
        f"measured on {told['device']}, one job at a time"
        if why is None
        else f"assumed: {tflops:g} TFLOP/s, because {why}"
    )
    base_told = f"base {seconds(told['base_seconds'])}, " if told["base_seconds"] else ""
    print(
        f"{scene.name}, grid {options.grid}: {len(runs)} candidates, {told['steps']:,} steps; {base_told}training "
        f"{seconds(told['training_seconds'])}, searching each one's own scale {seconds(told['scoring_seconds'])}; "
        f"together about {seconds(told['seconds'])} ({by})"
    )
    options.dry_run, options.tflops = False, None
    print_end(["sweep", *same_flags(parser, options, parser)])
    return 0


def begin_pool(
    scene: Scene, folder: Path | None, device: str, *, pretrain: Callable[[], Weights] | None = None
) -> tuple[Pool, list[str]]:
    """The scene's pool as `start_pool` gives it; a bar while its base is trained, a sentence while others train it."""
    from contextlib import ExitStack

    from negmerge_kit.checkpoints.filling import holder
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.sweeps.embedded import start_pool

    displays: list[ProgressDisplay] = []  # none where the base is there
    with ExitStack() as shown:

        def on_step(progress: Progress) -> None:
            if not displays:
                displays.append(shown.enter_context(ProgressDisplay(f"base of {scene.name}", progress.total)))
            displays[0].follow(progress)

        def on_wait(folder: Path) -> None:
            print(f"{scene.name}: {holder(folder)} is making {folder}; waiting for its base", file=sys.stderr)

        return start_pool(scene, folder, pretrain=pretrain, device=device, on_step=on_step, on_wait=on_wait)


def executor_of(options: argparse.Namespace) -> Executor:
    """The executor that the flags name, once device, precision and the rest can be: call it before anything is made.

    Another machine's devices are not asked for: not a Ray cluster's that is joined, nor on a dry run.
    """
    from negmerge_kit.devices import check_device, pick_device
    from negmerge_kit.sweeps.local import find_executor

    check_device(options.device)
    here = options.address is None and not getattr(options, "dry_run", False)
    device = pick_device(options.device).type if here else "cuda"
    if hasattr(options, "micro_batch"):  # only the verbs that train
        _check_training(options, device)
    return find_executor(
        options.executor,
        workers=options.workers,
        device=options.device,
        address=options.address,
        gpus_per_job=options.gpus_per_job,
    )


def _check_training(options: argparse.Namespace, device: str) -> None:
    """Raise ParameterError for flags by which every candidate would fail."""
    from negmerge_kit.lab.training.recipe import PRECISIONS, grid

    execution_of(options)
    if options.precision not in (None, *PRECISIONS):
        raise ParameterError(f"there is no precision '{options.precision}': choose among {', '.join(PRECISIONS)}.")
    asked = [options.precision] if options.precision else [recipe.precision for recipe in grid(options.grid)]
    if "float16" in asked and device != "cuda":
        raise ParameterError(f"precision float16 needs a CUDA device, and this is {device}: use bfloat16 or float32.")


def execution_of(options: argparse.Namespace) -> Execution:
    """How candidates are computed, as the flags say."""
    from negmerge_kit.lab.training.execution import Execution

    return Execution(micro_batch=options.micro_batch, compile=options.compile)


def spread(title: str, jobs: Sequence[Job], options: argparse.Namespace, *, last: str | None = None) -> None:
    """Run jobs where the flags say, whose values are kept in files; the first failure is the error.

    `last` is shown instead of the time left while the last job runs.
    """
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.sweeps.local import run_sweep

    failed = []
    with ProgressDisplay(title, len(jobs), last=last) as display:
        for outcome in run_sweep(jobs, executor=executor_of(options), on_step=display.step):
            display.end(outcome)
            failed += [outcome] if outcome.failure else []
    if failed:
        first = failed[0]
        raise NegmergeError(f"{len(failed)} of {len(jobs)} failed; {first.job.label}: {first.failure}")


def scene_grid(store: Pool, name: str, precision: str | None = None) -> tuple[Recipe, ...]:
    """The grid's recipes as they are meant for this pool's forget set, in another precision where one is given."""
    from negmerge_kit.lab.training.recipe import grid

    trained = next(images for images in store.scene["sets"] if images["split"] == "train")
    recipes = grid(name, data=trained["name"], images=trained["n"], mode=store.scene["mode"])
    return tuple(replace(recipe, precision=precision) for recipe in recipes) if precision else recipes


def fill(
    verb: str,
    store: Pool,
    recipes: Sequence[Recipe],
    options: argparse.Namespace,
    executor: Executor,
    damaged: Sequence[str] = (),
) -> Json:
    """Fine-tune what the pool lacks and show it as it goes: the object of `sweep --json`."""
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.sweeps.jobs import missing_jobs, pool_order
    from negmerge_kit.sweeps.local import run_sweep

    started = time.perf_counter()
    for sentence in damaged:
        print(f"negmerge {verb}: {sentence}", file=sys.stderr)
    jobs = missing_jobs(store, recipes, device=options.device, execution=execution_of(options), anyway=options.anyway)
    if jobs:
        _look_at_base(verb, store, options)
    order = pool_order(store, recipes)
    outcomes: list[Outcome] = []
    with ProgressDisplay(
        f"candidates of {store.scene['name']}", len(recipes), done=len(recipes) - len(jobs)
    ) as display:
        for outcome in run_sweep(jobs, store=store, executor=executor, order=order, on_step=display.step):
            display.end(outcome)
            outcomes.append(outcome)
    return {
        "pool": str(store.folder),
        "scene": store.scene["name"],
        "candidates": store.reload().ids,
        "made": [outcome.candidate.id for outcome in outcomes if outcome.candidate],
        "failed": [
            {"recipe": outcome.job.recipe.json(), "why": outcome.failure, "bug": outcome.is_bug}
            for outcome in outcomes
            if outcome.failure
        ],
        "seconds": time.perf_counter() - started,
    }


def _look_at_base(verb: str, store: Pool, options: argparse.Namespace) -> None:
    """Before anything is trained: whether the base knows what it should forget, or how a trained one fits."""
    from negmerge_kit.errors import UnknownSetError
    from negmerge_kit.lab.base_knowledge import fit_of, require_known

    if scene_from_json(store.scene).trains_base:
        if not store.entries:
            print(f"negmerge {verb}: {fit_of(store, device=options.device).sentence()}", file=sys.stderr)
        return
    try:
        require_known(store, device=options.device)
    except UnknownSetError as error:
        if not options.anyway:
            raise
        print(f"negmerge {verb}: warning: {error}", file=sys.stderr)


def tell(result: Json, options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print what came of a sweep, and what its pool is for; the exit code."""
    failed = result["failed"]
    if options.json:
        print_json(result)
    else:
        print(f"{result['pool']}: {len(result['candidates'])} candidates, {len(result['made'])} new")
        if failed:
            print(f"{len(failed)} failed; the same command tries them again", file=sys.stderr)
        print_end(*([] if failed else _next(result, options, parser)))
    if not failed:
        return 0
    return 1 if any(failure["bug"] for failure in failed) else 2


def _next(result: Json, options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[list[object]]:
    from negmerge_kit.checkpoints.pool import open_pool
    from negmerge_kit.cli.options import search_parser

    pool, same = Path(result["pool"]), same_flags(parser, options, search_parser("search", ""))
    compare = [["compare", pool, *same]] if len(open_pool(pool).distinct) > 1 else []
    return [["search", pool, *same], *compare, ["demo", "--pool", pool, *same]]
