"""The README's table of classifiers: the embedded network forgets a random tenth, by every rule and every baseline.

    python benchmarks/classifier.py [POOL ...] [--seeds 3] [--choose gap] [--shadows 8] [--write]

Without a POOL it makes the pools, in the user's cache: for each seed another tenth to forget, another base, other
candidates, another retrained model, other shadow models. Prints a Markdown table with a point for each seed and their
range, and how long each seed took from nothing to the table; with `--write` it also replaces the table in README.md,
between `<!-- classifiers: ... -->` and `<!-- /classifiers -->`. Finished rows are kept in the pools, so a stopped run
goes on where it was.
"""

import argparse
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from negmerge_kit.checkpoints.pool import Pool, open_pool
from negmerge_kit.lab.comparison.comparison import Comparison, compare_rules
from negmerge_kit.lab.comparison.kept_rows import KeptRows
from negmerge_kit.lab.comparison.terms import CHOOSE, Terms
from negmerge_kit.lab.training.recipe import grid, reseeded
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.scoring.scale import DEFAULT_SCALES, KEEP
from negmerge_kit.sweeps.embedded import start_pool
from negmerge_kit.sweeps.jobs import missing_jobs
from negmerge_kit.sweeps.local import run_sweep
from negmerge_kit.vision.scene import open_scene

README = Path(__file__).parents[1] / "README.md"
SCENE = "tiny-classifier"
COLUMNS = {"forget": "forgotten", "unseen": "unseen", "mia": "attack", "lira_auc": "LiRA", "gap": "gap"}


def made(seed: int) -> Pool:
    """The pool of that seed, in a folder of its own; the first one is the embedded scene's."""
    scene = open_scene(SCENE)
    forgetting = replace(scene.forgetting, seed=seed)
    pool, _ = start_pool(replace(scene, forgetting=forgetting, training={"seed": seed}))
    for outcome in run_sweep(missing_jobs(pool, reseeded(grid(SCENE), seed)), store=pool):
        assert outcome.failure is None, outcome.failure
    return pool.reload()


def compared(pool: Pool, terms: Terms) -> Comparison:
    bench = Workbench(pool)
    kept = KeptRows(pool, keep=KEEP, scales=DEFAULT_SCALES, device=bench.model.device, terms=terms)

    def tell(done, total, entrant):
        print(f"{pool.folder.name}: {done}/{total} {entrant.title}", file=sys.stderr, flush=True)

    return compare_rules(bench, keep=KEEP, scales=DEFAULT_SCALES, kept=kept, terms=terms, on_row=tell)


def cell(values, *, each=False) -> str:
    """The mean of the seeds and their range, in points; `each` tells every one instead of the mean."""
    shown = [100 * value for value in values if value is not None]
    if not shown:
        return "-"
    told = ", ".join(f"{value:.2f}" for value in shown) if each else f"{fmean(shown):.1f}"
    digits = 2 if each else 1
    return told if max(shown) - min(shown) < 0.05 else f"{told} ({min(shown):.{digits}f}-{max(shown):.{digits}f})"


def table(comparisons) -> str:
    scores = comparisons[0].rows[0].standing.scores
    n = {name: f", n = {scores[name]['n']}" if name in ("forget", "unseen") else "" for name in COLUMNS}
    seeds = f"{len(comparisons)} seeds: mean and range; of the gap every seed" if len(comparisons) > 1 else "one seed"
    heads = [f"test, % ({seeds})", *(f"{title}{n[name]}" for name, title in COLUMNS.items()), "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for rows in zip(*(comparison.rows for comparison in comparisons), strict=True):
        standings = [row.standing.values if row.standing else {} for row in rows]
        cells = [cell([values.get(name) for values in standings], each=name == "gap") for name in COLUMNS]
        title = rows[0].entrant.title
        title = f"**{title}**" if rows[0].entrant.name in ("negmerge", "retrain") else title
        seconds = [row.cost.wall for row in rows]
        lines.append(f"| {' | '.join([title, *cells, f'{fmean(seconds):.0f}'])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="pools to make where none is named (default 3)")
    parser.add_argument("--choose", default="gap", choices=CHOOSE, help="how scales and rates are chosen (default gap)")
    parser.add_argument("--shadows", type=int, default=8, help="shadow models of each seed (default 8)")
    parser.add_argument("--write", action="store_true", help="replace the table in README.md")
    options = parser.parse_args()
    comparisons = []
    for seed, folder in enumerate(options.pool or [None] * options.seeds):
        started = time.perf_counter()
        pool = open_pool(folder) if folder else made(seed)
        terms = Terms(options.choose, options.shadows, seed)
        comparisons.append(compared(pool, terms))
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s, less what was kept from before", file=sys.stderr)
    shown = table(comparisons)
    print(shown)
    if options.write:
        text = README.read_text(encoding="utf-8")
        pattern = re.compile(r"(<!-- classifiers: .*? -->\n).*?(<!-- /classifiers -->)", re.DOTALL)
        if not pattern.search(text):
            sys.exit("README.md has no place for it: put <!-- classifiers: ... --> and <!-- /classifiers --> there.")
        written = pattern.sub(lambda found: f"{found[1]}{shown.rstrip()}\n{found[2]}", text)
        README.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
