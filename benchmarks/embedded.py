"""The README's table: every rule on the embedded scene, by the paper's protocol and at equal retention.

    python benchmarks/embedded.py [POOL ...] [--seeds 3] [--plot FILE] [--write]

Without a POOL it makes the pools, in the user's cache: the same base and the same grid, fine-tuned with other seeds
(the first pool is the embedded one). The protocol's columns keep the paper's grid, which ends at 1; a dagger marks a
scale where that grid ended before the floor. Prints a Markdown table with a point for each pool and their range, and
the facts of the README's sentences: NegMerge's place, what retention is on test where validation matched it and how
forgetting follows it, and what else is said of the first pool; with `--write` it also replaces the table in README.md.
Finished rows are kept in the pools, so a stopped run goes on where it was.
"""

import argparse
import re
import sys
from pathlib import Path
from statistics import correlation, median

from negmerge_kit.comparison.compare import Comparison, compare_rules
from negmerge_kit.comparison.row import Pair
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.merging import chance, total
from negmerge_kit.plots.style import placed
from negmerge_kit.pools.pool import Pool, open_pool
from negmerge_kit.scoring import paired_difference
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES, KEEP
from negmerge_kit.sweeps.finetune_job import missing_jobs
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import Recipe, grid, reseeded
from negmerge_kit.unlearning.workbench import Workbench

README = Path(__file__).parents[1] / "README.md"
SCENE = "tiny:digits"


def made(seed: int) -> Pool:
    """The pool of that seed, in which every candidate has another image order."""
    pool, _ = start_pool(SCENE)
    if seed:
        pool, _ = start_pool(SCENE, pool.folder.with_name(f"{pool.folder.name}-seed{seed}"))
    for outcome in run_sweep(missing_jobs(pool, reseeded(grid("tiny"), seed)), store=pool):
        assert outcome.failure is None, outcome.failure
    return pool.reload()


def compared(pool: Pool) -> tuple[Workbench, Comparison]:
    bench = Workbench(pool)
    kept = RowStore(pool, keep=KEEP, scales=DEFAULT_SCALES, device=bench.model.device)

    def show(progress):
        print(f"{pool.folder.name}: {progress.message}", file=sys.stderr, flush=True)

    return bench, compare_rules(bench, keep=KEEP, scales=DEFAULT_SCALES, kept=kept, on_row=show)


def unluckiest(bench: Workbench) -> tuple[float, Pair]:
    """The candidate that forgets least at its own best scale on validation, scored on test there."""
    entry = max((e for e in bench.pool.entries if e.scores["forget"]), key=lambda e: e.scores["forget"]["value"])
    scores = bench.score(bench.choose([entry.id]), entry.scores["scale"], "test")
    return entry.scores["scale"], Pair(scores.forget, scores.retain)


def points(values) -> str:
    """A point a pool, and their range; no interval is pretended."""
    shown = [value for value in values if value is not None]
    if not shown:
        return "-"
    texts = ", ".join("-" if value is None else f"{100 * value:.1f}" for value in values)
    if len(set(values)) == 1:
        return f"{100 * shown[0]:.1f}"
    return f"{texts} ({100 * min(shown):.1f}-{100 * max(shown):.1f})"


def line(title, scales, *columns) -> str:
    cells = [title, ", ".join(scales) or "-", *(points(values) for values in columns)]
    return f"| {' | '.join(cells)} |"


def scale_of(row) -> str:
    """The protocol's scale; a dagger where the paper's grid ended before retention met its floor."""
    if row.scale is None:
        return "-"
    return f"{row.scale:.2f}{'†' if row.ended == 'grid' else ''}"


def table(benches, comparisons) -> str:
    first = comparisons[0].base["test"]
    many = f"{len(comparisons)} pools: a point each, and their range" if len(comparisons) > 1 else "one pool"
    lines = [
        f"| test accuracy, % ({many}) | scale | forget, n = {first.forget.n} | retain, n = {first.retain.n} "
        "| forget at matched retention | retain there | forget at equal test retention |",
        "|---|---|---|---|---|---|---|",
        line(
            "base",
            [],
            [c.base["test"].forget.value for c in comparisons],
            [c.base["test"].retain.value for c in comparisons],
            *[[]] * 3,
        ),
    ]
    worst = [unluckiest(bench) for bench in benches]
    lines.append(
        line(
            "unluckiest candidate",
            [f"{scale:.2f}" for scale, _ in worst],
            [pair.forget.value for _, pair in worst],
            [pair.retain.value for _, pair in worst],
            *[[]] * 3,
        )
    )
    for rows in zip(*(comparison.rows for comparison in comparisons), strict=True):
        title = rows[0].method.title
        lines.append(
            line(
                f"**{title}**" if rows[0].method.name == "negmerge" else title,
                [scale_of(row) for row in rows],
                [row.test and row.test.forget.value for row in rows],
                [row.test and row.test.retain.value for row in rows],
                [row.matched and row.matched.test.forget.value for row in rows],
                [row.matched and row.matched.test.retain.value for row in rows],
                [row.equal and row.equal.value for row in rows],
            )
        )
    return "\n".join(lines)


def say_of_all(comparisons) -> None:
    """NegMerge's place by the median of the pools, at matched and at equal test retention, and why they differ."""
    names = [row.method.name for row in comparisons[0].rows]
    rows = {name: [row for c in comparisons for row in c.rows if row.method.name == name] for name in names}
    print(f"\n{len(comparisons)} pools on one base and one draw of images")
    for title, value in (
        ("matched retention (validation)", lambda row: row.matched and row.matched.test.forget.value),
        ("equal test retention", lambda row: row.equal and row.equal.value),
    ):
        every = {name: [value(row) for row in found if value(row) is not None] for name, found in rows.items()}
        middle = {name: median(values) for name, values in every.items() if values}
        ours = middle["negmerge"]
        print(f"{title}: NegMerge is {placed(ours, list(middle.values()))}, median {ours:.3f}")
        order = sorted(middle, key=lambda name: middle[name])
        print(f"  least forgotten digits left first: {', '.join(f'{name} {100 * middle[name]:.1f}' for name in order)}")
        for c in comparisons:
            own = [value(row) for row in c.rows if value(row) is not None]
            (ours,) = (value(row) for row in c.rows if row.method.name == "negmerge")
            print(f"  {Path(c.pool).name}: {placed(ours, own)}")
    for c in comparisons:
        there = [row.matched.test for row in c.rows if row.matched]
        kept, left = [pair.retain.value for pair in there], [pair.forget.value for pair in there]
        print(
            f"{Path(c.pool).name}: at matched retention rules keep {100 * min(kept):.1f} to {100 * max(kept):.1f} % "
            f"on test; correlation of forget and retain there {correlation(kept, left):.2f}"
        )


def say_of_the_first(bench: Workbench, comparison: Comparison) -> None:
    """NegMerge against the base, image by image, and how often all signs agree."""
    (row,) = (row for row in comparison.rows if row.method.name == "negmerge")
    scorer = comparison.runner.scorer
    before = scorer.answers(None, 0.0, "test").forget
    after = scorer.answers(bench.choose(rule="negmerge"), row.scale, "test").forget
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    low, high = paired_difference(lost, gained, len(before))
    change = (gained - lost) / len(before)
    print(f"\nfirst pool: forget, NegMerge minus base, paired: {change:+.3f} (95 % interval {low:+.3f} to {high:+.3f})")
    every, n = total(bench.agreement()), len(bench.pool.ids)
    share = every.unanimous_of_moved
    print(f"unanimous: {share:.3f} of moved, chance {chance(n):.4f}, {share / chance(n):.0f} times")
    recipes = {entry.id: Recipe.from_json(entry.recipe).label for entry in bench.pool.entries}
    (single,) = (row for row in comparison.rows if row.method.name == "single")
    print(f"best single candidate: {recipes[single.candidates[0]]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="pools to make where none is named (default 3)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the rules and their frontier")
    parser.add_argument("--write", action="store_true", help="replace the table in README.md")
    options = parser.parse_args()
    pools = [open_pool(folder) for folder in options.pool] or [made(seed) for seed in range(options.seeds)]
    benches, comparisons = zip(*(compared(pool) for pool in pools), strict=True)
    shown = table(benches, comparisons)
    print(shown)
    say_of_all(comparisons)
    say_of_the_first(benches[0], comparisons[0])
    if options.plot:
        from negmerge_kit.plots.frontier import rule_frontier
        from negmerge_kit.plots.save import save_figure

        save_figure(rule_frontier(comparisons), options.plot)
    if options.write:
        text = README.read_text(encoding="utf-8")
        pattern = re.compile(r"(<!-- table: .*? -->\n).*?(\n<!-- /table -->)", re.DOTALL)
        README.write_text(pattern.sub(lambda found: found[1] + shown + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
