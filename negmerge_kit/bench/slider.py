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

from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.errors import NegmergeError, PoolError
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.sweeps.embedded import start_pool
from negmerge_kit.types import Json

LIMIT_MS = 300.0
"""What the 95th percentile must stay under on two cores."""

START_SECONDS = 120.0


def bench(pool: str | Path | None = None, *, moves: int = 40, device: str = "auto") -> Json:
    """Milliseconds of `moves` scale moves with every candidate: update and one pass, and `/score` of a served app.

    Without a pool it is the embedded scene's, as far as it is fine-tuned.

    What the browser adds is measured by `benchmarks/slider_browser.py`.

    Raises:
        PoolError: if the pool has no candidate.
        NegmergeError: if the app does not start.
    """
    from gradio_client import Client

    opened = open_pool(pool) if pool else start_pool("tiny:digits")[0]
    if not opened.ids:
        raise PoolError(f"{opened.folder} has no candidate to merge: run `negmerge pool build tiny` first.")
    workbench = Workbench(opened, device=device)
    choice = workbench.choose()
    times = timed(lambda scale: workbench.look(choice, scale), moves)
    rows = [summary("weights updated and live images scored", times)]
    with _served(opened.folder, device) as address:
        client = Client(address, verbose=False, analytics_enabled=False)
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


def summary(what: str, times: Sequence[float]) -> Json:
    """Median and 95th percentile of the times, beside the number of moves and the limit.

    >>> summary("x", [1.0] * 20)["p95_ms"]
    1.0
    """
    return {
        "what": what,
        "median_ms": statistics.median(times),
        "p95_ms": statistics.quantiles(times, n=20, method="inclusive")[-1],
        "moves": len(times),
        "limit_ms": LIMIT_MS,
    }


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
