"""`negmerge forget`: from a model and images to an unlearned checkpoint with its card, in one command."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.data import prepare_scene
from negmerge_kit.cli.options import forget_parser, reading_of
from negmerge_kit.cli.sweeping import begin_pool, executor_of, fill, scene_grid
from negmerge_kit.cli.unlearning import search_options, write_unlearned
from negmerge_kit.errors import NegmergeError
from negmerge_kit.vision.zero_shot import ZeroShotScene

if TYPE_CHECKING:
    from negmerge_kit.sweeps.protocol import Executor
    from negmerge_kit.vision.scene import Scene

UNLEARNED = "unlearned.safetensors"


def forget(arguments: list[str]) -> int:
    """Fine-tune candidates on what is to be forgotten, search the scale, and write the unlearned checkpoint.

    Everything lies in one folder, and the same command goes on where it was stopped: OUT/pool, OUT/unlearned.*.
    """
    options = forget_parser().parse_args(arguments)

    from negmerge_kit.checkpoints.outputs import make_folder
    from negmerge_kit.lab.training.recipe import grid
    from negmerge_kit.vision.data import find_data

    # What is misspelt is told before hours are spent.
    executor, _ = executor_of(options), grid(options.grid, mode=options.mode)
    search_options(options)
    model = {"arch": options.model, "pretrained": options.pretrained} if options.pretrained else options.model
    name = f"{find_data(options.forget).name} from {options.model}"
    scene = ZeroShotScene(name, model, options.forget, tuple(options.retain), options.mode, **reading_of(options))
    made = not options.out.exists()
    make_folder(options.out)
    try:
        return _forget(options, scene, executor)
    except BaseException:
        if made:
            with suppress(OSError):
                options.out.rmdir()  # only where nothing came of it
        raise


def _forget(options: argparse.Namespace, scene: Scene, executor: Executor) -> int:
    from negmerge_kit.lab.live_model import RunningStatistics
    from negmerge_kit.lab.pipeline import check_outputs
    from negmerge_kit.sweeps.jobs import pool_order

    check_outputs(options.out / UNLEARNED, options.card, [Path(options.pretrained)] if options.pretrained else [])
    prepare_scene(scene)
    if options.buffers != "keep":
        RunningStatistics(scene.load(device=options.device), scene).check(options.buffers)
    store, damaged = begin_pool(scene, options.out / "pool", options.device)
    recipes = scene_grid(store, options.grid, options.precision)
    swept = fill("forget", store, recipes, options, executor, damaged)
    # Candidates of another --grid in the same folder take no part.
    ids = store.reload().only(pool_order(store, recipes)).distinct
    if not ids:
        raise NegmergeError(f"no candidate could be fine-tuned: {swept['failed'][0]['why'].strip().splitlines()[-1]}")
    if swept["failed"]:
        print(f"{len(swept['failed'])} candidates failed; going on with {len(ids)}", file=sys.stderr)
    if options.candidates is None:
        options.candidates = ",".join(ids)
    return write_unlearned(options, store.folder, options.out / UNLEARNED)
