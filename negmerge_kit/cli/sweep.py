"""`negmerge sweep`: fine-tune a grid of candidates of any scene, here or on a cluster."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.next_command import print_end, same_flags
from negmerge_kit.cli.options import Parser, add_executor_flags, add_size_flag, add_training_flags, print_json, seconds
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.progress import Progress
from negmerge_kit.scenes.find import scene_from_json
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.pools.pool import Pool
    from negmerge_kit.scenes.scene import Scene
    from negmerge_kit.sweeps.job import Executor, Job, Outcome
    from negmerge_kit.training.execution import Execution
    from negmerge_kit.training.recipe import Recipe
    from negmerge_kit.types import Weights


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
    add_size_flag(parser)
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
    from negmerge_kit.models.model_spec import sized
    from negmerge_kit.scenes.find import open_scene
    from negmerge_kit.training.recipe import grid, grid_of

    executor, scene = executor_of(options), open_scene(options.scene)
    if options.size is not None:
        scene = replace(scene, model=sized(scene.model, options.size).as_json())
    grid(options.grid, mode=scene.mode)  # a misspelt grid raises here, before anything is made
    if options.dry_run:
        return _dry_run(scene, options, parser)
    prepare_scene(scene)
    store, damaged = begin_pool(scene, options.out, options.device)
    recipes = grid_of(store.scene, options.grid, options.precision)
    return print_sweep(fill("sweep", store, recipes, options, executor, damaged), options, parser)


def _dry_run(scene: Scene, options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print how long the sweep takes, from a few steps measured now, or from an assumed speed of the device."""
    from negmerge_kit.models.load import untrained
    from negmerge_kit.models.model_spec import find_model
    from negmerge_kit.training.forecast import SUSTAINED, check_tflops, count_images
    from negmerge_kit.training.from_scratch import base_recipe
    from negmerge_kit.training.recipe import grid
    from negmerge_kit.training.sweep_forecast import assumed_seconds, measured_seconds

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
        cost = measured_seconds(model, images, runs, scored=scored, base=base)
    elif scene.own_head:
        raise ParameterError(
            f"the time of {scene.name} cannot be forecast: {why}; prepare the data first, with `negmerge data prepare`."
        )
    else:
        n = count_images(scene.sources[0], "train", scene.transform)
        runs, scored = recipes(n), sum(count_images(source, "val", scene.transform) for source in scene.sources)
        spec = find_model(scene.model)
        model = untrained(spec.arch, size=spec.size, device="cpu")
        cost = assumed_seconds(model, n, runs, scored=scored, tflops=tflops)
    cost = {
        "scene": scene.name,
        "grid": options.grid,
        "candidates": len(runs),
        "measured": why is None,
        "device": str(model.device) if why is None else None,
        "assumed_tflops": None if why is None else tflops,
        "why_assumed": why,
        **cost,
    }
    if options.json:
        print_json(cost)
        return 0
    by = (
        f"measured on {cost['device']}, one job at a time"
        if why is None
        else f"assumed: {tflops:g} TFLOP/s, because {why}"
    )
    base_part = f"base {seconds(cost['base_seconds'])}, " if cost["base_seconds"] else ""
    print(
        f"{scene.name}, grid {options.grid}: {len(runs)} candidates, {cost['steps']:,} steps; {base_part}training "
        f"{seconds(cost['training_seconds'])}, searching each one's own scale {seconds(cost['scoring_seconds'])}; "
        f"together about {seconds(cost['seconds'])} ({by})"
    )
    options.dry_run, options.tflops = False, None
    print_end(["sweep", *same_flags(parser, options, parser)])
    return 0


def begin_pool(
    scene: Scene, folder: Path | None, device: str, *, pretrain: Callable[[], Weights] | None = None
) -> tuple[Pool, list[str]]:
    """Open or make the scene's pool; a bar while its base is trained, a sentence while another process trains it."""
    from contextlib import ExitStack

    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.pools.pool_writer import holder
    from negmerge_kit.sweeps.pool_setup import start_pool

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
    """Executor that the flags name; raises for an impossible device or precision, so call it before anything is made.

    Another machine's devices are not checked: neither those of a joined Ray cluster, nor any on a dry run.
    """
    from negmerge_kit.devices import check_device, pick_device
    from negmerge_kit.sweeps.run import find_executor

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
    """Raise ParameterError for flags with which every candidate would fail."""
    from negmerge_kit.training.recipe import PRECISIONS, grid

    execution_of(options)
    if options.precision not in (None, *PRECISIONS):
        raise ParameterError(f"there is no precision '{options.precision}': choose among {', '.join(PRECISIONS)}.")
    asked = [options.precision] if options.precision else [recipe.precision for recipe in grid(options.grid)]
    if "float16" in asked and device != "cuda":
        raise ParameterError(f"precision float16 needs a CUDA device, and this is {device}: use bfloat16 or float32.")


def execution_of(options: argparse.Namespace) -> Execution:
    """Execution settings of the candidates, from the flags."""
    from negmerge_kit.training.execution import Execution

    return Execution(micro_batch=options.micro_batch, compile=options.compile)


def spread(title: str, jobs: Sequence[Job], options: argparse.Namespace, *, last: str | None = None) -> None:
    """Run jobs that keep their values in files on the executor that the flags name; raises the first failure.

    `last` is shown instead of the time left while the last job runs.
    """
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.sweeps.run import run_sweep

    failed = []
    with ProgressDisplay(title, len(jobs), last=last) as display:
        for outcome in run_sweep(jobs, executor=executor_of(options), on_step=display.step):
            display.end(outcome)
            failed += [outcome] if outcome.failure else []
    if failed:
        first = failed[0]
        raise NegmergeError(f"{len(failed)} of {len(jobs)} failed; {first.job.label}: {first.failure}")


def fill(
    verb: str,
    store: Pool,
    recipes: Sequence[Recipe],
    options: argparse.Namespace,
    executor: Executor,
    damaged: Sequence[str] = (),
) -> Json:
    """Fine-tune what the pool lacks and show the progress; returns the object of `sweep --json`."""
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.sweeps.finetune_job import missing_jobs, pool_order
    from negmerge_kit.sweeps.run import run_sweep

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
    """Check, before training, that the base knows what it should forget; of a trained base, print how it fits."""
    from negmerge_kit.errors import UnknownSetError
    from negmerge_kit.unlearning.base_knowledge import fit_of, require_known

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


def print_sweep(result: Json, options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the result of a sweep and the commands that may come next; returns the exit code."""
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
    from negmerge_kit.cli.options import search_parser
    from negmerge_kit.pools.pool import open_pool

    pool, same = Path(result["pool"]), same_flags(parser, options, search_parser("search", ""))
    compare = [["compare", pool, *same]] if len(open_pool(pool).distinct) > 1 else []
    return [["search", pool, *same], *compare, ["demo", "--pool", pool, *same]]
