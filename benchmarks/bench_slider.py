"""How long a slider move takes: on the workbench, and over HTTP as a script sees it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from negmerge_kit.bench.served import served
from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.sweeps.embedded import start_pool
from negmerge_kit.types import Json

LIMIT_MS = 300.0
"""What the 95th percentile must stay under on two cores."""


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
        ParameterError: for a model beside a pool, or images without a model.
        PoolError: if the pool has no candidate.
        NegmergeError: if the app does not start.
    """
    if model:
        if pool:
            raise ParameterError("a model has random weights and no pool: give --model or --pool, not both.")
        from negmerge_kit.bench.slider_random import IMAGES, random_slider

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
    """Median and 95th percentile of the times, beside their number and the limit.

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
