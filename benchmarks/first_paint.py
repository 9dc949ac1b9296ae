"""How soon a visitor sees the page, and can move the slider, once the app has started: in Chromium, on this machine.

    python benchmarks/first_paint.py [POOL] [--visits 10] [--json]

Each visit is a browser context of its own, so nothing is cached. The first paint is the browser's own
(PerformancePaintTiming). Without POOL the embedded one is used, which `negmerge pool build tiny` makes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from negmerge_kit.bench.served import served
from negmerge_kit.bench.table import table
from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.sweeps.embedded import start_pool

LIMIT_S = 2.0
PAINT = "() => performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)[0] ?? null"


def main() -> int:
    """Serve, visit, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", type=Path, nargs="?")
    parser.add_argument("--visits", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium found: install one to measure in a browser.", file=sys.stderr)
        return 2
    pool = open_pool(options.pool) if options.pool else start_pool("tiny:digits")[0]
    with served(pool.folder, options.device) as app, sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        paints, usable = [], []
        for _ in range(options.visits):
            page = browser.new_context(viewport={"width": 1340, "height": 900}).new_page()
            page.goto(app.address, wait_until="commit")
            page.wait_for_selector("#nm-scale input[type=range]")
            usable.append(page.evaluate("() => performance.now()") / 1000)
            page.wait_for_function(PAINT)
            paints.append(page.evaluate(PAINT) / 1000)
            page.context.close()
        browser.close()
    rows = [
        {
            "what": what,
            "median_s": statistics.median(times),
            "slowest_s": max(times),
            "visits": len(times),
            "limit_s": limit,
        }
        for what, times, limit in (("first paint", paints, LIMIT_S), ("slider is there", usable, None))
    ]
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
