"""Pools that tests train, kept between runs for as long as nothing that decides their weights has changed."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock

import negmerge_kit

PACKAGE = Path(negmerge_kit.__file__).parent
DECIDES = (
    "checkpoints",
    "data",
    "image_set.py",
    "merging",
    "models",
    "pools",
    "safe_json.py",
    "scenes",
    "scoring",
    "sweeps",
    "training",
    "unlearning",
)
"""What decides a pool's weights, its files and its candidates' own scores."""


def code_digest(package: Path = PACKAGE) -> str:
    """Digest of the files under `DECIDES`, shipped weights and grids included."""
    digest = hashlib.sha256()
    for name in DECIDES:
        place = package / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{path.relative_to(package).as_posix()}\n{path.stat().st_size}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def key(recipes, scene: str, package: Path = PACKAGE) -> str:
    """What a kept pool depends on: recipes, scene, torch, the code that makes it and this file."""
    parts = [repr(recipes), scene, torch.__version__, code_digest(package), Path(__file__).read_text(encoding="utf-8")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def train(folder: Path, recipes, scene: str) -> None:
    """Make the pool in a new folder."""
    from negmerge_kit.sweeps.finetune_job import missing_jobs
    from negmerge_kit.sweeps.pool_setup import start_pool
    from negmerge_kit.sweeps.run import run_sweep

    pool, _ = start_pool(scene, folder)
    for outcome in run_sweep(missing_jobs(pool, recipes, device="cpu"), store=pool):
        assert outcome.failure is None, outcome.failure


def copy_of(
    kept: Path, name: str, recipes, scene: str, place: Path, train: Callable[[Path, list, str], None] = train
) -> Path:
    """Copy the kept pool to `place`; whichever process asks first trains it, the others wait."""
    wanted = kept / f"{name}-{key(recipes, scene)}"
    with FileLock(kept / f"{name}.lock"):
        if not wanted.exists():
            # Pools of former code, and what a killed run left.
            for former in kept.glob(f"{name}-*"):
                shutil.rmtree(former)
            unfinished = kept / f"{name}-unfinished"
            train(unfinished, recipes, scene)
            unfinished.rename(wanted)
        return Path(shutil.copytree(wanted, place))
