"""What a visitor waits for in Chromium: the first paint, the slider, and each move of it to number and marker.

    python benchmarks/browser.py [POOL] [--visits 10] [--moves 40] [--json]

The app runs in a separate process, and has started. Each visit is a new browser context, so nothing is cached;
the first paint is the browser's own (PerformancePaintTiming). A move lasts from the slider's input event until a
frame with the curve marker at its scale has been painted; the number comes in the same answer. Without POOL the
embedded one is used, which `negmerge pool build tiny` makes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script sees its own folder only, and no wheel holds this one
from benchmarks.bench_served import served
from benchmarks.bench_slider import summary
from benchmarks.table import table
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.types import Json

SLIDER = "#nm-scale input[type=range]"
WARM_UP = 5
PAINT = "() => performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)[0] ?? null"

# Resolves once a frame with the marker at the wanted scale has been painted.
MOVE = """async ([value, place]) => {
  const slider = document.querySelector('#nm-scale input[type=range]');
  const wanted = String(value);
  const started = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event('input', {bubbles: true}));
  slider.dispatchEvent(new Event('change', {bubbles: true}));
  slider.dispatchEvent(new Event('pointerup', {bubbles: true}));
  while (document.querySelector('.nm-marker')?.dataset.scale !== wanted) {
    if (performance.now() - started > 20000) return null;
    await new Promise(requestAnimationFrame);
  }
  await new Promise(requestAnimationFrame);
  await new Promise(painted => setTimeout(painted));
  return performance.now() - started;
}"""


def first_paints(browser: Browser, address: str, visits: int) -> list[Json]:
    """How soon a visitor sees the page, and can move its slider."""
    paints, usable = [], []
    for _ in range(visits):
        page = browser.new_context(viewport={"width": 1340, "height": 900}).new_page()
        page.goto(address, wait_until="commit")
        page.wait_for_selector(SLIDER)
        usable.append(page.evaluate("() => performance.now()"))
        page.wait_for_function(PAINT)
        paints.append(page.evaluate(PAINT))
        page.context.close()
    return [summary("first paint", paints, 2000.0), summary("slider is there", usable, None)]


def slider_moves(browser: Browser, address: str, moves: int) -> Json:
    """From a move's input event to the painted number and marker."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector(SLIDER)
    page.wait_for_timeout(6000)  # the live curve has been filled in
    times = []
    for move in range(moves + WARM_UP):
        times.append(page.evaluate(MOVE, [round(0.03 + (move * 37 % 147) / 100, 2), move]))
        page.wait_for_timeout(60)
    if None in times:
        sys.exit("a move was not answered within 20 s.")
    return summary("slider to number and marker", times[WARM_UP:])


def main() -> int:
    """Serve, visit, move, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", type=Path, nargs="?")
    parser.add_argument("--visits", type=int, default=10)
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium found: install one to measure in a browser.", file=sys.stderr)
        return 2
    pool = open_pool(options.pool) if options.pool else start_pool("tiny:digits")[0]
    if not pool.ids:
        print(f"{pool.folder} has no candidates yet: run `negmerge pool build tiny` first.", file=sys.stderr)
        return 2
    with served(pool.folder, options.device) as app, sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        rows = [*first_paints(browser, app.address, options.visits), slider_moves(browser, app.address, options.moves)]
        browser.close()
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
