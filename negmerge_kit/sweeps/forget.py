"""From a model and images to an unlearned checkpoint: one folder, and a stopped run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from negmerge_kit.checkpoints.outputs import make_folder
from negmerge_kit.checkpoints.pool import Pool
from negmerge_kit.errors import NegmergeError
from negmerge_kit.lab.base_knowledge import require_known
from negmerge_kit.lab.live_model import RunningStatistics
from negmerge_kit.lab.pipeline import DEFAULTS, SearchOptions, Unlearned, check_outputs, unlearn_pool
from negmerge_kit.lab.training.recipe import Recipe, grid_of
from negmerge_kit.sweeps.embedded import start_pool
from negmerge_kit.sweeps.jobs import missing_jobs, pool_order
from negmerge_kit.sweeps.local import run_sweep
from negmerge_kit.vision.data import find_data
from negmerge_kit.vision.scene import Scene
from negmerge_kit.vision.zero_shot import ZeroShotScene

UNLEARNED = "unlearned.safetensors"
"""The checkpoint's name in the folder; its card is next to it, the candidates are in its folder `pool`."""


def prepare_quietly(scene: Scene) -> None:
    """Fetch and decode the images that a scene needs."""
    for source, splits in scene.needs():
        source.prepare(splits, image_size=scene.transform, corrupt=scene.corrupt)


def sweep_quietly(pool: Pool, recipes: Sequence[Recipe]) -> list[str]:
    """Fine-tune the candidates that a pool lacks, one after another; return why some failed.

    Raises:
        UnknownSetError: if the base does not know what it should forget.
    """
    jobs = missing_jobs(pool, recipes)
    if jobs:
        require_known(pool)
    outcomes = run_sweep(jobs, store=pool, order=pool_order(pool, recipes))
    return [outcome.failure for outcome in outcomes if outcome.failure]


@dataclass(frozen=True)
class ForgetSteps:
    """How the long parts of `forget` run; whoever shows their progress, or spreads them, gives other functions.

    Attributes:
        prepare: fetches and decodes a scene's images.
        begin: makes a scene's pool in a folder, or opens the one that is there.
        sweep: fine-tunes the candidates that a pool lacks, and returns why some failed.
    """

    prepare: Callable[[Scene], None] = prepare_quietly
    begin: Callable[[Scene, Path], Pool] = lambda scene, folder: start_pool(scene, folder)[0]
    sweep: Callable[[Pool, Sequence[Recipe]], Sequence[str]] = sweep_quietly


QUIETLY = ForgetSteps()
"""Here, one after another, without a word."""


def forget(
    model: str | dict[str, str | None],
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
    device: str = "auto",
    steps: ForgetSteps = QUIETLY,
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

    Raises:
        NegmergeError: if no candidate could be fine-tuned, or as `search_pool` and `unlearn_pool`.
        UnknownSetError: if the base does not know what it should forget.
    """
    out = Path(out)
    name = f"{find_data(forget).name} from {model['arch'] if isinstance(model, dict) else model}"
    kept = (retain,) if isinstance(retain, str) else tuple(retain)
    scene = ZeroShotScene(name, model, forget, kept, mode, **(reading or {}))
    made = not out.exists()
    make_folder(out)
    try:
        weights = Path(str(model.get("pretrained"))) if isinstance(model, dict) else None
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
            raise NegmergeError(f"no candidate could be fine-tuned: {failures[0].strip().splitlines()[-1]}")
        if options.candidates is None:
            options = replace(options, candidates=ids)
        return unlearn_pool(pool.folder, out / UNLEARNED, options, card=card, audit=audit, device=device)
    except BaseException:
        if made:
            with suppress(OSError):
                out.rmdir()  # only where nothing came of it
        raise
