"""Pools that the tests share: a quick one of three candidates, and the whole embedded grid."""

import os
import shutil
import signal
from pathlib import Path

import pytest

# Before anything imports torch or a hub client: nothing is downloaded, and idle threads sleep (see the package's door).
import negmerge_kit  # noqa: F401

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

# A shell's background job begins deaf to Ctrl-C, and so would every process that a test starts and stops.
signal.signal(signal.SIGINT, signal.default_int_handler)

QUICK = ((1e-3, 2, 0.1), (2e-3, 2, 0.1), (2e-3, 3, 0.5))


@pytest.fixture(scope="session")
def trained(request, tmp_path_factory):
    """Train a pool once and keep it in pytest's cache between runs; each of pytest-xdist's workers has its own copy."""
    from .trained_pools import copy_of

    own, kept = tmp_path_factory.mktemp("pools"), request.config.cache.mkdir("trained-pools")

    def pool(name: str, recipes, scene: str = "tiny:digits") -> Path:
        return copy_of(kept, name, recipes, scene, own / name)

    return pool


@pytest.fixture(scope="session")
def tiny_pool(trained) -> Path:
    """A pool of the tiny scene with three quickly trained candidates; read it, do not change it."""
    from negmerge_kit.training.recipe import Recipe

    return trained("quick", [Recipe(lr=lr, epochs=epochs, weight_decay=decay) for lr, epochs, decay in QUICK])


@pytest.fixture
def own_pool(tiny_pool, tmp_path) -> Path:
    """A copy of the quick pool that a test may damage."""
    return Path(shutil.copytree(tiny_pool, tmp_path / "pool"))


@pytest.fixture(scope="session")
def whole_pool(trained) -> Path:
    """The embedded scene with its whole grid, as `negmerge pool build tiny` makes it."""
    from negmerge_kit.training.recipe import grid

    return trained("whole", grid("tiny"))


@pytest.fixture(scope="session")
def classifier_pool(trained) -> Path:
    """A pool of the embedded classifier with two of its grid's shorter candidates; read it, do not change it."""
    from negmerge_kit.training.recipe import grid

    recipes = [recipe for recipe in grid("tiny-classifier") if recipe.epochs == 10][:2]
    return trained("classifier", recipes, "tiny-classifier")


@pytest.fixture(scope="session")
def bench(tiny_pool):
    """A workbench on the quick pool, shared: every method leaves it as it was, but for the answers it remembers."""
    from negmerge_kit.pools.pool import open_pool
    from negmerge_kit.unlearning.workbench import Workbench

    return Workbench(open_pool(tiny_pool), device="cpu", memory="none")
