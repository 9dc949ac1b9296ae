"""How long a slider move takes: on the workbench, and over HTTP as a script sees it."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from negmerge_kit.checkpoints.pool import Pool, open_pool
from negmerge_kit.errors import NegmergeError, PoolError
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.types import Json

LIMIT_MS = 300.0
"""What the 95th percentile must stay under on two cores."""

START_SECONDS = 120.0


def measure(pool: Pool | str | Path, *, moves: int = 40, device: str = "auto") -> list[Json]:
    """Milliseconds of `moves` scale moves with every candidate: update and one pass, and `/score` of a served app.

    What the browser adds is measured by `benchmarks/slider_browser.py`.

    Raises:
        PoolError: if the pool has no candidate.
        NegmergeError: if the app does not start.
    """
    from gradio_client import Client

    pool = pool if isinstance(pool, Pool) else open_pool(pool)
    if not pool.ids:
        raise PoolError(f"{pool.folder} has no candidate to merge: run `negmerge pool build tiny` first.")
    bench = Workbench(pool, device=device)
    choice = bench.choose()
    told = {"candidates": len(pool.ids), "device": str(bench.model.device)}
    results = [summary("weights updated and live images scored", timed(lambda s: bench.look(choice, s), moves), **told)]
    with _served(pool.folder, device) as address:
        client = Client(address, verbose=False, analytics_enabled=False)
        name = client.predict(api_name="/pools")[0]

        def score(scale: float) -> object:
            return client.predict(pool=name, scale=scale, split="live", api_name="/score")

        results.append(summary("/score over HTTP", timed(score, moves), **told))
        client.close()
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


@contextmanager
def _served(folder: Path, device: str) -> Iterator[str]:
    """The app on this pool in a process of its own, as users start it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "negmerge_kit.cli", "demo", "--pool", str(folder), "--device", device]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                _, told = process.communicate()
                said = told.decode(errors="replace").strip()[-300:]
                raise NegmergeError(f"the app did not start: {said or 'it gave no answer'}.")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
