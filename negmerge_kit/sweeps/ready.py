"""A pool that is ready to use: opened where it lies, and made or completed where it is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from negmerge_kit.errors import PoolBusyError, PoolError
from negmerge_kit.pools.pool import Pool
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.sweeps.finetune_job import missing_jobs, pool_order
from negmerge_kit.sweeps.pool_setup import default_folder, default_grid, start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import Recipe, grid

POLL_SECONDS = 1.0


def ready_pool(
    scene: str | Path = "tiny:digits",
    recipes: Sequence[Recipe] | None = None,
    *,
    folder: Path | None = None,
    part: str = "",
    device: str = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> Pool:
    """The scene's pool with a candidate for every recipe; only what is missing is fine-tuned.

    Where another process is filling the pool, it waits for that one, and takes over if it ends.

    Args:
        scene: an embedded scene, a pool's folder or a FILE.toml.
        recipes: by default the embedded scene's grid, whose eight candidates the app and the notebooks share.
        folder: where the pool lies; by default, for embedded scenes only, in the user's cache folder.
        part: keeps the pool of other recipes apart in the cache, so that those who share the default do not see them.
        device: where candidates train.
        tell: called with a line for each candidate that was made and each file that was set aside, e.g. `print`.

    Raises:
        PoolError: if a candidate failed or the folder cannot be used.
        SceneError: if there is no such scene.
    """
    if folder is None and part:
        shared = default_folder(open_scene(scene).describe())
        folder = shared.with_name(f"{shared.name}-{part}")
    pool, notes = start_pool(
        scene,
        folder,
        device=device,
        on_wait=lambda folder: tell(f"another process is making {folder}: waiting for its base"),
    )
    for line in notes:
        tell(line)
    wanted = grid(default_grid(pool.scene)) if recipes is None else tuple(recipes)
    waiting = False
    while jobs := missing_jobs(pool, wanted, device=device):
        try:
            for count, outcome in enumerate(run_sweep(jobs, store=pool, order=pool_order(pool, wanted)), 1):
                if outcome.candidate is None:
                    raise PoolError(f"the candidate with {outcome.job.label} failed: {outcome.failure}")
                tell(f"candidate {count} of {len(jobs)}: {outcome.job.label}, {outcome.candidate.seconds:.0f} s")
        except PoolBusyError:
            if not waiting:
                tell("another process, such as the app, is fine-tuning these candidates: waiting for it")
            waiting = True
            time.sleep(POLL_SECONDS)
        pool = pool.reload()
    return pool
