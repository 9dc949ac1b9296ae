"""The README's table of classifiers: the embedded network forgets a random tenth, by every rule and every baseline.

    python benchmarks/classifier.py [POOL ...] [--seeds 3] [--choose gap] [--shadows 8] [--write]

Without a POOL it makes the pools, in the user's cache: for each seed another tenth to forget, another base, other
candidates, other retrained models, other shadow models. One retrained model and one half of the forgotten and of the
remaining images choose, another model and the other half report. Prints a Markdown table with a point for each seed and
their range, the facts that may be said of it, and how long each seed took from nothing to the table; with `--write`
table and facts also replace those in README.md, between `<!-- classifiers: ... -->` and `<!-- /classifiers -->`.
Finished rows are kept in the pools, so a stopped run goes on where it was.
"""

import argparse
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from negmerge_kit.comparison.compare import Comparison, compare_rules
from negmerge_kit.comparison.options import CHOOSE, ComparisonOptions
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.pools.pool import Pool, open_pool
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES, KEEP
from negmerge_kit.sweeps.finetune_job import missing_jobs
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import grid, reseeded
from negmerge_kit.unlearning.workbench import Workbench

README = Path(__file__).parents[1] / "README.md"
SCENE = "tiny-classifier"
COLUMNS = {"forget": "forgotten", "unseen": "unseen", "mia": "attack", "lira_auc": "LiRA", "gap": "gap"}


def made(seed: int) -> Pool:
    """The pool of that seed, in a separate folder; the first one is the embedded scene's."""
    scene = open_scene(SCENE)
    forgetting = replace(scene.forgetting, seed=seed)
    pool, _ = start_pool(replace(scene, forgetting=forgetting, training={"seed": seed}))
    for outcome in run_sweep(missing_jobs(pool, reseeded(grid(SCENE), seed)), store=pool):
        assert outcome.failure is None, outcome.failure
    return pool.reload()


def compared(pool: Pool, terms: ComparisonOptions) -> Comparison:
    bench = Workbench(pool)
    kept = RowStore(pool, keep=KEEP, scales=DEFAULT_SCALES, device=bench.model.device, options=terms)

    def show(progress):
        print(f"{pool.folder.name}: {progress.message}", file=sys.stderr, flush=True)

    return compare_rules(bench, keep=KEEP, scales=DEFAULT_SCALES, kept=kept, options=terms, on_row=show)


def cell(values, *, each=False) -> str:
    """The mean of the seeds and their range, in points; `each` lists every one instead of the mean."""
    shown = [100 * value for value in values if value is not None]
    if not shown:
        return "-"
    text = ", ".join(f"{value:.2f}" for value in shown) if each else f"{fmean(shown):.1f}"
    digits = 2 if each else 1
    return text if max(shown) - min(shown) < 0.05 else f"{text} ({min(shown):.{digits}f}-{max(shown):.{digits}f})"


def table(comparisons) -> str:
    scores = comparisons[0].rows[0].metrics.scores
    chosen_on, shared = comparisons[0].images["val"], comparisons[0].images["shared"]
    n = dict.fromkeys(COLUMNS, "")
    for name, part in (("forget", "forgotten"), ("unseen", "unseen")):
        chosen = "the same" if part in shared else f"{chosen_on[part]} others"
        n[name] = f", n = {scores[name]['n']} (chosen on {chosen})"
    seeds = f"{len(comparisons)} seeds: mean and range; of the gap every seed" if len(comparisons) > 1 else "one seed"
    heads = [f"test, % ({seeds})", *(f"{title}{n[name]}" for name, title in COLUMNS.items()), "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for rows in zip(*(comparison.rows for comparison in comparisons), strict=True):
        standings = [row.metrics.values if row.metrics else {} for row in rows]
        cells = [cell([values.get(name) for values in standings], each=name == "gap") for name in COLUMNS]
        title = rows[0].method.title
        title = f"**{title}**" if rows[0].method.name in ("negmerge", "retrain", "retrain-again") else title
        seconds = [row.cost.wall for row in rows]
        lines.append(f"| {' | '.join([title, *cells, f'{fmean(seconds):.0f}'])} |")
    return "\n".join(lines)


def place(gaps, name) -> str:
    """The place of one name among the gaps, smallest first, as a range where others have the very same.

    >>> place({"a": 0.2, "b": 0.1, "c": 0.2}, "c"), place({"a": 0.2, "b": 0.1}, "b")
    ('2nd to 3rd of 3', '1st of 2')
    """
    values = sorted(round(gap, 6) for gap in gaps.values())
    first = 1 + values.index(round(gaps[name], 6))
    last = first + values.count(round(gaps[name], 6)) - 1
    return f"{ordinal(first)}{f' to {ordinal(last)}' if last > first else ''} of {len(values)}"


def ordinal(n) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def facts(comparisons) -> str:
    """Sentences that the table supports, each number from its rows; gaps in points, by the mean of the seeds."""
    titles, gaps = {}, {}
    for rows in zip(*(comparison.rows for comparison in comparisons), strict=True):
        values = [row.metrics.values.get("gap") if row.metrics else None for row in rows]
        method = rows[0].method
        titles[method.name] = method.title
        if method.name not in ("base", "retrain", "retrain-again") and None not in values:
            gaps[method.name] = fmean(values)
    ours, best = gaps["negmerge"], min(gaps, key=gaps.get)
    sentences = [
        f"By the mean of its gaps NegMerge ({100 * ours:.2f}) is {place(gaps, 'negmerge')} rows that unlearn; "
        f"first is {titles[best]} ({100 * gaps[best]:.2f}), the plain average ({100 * gaps['uniform']:.2f}) "
        f"{place(gaps, 'uniform')}, the random mask ({100 * gaps['random-mask']:.2f}) "
        f"{place(gaps, 'random-mask')}."
    ]
    noise = [comparison.noise_floor for comparison in comparisons]
    if None not in noise:
        within = [comparison.within_noise for comparison in comparisons]
        sentences.append(
            f"Two retrained models are {cell(noise, each=True)} apart, and "
            f"{', '.join(f'{near} of {count}' for near, count in within)} rows are no farther than that from "
            "the one that judges."
        )
        nearer = sum(gap <= fmean(noise) for gap in gaps.values())
        sentences.append(f"By the means {nearer} of {len(gaps)} rows are within this noise.")
    forgotten, unseen = (comparisons[0].images["test"][name] for name in ("forgotten", "unseen"))
    sentences.append(
        f"One image is {25 / forgotten:.2f} points of gap among the {forgotten} forgotten ones that report, "
        f"and {25 / unseen:.2f} among the {unseen} unseen ones."
    )
    return " ".join(sentences)


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
        terms = ComparisonOptions(options.choose, options.shadows, seed)
        comparisons.append(compared(pool, terms))
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s, less what was kept from before", file=sys.stderr)
    shown = f"{table(comparisons)}\n\n{facts(comparisons)}"
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
