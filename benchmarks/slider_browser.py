"""Time from a slider's input event to the changed number and curve marker, in Chromium over the real page.

    python benchmarks/slider_browser.py [POOL] [--moves 40] [--json]

Without POOL the embedded one is used, which `negmerge pool build tiny` makes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from negmerge_kit.bench.slider import summary
from negmerge_kit.bench.table import table
from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.sweeps.embedded import start_pool
from negmerge_kit.web import serve

# Resolves once the marker stands at the wanted scale and the forget number has been painted again.
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
  return performance.now() - started;
}"""


def main() -> int:
    """Serve, move, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", type=Path, nargs="?")
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    blocks = serve(pool, device=options.device, port=port, block=False)
    try:
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#nm-scale input[type=range]")
            page.wait_for_timeout(6000)  # the live curve has been filled in
            times = []
            for move in range(options.moves + 5):
                scale = round(0.03 + (move * 37 % 147) / 100, 2)
                times.append(page.evaluate(MOVE, [scale, move]))
                page.wait_for_timeout(60)
            browser.close()
    finally:
        blocks.close(verbose=False)
    if None in times:
        print("a move was not answered within 20 s.", file=sys.stderr)
        return 1
    result = summary("browser: to number and marker", times[5:])
    print(json.dumps([result], indent=2) if options.json else table([result]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
