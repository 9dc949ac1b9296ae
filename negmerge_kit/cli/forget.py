"""`negmerge forget`: from a model and images to an unlearned checkpoint with its card, in one command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.data import prepare_scene
from negmerge_kit.cli.options import forget_parser, reading_of
from negmerge_kit.cli.sweep import begin_pool, executor_of, fill
from negmerge_kit.cli.unlearn import print_unlearned, search_options
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.pools.pool import Pool
    from negmerge_kit.scenes.scene import Scene
    from negmerge_kit.training.recipe import Recipe


def forget(arguments: list[str]) -> int:
    """Fine-tune candidates on what is to be forgotten, search the scale, and write the unlearned checkpoint.

    Everything lies in one folder, and the same command goes on where it was stopped: OUT/pool, OUT/unlearned.*.
    """
    options = forget_parser().parse_args(arguments)

    from negmerge_kit.models.model_spec import sized
    from negmerge_kit.sweeps.forget import ForgetSteps
    from negmerge_kit.sweeps.forget import forget as run_forget
    from negmerge_kit.training.recipe import grid

    # A misspelt value raises here, before hours are spent.
    executor, _ = executor_of(options), grid(options.grid, mode=options.mode)
    damaged: list[str] = []

    def begin(scene: Scene, folder: Path) -> Pool:
        pool, sentences = begin_pool(scene, folder, options.device)
        damaged.extend(sentences)
        return pool

    def sweep(pool: Pool, recipes: Sequence[Recipe]) -> list[str]:
        swept = fill("forget", pool, recipes, options, executor, damaged)
        failed = [failure["why"] for failure in swept["failed"]]
        if failed and len(failed) < len(recipes):
            print(f"{len(failed)} candidates failed; going on with {len(recipes) - len(failed)}", file=sys.stderr)
        return failed

    model: str | Json = options.model
    if options.pretrained:
        model = {"arch": options.model, "pretrained": options.pretrained}
    if options.size is not None:
        model = sized(model, options.size).as_json()
    unlearned = run_forget(
        model,
        options.forget,
        options.retain,
        options.grid,
        options.out,
        search_options(options),
        mode=options.mode,
        precision=options.precision,
        reading=reading_of(options),
        card=options.card,
        audit=options.audit,
        force=options.force,
        device=options.device,
        steps=ForgetSteps(prepare_scene, begin, sweep),
    )
    return print_unlearned(unlearned, options)
