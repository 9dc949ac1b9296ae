"""Time until an answer: the verb list, the page in an empty home, all candidates, and the page at later starts.

    python benchmarks/start.py

Uses a separate cache folder, so that nothing of the user's is read or changed.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script sees its own folder only, and no wheel holds this one
from benchmarks.table import table

COMMAND = [sys.executable, "-m", "negmerge_kit.cli"]


def seconds_until(happened: Callable[[], bool], since: float, limit: float = 300.0) -> float:
    while not happened():
        if time.perf_counter() - since > limit:
            raise SystemExit("it did not happen within five minutes")
        time.sleep(0.05)
    return time.perf_counter() - since


def main() -> None:
    rows = []
    started = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)
    rows.append({"what": "negmerge --help", "seconds": time.perf_counter() - started, "limit": 0.3})

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def page_answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}

        def trained() -> bool:
            records = list(Path(cache).glob("negmerge-kit/pools/*/pool.json"))
            return bool(records) and len(json.loads(records[0].read_text())["candidates"]) == 8

        limits = {"first start: page": 25.0, "first start: all eight candidates": 90.0, "later start: page": 20.0}
        for start in ("first start", "later start"):
            started = time.perf_counter()
            with subprocess.Popen(
                [*COMMAND, "demo", "--port", str(port)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as app:
                taken = {f"{start}: page": seconds_until(page_answers, started)}
                if start == "first start":
                    taken["first start: all eight candidates"] = seconds_until(trained, started)
                app.terminate()
            rows += [{"what": what, "seconds": spent, "limit": limits[what]} for what, spent in taken.items()]
    print(table(rows))


if __name__ == "__main__":
    main()
