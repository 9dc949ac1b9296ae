"""The README's table: the paper's protocol on the embedded scene, scored once on test.

    python benchmarks/embedded.py [POOL] [--write]

Prints a Markdown table and the paired interval of NegMerge against the base; with `--write` it
also replaces the table in README.md. A pool that is not named is the embedded one in the user's cache.
"""

import argparse
import re
from pathlib import Path

from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.lab.evaluation import Scores
from negmerge_kit.lab.recipe import Recipe, grid
from negmerge_kit.lab.resident import Choice
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.merging import chance, total
from negmerge_kit.scoring import paired_difference
from negmerge_kit.sweeps.embedded import start_pool
from negmerge_kit.sweeps.jobs import missing_jobs
from negmerge_kit.sweeps.local import run_sweep

README = Path(__file__).parents[1] / "README.md"


def share(score) -> str:
    low, high = score.interval
    return f"{100 * score.value:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def row(title: str, scale: str, scores: Scores, base: Scores) -> str:
    kept = scores.retain.value / base.retain.value
    return f"| {title} | {scale} | {share(scores.forget)} | {share(scores.retain)} | {100 * kept:.1f} % |"


def paired(bench: Workbench, choice: Choice, scale: float) -> tuple[float, float, float]:
    """Change in forget accuracy on test, image by image, with its 95 % interval."""
    forget = bench.images("test").forget
    right = []
    for which, at in ((None, 0.0), (choice, scale)):
        _, (names,) = bench.look(which, at, [forget])
        right.append([name == forget.classes[int(label)] for name, label in zip(names, forget.labels, strict=True)])
    lost = sum(a and not b for a, b in zip(*right, strict=True))
    gained = sum(b and not a for a, b in zip(*right, strict=True))
    return (gained - lost) / len(forget), *paired_difference(lost, gained, len(forget))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", nargs="?", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the table in README.md")
    options = parser.parse_args()
    if options.pool:
        pool = open_pool(options.pool)
    else:
        pool, _ = start_pool("tiny:digits")
        for outcome in run_sweep(missing_jobs(pool, grid("tiny")), store=pool):
            assert outcome.failure is None, outcome.failure
        pool = pool.reload()
    bench = Workbench(pool)
    base = bench.base_scores("test")

    singles = []
    for entry in pool.entries:
        choice = bench.choose([entry.id])
        found = bench.search(choice).best
        singles.append((found.forget.correct, entry, choice, found.scale))
    singles.sort(key=lambda item: item[0])
    lines = [
        f"| test accuracy | scale | forget: {base.forget.n} images | retain: {base.retain.n} images | retention |",
        "|---|---|---|---|---|",
        row("base", "-", base, base),
    ]
    for title, (_, entry, choice, scale) in (("unluckiest candidate", singles[-1]), ("luckiest candidate", singles[0])):
        label = Recipe.from_json(entry.recipe).label
        lines.append(row(f"{title} ({label})", f"{scale:.2f}", bench.score(choice, scale, "test"), base))
    for rule in ("uniform", "negmerge"):
        choice = bench.choose(rule=rule)
        found = bench.search(choice).best
        title = f"{rule}, all {len(pool.ids)}"
        if rule == "negmerge":
            title = f"**NegMerge, all {len(pool.ids)}**"
            change = paired(bench, choice, found.scale)
        lines.append(row(title, f"{found.scale:.2f}", bench.score(choice, found.scale, "test"), base))
    table = "\n".join(lines)
    print(table)
    value, low, high = change
    print(f"\nforget, NegMerge minus base, paired: {value:+.3f} (95 % interval {low:+.3f} to {high:+.3f})")
    every = total(bench.agreement())
    print(
        f"unanimous: {every.unanimous_of_moved:.3f} of moved, chance {chance(len(pool.ids)):.4f}, "
        f"{every.unanimous_of_moved / chance(len(pool.ids)):.0f} times"
    )
    if options.write:
        text = README.read_text(encoding="utf-8")
        pattern = re.compile(r"(<!-- table: .*? -->\n).*?(\n<!-- /table -->)", re.DOTALL)
        README.write_text(pattern.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
