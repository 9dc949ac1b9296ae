"""Duration of a slider move: on the workbench, over HTTP as a script sees it, and on random weights of real size."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, cycle
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_random_subject import random_scene
from benchmarks.bench_served import served
from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.pools.pool import Candidate, Pool, StoredFile, open_pool
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.types import Json, Weights
from negmerge_kit.unlearning.delta_cache import Choice, DeltaCache
from negmerge_kit.unlearning.evaluation import ImageQueue
from negmerge_kit.unlearning.live_model import LiveModel, ModelState, RunningStatistics
from negmerge_kit.unlearning.workbench import Workbench

LIMIT_MS = 300.0
"""Limit of the 95th percentile on two cores, and for a scale moved on random weights on a GPU."""

CHOICE_MS = 1000.0
"""Its limit for other candidates merged on random weights."""

IMAGES, CANDIDATES, LIVE = 5_800, 30, 240
RULE, PARAMS = "negmerge", (("agreement", 1.0), ("average", "mean"), ("over", "agreeing"))


def bench(
    pool: str | Path | None = None,
    *,
    moves: int = 40,
    device: str = "auto",
    model: str | None = None,
    images: int | None = None,
) -> Json:
    """Milliseconds of `moves` scale moves with every candidate: update and one pass, and `/score` of a served app.

    Without a pool it is the embedded scene's, as far as it is fine-tuned. With a `model`, an open_clip architecture, it
    is one of random weights with thirty candidates and thousands of `images`, which wants a GPU (see `random_slider`).

    What the browser adds is measured by `benchmarks/browser.py`.

    Raises:
        ParameterError: for a model together with a pool, or images without a model.
        PoolError: if the pool has no candidate.
        NegmergeError: if the app does not start.
    """
    if model:
        if pool:
            raise ParameterError("a model has random weights and no pool: give --model or --pool, not both.")
        return random_slider(model, images=images or IMAGES, moves=moves, device=device)
    if images:
        raise ParameterError("--images is for a model of random weights: give --model too.")

    from gradio_client import Client

    opened = open_pool(pool) if pool else start_pool("tiny:digits")[0]
    if not opened.ids:
        raise PoolError(f"{opened.folder} has no candidate to merge: run `negmerge pool build tiny` first.")
    workbench = Workbench(opened, device=device)
    choice = workbench.choose()
    times = timed(lambda scale: workbench.look(choice, scale), moves)
    rows = [summary("weights updated and live images scored", times)]
    with served(opened.folder, device) as app:
        client = Client(app.address, verbose=False, analytics_enabled=False)
        name = client.predict(api_name="/pools")[0]

        def score(scale: float) -> object:
            return client.predict(pool=name, scale=scale, split="live", api_name="/score")

        rows.append(summary("/score over HTTP", timed(score, moves)))
        client.close()
    return {"candidates": len(opened.ids), "device": str(workbench.model.device), "cores": os.cpu_count(), "rows": rows}


def timed(move: Callable[[float], object], moves: int) -> list[float]:
    """Milliseconds of each move to another scale, after three that warm up."""
    times = []
    for index in range(moves + 3):
        scale = round(0.03 + (index * 37 % 147) / 100, 2)
        started = time.perf_counter()
        move(scale)
        times.append(1000 * (time.perf_counter() - started))
    return times[3:]


def summary(what: str, times: Sequence[float], limit: float | None = LIMIT_MS) -> Json:
    """Median and 95th percentile of the times, with their number and the limit.

    >>> summary("x", [1.0] * 20)["p95_ms"]
    1.0
    """
    return {
        "what": what,
        "median_ms": statistics.median(times),
        "p95_ms": statistics.quantiles(times, n=20, method="inclusive")[-1],
        "n": len(times),
        "limit_ms": limit,
    }


@dataclass(frozen=True)
class RandomPool(Pool):
    """Candidates that are drawn when they are asked for: half of each one's move is shared by all."""

    base_weights: Weights = field(default_factory=dict)
    shared: Weights = field(default_factory=dict)

    def candidate(self, id: str) -> Weights:
        """The base, moved by the shared noise and as much of this candidate's own."""
        generator = torch.Generator().manual_seed(int(id))
        moved = {}
        for name, move in self.shared.items():
            own = torch.randn(move.shape, generator=generator) * move.float().cpu().std()
            moved[name] = self.base_weights[name] + 0.5 * (move.cpu() + own).to(move.dtype)
        return {**self.base_weights, **moved}


def random_slider(
    arch: str, *, images: int = IMAGES, candidates: int = CANDIDATES, moves: int = 40, device: str = "auto"
) -> Json:
    """Milliseconds of a scale move and of another set of candidates, each with every image scored, and with LIVE."""
    scene = random_scene(arch, images, device)
    model = scene.build()
    deltas = DeltaCache(model.weights())
    entries = tuple(Candidate(str(number), "", "", {}) for number in range(candidates))
    nothing = StoredFile("", "")
    weights = {name: tensor.cpu() for name, tensor in scene.base.items()}
    pool = RandomPool(Path(), {}, nothing, nothing, entries, base_weights=weights, shared=scene.delta)
    # A scene is asked for only where running statistics are recalibrated, which is not measured here.
    resident = LiveModel(model, deltas, RunningStatistics(model, open_scene("tiny:digits")))
    sets = (scene.splits.forget, *scene.splits.retain)
    live = tuple(images.take(LIVE // len(sets)) for images in sets)
    subsets = cycle(chain.from_iterable(combinations(pool.ids, candidates - left) for left in (1, 2)))
    everyone = Choice(tuple(pool.ids), RULE, PARAMS)

    def move(asked: Sequence[ImageSet]) -> Callable[[float], Any]:
        def moved(scale: float) -> None:
            resident.move(pool, ModelState(everyone, scale, exact=False))
            ImageQueue(asked).classes(model)

        return moved

    def choose(scale: float) -> None:
        resident.move(pool, ModelState(Choice(next(subsets), RULE, PARAMS), scale, exact=False))
        ImageQueue(sets).classes(model)

    started = time.perf_counter()
    resident.move(pool, ModelState(everyone, 0.5))
    loaded = time.perf_counter() - started
    rows = [
        summary(f"scale moved, {images:,} images scored", timed(move(sets), moves), LIMIT_MS),
        summary(f"scale moved, {sum(map(len, live))} live images scored", timed(move(live), moves), LIMIT_MS),
        summary(f"other candidates merged, {images:,} images scored", timed(choose, moves), CHOICE_MS),
    ]
    return {
        "model": arch,
        "candidates": candidates,
        "images": images,
        "device": str(model.device),
        "cores": os.cpu_count(),
        "residency": deltas.mode,
        "given_up": deltas.given_up,
        "batch": model.batch,
        "loading_seconds": loaded,
        "rows": rows,
    }
