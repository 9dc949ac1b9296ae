"""From a model and images to an unlearned checkpoint: one folder, and a stopped run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from negmerge_kit.checkpoints.overwrite_guard import make_folder
from negmerge_kit.data import find_data
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.pipeline import DEFAULTS, SearchOptions, Unlearned, check_outputs, unlearn_pool
from negmerge_kit.pools.pool import Pool, open_pool
from negmerge_kit.scenes.scene import Scene
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from negmerge_kit.sweeps.finetune_job import missing_jobs, pool_order
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import Recipe, grid_of
from negmerge_kit.types import Json
from negmerge_kit.unlearning.base_knowledge import require_known
from negmerge_kit.unlearning.live_model import RunningStatistics

UNLEARNED = "unlearned.safetensors"
"""The checkpoint's name in the folder; its card is next to it, the candidates are in its folder `pool`."""


@dataclass(frozen=True)
class ForgetSteps:
    """How the long parts of `forget` run; give other functions to show their progress or to spread them.

    Attributes:
        prepare: fetches and decodes a scene's images.
        begin: makes a scene's pool in a folder, or opens the one that is there.
        sweep: fine-tunes the candidates that a pool lacks, and returns why some failed.
    """

    prepare: Callable[[Scene], None]
    begin: Callable[[Scene, Path], Pool]
    sweep: Callable[[Pool, Sequence[Recipe]], Sequence[str]]


def quiet_steps(device: str = "auto") -> ForgetSteps:
    """Return steps that run here, one after another, and print nothing."""

    def prepare(scene: Scene) -> None:
        for source, splits in scene.needs():
            source.prepare(splits, image_size=scene.transform, corrupt=scene.corrupt)

    def begin(scene: Scene, folder: Path) -> Pool:
        return start_pool(scene, folder, device=device)[0]

    def sweep(pool: Pool, recipes: Sequence[Recipe]) -> list[str]:
        jobs = missing_jobs(pool, recipes, device=device)
        if jobs:
            require_known(pool, device=device)
        outcomes = run_sweep(jobs, store=pool, order=pool_order(pool, recipes))
        return [outcome.failure for outcome in outcomes if outcome.failure]

    return ForgetSteps(prepare, begin, sweep)


def forget(
    model: str | Json,
    forget: str,
    retain: str | Sequence[str],
    grid: str,
    out: str | Path,
    options: SearchOptions = DEFAULTS,
    *,
    mode: str = "standard",
    precision: str | None = None,
    reading: dict[str, str] | None = None,
    card: str | Path | None = None,
    audit: bool = False,
    force: bool = False,
    device: str = "auto",
    steps: ForgetSteps | None = None,
) -> Unlearned:
    """Fine-tune candidates on what is to be forgotten, search the scale, and write the unlearned checkpoint.

    Everything is kept in `out`, and the same call goes on where it was stopped: `out/pool`, `out/unlearned.*`.

    Args:
        model: a model spec (see `load_model`).
        forget: DATA to forget: a data set's name, folder:PATH or hf:NAME.
        retain: DATA to keep, one or several.
        grid: recipes of the candidates: a preset's name, or FILE.toml.
        options: what is merged, and how its scale is chosen.
        mode: "standard", or "linear" for tangent models (see `linearize`).
        precision: what the image tower computes in; None for the grid's.
        reading: how images are read, where not as by default: corrupt, orientation, transparency (see `Scene`).
        card: where the card goes; None for next to the checkpoint.
        audit: probe what is left of the forget set and record it in the card.
        force: merge candidates of another base in the folder's pool, too.
        steps: how the long parts run; None for `quiet_steps`.

    Raises:
        ParameterError: if the scale should be chosen by the gap to a retrained model, which only classifiers have.
        NegmergeError: if no candidate could be fine-tuned, or as `search_pool` and `unlearn_pool`.
        UnknownSetError: if the base does not know what it should forget.
    """
    if options.choose == "gap":
        raise ParameterError(
            "only a standard classifier's pool has a retrained model to be nearest to: choose by the floor."
        )
    steps, out = steps or quiet_steps(device), Path(out)
    name = f"{find_data(forget).name} from {model['arch'] if isinstance(model, dict) else model}"
    kept = (retain,) if isinstance(retain, str) else tuple(retain)
    scene = ZeroShotScene(name, model, forget, kept, mode, **(reading or {}))
    made = not out.exists()
    make_folder(out)
    try:
        weights = Path(model["pretrained"]) if isinstance(model, dict) and model.get("pretrained") else None
        check_outputs(out / UNLEARNED, None if card is None else Path(card), [weights] if weights else [])
        steps.prepare(scene)
        if options.buffers != "keep":
            RunningStatistics(scene.load(device=device), scene).check(options.buffers)
        pool = steps.begin(scene, out / "pool")
        recipes = grid_of(pool.scene, grid, precision)
        failures = steps.sweep(pool, recipes)
        # Candidates of another grid in the same folder take no part.
        ids = pool.reload().only(pool_order(pool, recipes)).distinct
        if not ids:
            why = failures[0].strip().splitlines()[-1] if failures else f"grid {grid} gave none"
            raise NegmergeError(f"no candidate could be fine-tuned: {why}")
        if options.candidates is None:
            options = replace(options, candidates=ids)
        pool = open_pool(pool.folder, force=force)
        return unlearn_pool(pool, out / UNLEARNED, options, card=card, audit=audit, device=device)
    except BaseException:
        if made:
            with suppress(OSError):
                out.rmdir()  # only where nothing came of it
        raise
