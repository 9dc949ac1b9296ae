"""How far signs agree where candidates see the images in orders of their own, in a shared one, and in a fixed one.

    python benchmarks/orders.py [own shared fixed]

Fine-tunes the embedded grid on the embedded scene once for each order (see `Recipe.order`), in the user's cache; what
is finished there is not trained again. Prints a Markdown table.
"""

import argparse
from dataclasses import replace
from itertools import combinations
from statistics import fmean

from negmerge_kit.merging import chance, check_pool
from negmerge_kit.pools.pool import Pool
from negmerge_kit.sweeps.finetune_job import missing_jobs
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import ORDERS, grid

SCENE = "tiny:digits"


def made(order: str) -> Pool:
    """The embedded pool, or one next to it whose candidates see the images in that order."""
    pool, _ = start_pool(SCENE)
    if order != "own":
        pool, _ = start_pool(SCENE, pool.folder.with_name(f"{pool.folder.name}-{order}"))
    for outcome in run_sweep(missing_jobs(pool, [replace(recipe, order=order) for recipe in grid("tiny")]), store=pool):
        assert outcome.failure is None, outcome.failure
    return pool.reload()


def line(order: str) -> str:
    pool = made(order)
    found = check_pool(pool.base, [pool.candidate(id) for id in pool.ids])
    votes, cosines = found.agreement, found.cosines
    pairs = [cosines[a][b] for a, b in combinations(range(len(pool.ids)), 2)]
    share = votes.unanimous_of_moved
    shown = f"{100 * share:.1f} % of {votes.moved:,} | {share / chance(len(pool.ids)):.0f} times | {fmean(pairs):.3f}"
    return f"| {order} | {len(pool.ids)} | {shown} ({min(pairs):.3f}-{max(pairs):.3f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("order", nargs="*", default=ORDERS, help="own, shared, fixed (default all)")
    print("| order of the images | candidates | unanimous, of moved elements | of chance | mean cosine (range) |")
    print("|---|---|---|---|---|")
    for order in parser.parse_args().order:
        print(line(order), flush=True)


if __name__ == "__main__":
    main()
