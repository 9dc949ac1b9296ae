"""How long a slider move takes: in the handler, and over HTTP as a script sees it."""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from negmerge_kit.checkpoints.pool import Pool, open_pool
from negmerge_kit.errors import PoolError
from negmerge_kit.types import Json

LIMIT_MS = 300.0
"""What the 95th percentile must stay under on two cores."""


def measure(pool: Pool | str | Path, *, moves: int = 40, device: str = "auto") -> list[Json]:
    """Milliseconds of `moves` scale moves with every candidate: the page's handler, and the /score endpoint over HTTP.

    Raises:
        PoolError: if the pool has no candidate.
    """
    from gradio_client import Client

    from negmerge_kit.lab.workbench import Workbench
    from negmerge_kit.merging.rules import RULES
    from negmerge_kit.web import serve
    from negmerge_kit.web.scored import Scored
    from negmerge_kit.web.unlearn import Unlearn

    pool = pool if isinstance(pool, Pool) else open_pool(pool)
    if not pool.ids:
        raise PoolError(f"{pool.folder} has no candidate to merge: run `negmerge pool build tiny` first.")
    page = Unlearn(Scored(Workbench(pool, device=device)))
    dials = [parameter.default for rule in RULES.values() for parameter in rule.parameters]
    told = {"candidates": len(pool.ids), "device": str(page.bench.model.device)}
    results = [
        summary("page handler", timed(lambda scale: page.moved(pool.ids, "negmerge", 0.95, scale, *dials), moves), **told)
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    blocks = serve(pool, device=device, port=port, block=False, quiet=True)
    try:
        client = Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)

        def score(scale: float) -> object:
            return client.predict(
                pool=pool.folder.resolve().name, candidates=None, rule="negmerge", scale=scale, params=None,
                split="live", api_name="/score",
            )  # fmt: skip

        results.append(summary("/score over HTTP", timed(score, moves), **told))
        client.close()
    finally:
        blocks.close()
    return results


def timed(move: Callable[[float], object], moves: int) -> list[float]:
    """Milliseconds of each move to another scale, after three that warm up."""
    times = []
    for index in range(moves + 3):
        scale = round(0.03 + (index * 37 % 147) / 100, 2)
        started = time.perf_counter()
        move(scale)
        times.append(1000 * (time.perf_counter() - started))
    return times[3:]


def summary(what: str, times: Sequence[float], **told: object) -> Json:
    """Median and 95th percentile of the times, with the number of moves and cores.

    >>> summary("x", [1.0] * 20)["p95_ms"]
    1.0
    """
    return {
        "what": what,
        "median_ms": statistics.median(times),
        "p95_ms": statistics.quantiles(times, n=20, method="inclusive")[-1],
        "moves": len(times),
        "cores": os.cpu_count(),
        "limit_ms": LIMIT_MS,
        **told,
    }


def table(results: Sequence[Json]) -> str:
    """The results as aligned text."""
    lines = [f"{'slider move':44} {'median':>9} {'p95':>9} {'limit':>9}"]
    for result in results:
        numbers = (f"{result[key]:.0f} ms" for key in ("median_ms", "p95_ms", "limit_ms"))
        lines.append(f"{result['what']:44} " + " ".join(f"{number:>9}" for number in numbers))
    first = results[0]
    lines.append(f"{first['moves']} moves, {first['candidates']} candidates, {first['device']}, {first['cores']} cores")
    return "\n".join(lines)
