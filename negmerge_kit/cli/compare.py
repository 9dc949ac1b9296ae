"""`negmerge compare`: rules held against each other on one pool or several, as tables, JSON and a figure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negmerge_kit.cli.classifier_tables import standings_spread, standings_table
from negmerge_kit.cli.compare_tables import costs_table, differences_table, rules_table, spread_table
from negmerge_kit.cli.next_command import Words, print_end, same_flags, unlearned_file
from negmerge_kit.cli.options import (
    SCALES,
    Parser,
    add_buffers_flag,
    add_executor_flags,
    add_recompute_flag,
    candidate_ids,
    print_json,
    unlearn_parser,
)
from negmerge_kit.cli.sweep import spread
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.rules import RULES
from negmerge_kit.progress import Progress
from negmerge_kit.scoring.early_stopping import AUTO, parse_scales
from negmerge_kit.scoring.scale_search import KEEP
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.comparison.compare import Comparison
    from negmerge_kit.comparison.methods import Method
    from negmerge_kit.comparison.options import ComparisonOptions
    from negmerge_kit.comparison.row_store import RowStore
    from negmerge_kit.pools.pool import Pool
    from negmerge_kit.scoring.paired_bootstrap import Resampled

ABOUT = (
    "Hold merge rules against each other: the paper's protocol, and forgetting at matched retention. On a standard "
    "classifier's pool also against every baseline, with the membership attacks and the gap to the retrained model. "
    "Finished rules are kept in POOL/comparisons and not computed again."
)


def compare(arguments: list[str]) -> int:
    """Compare merge rules by the paper's protocol and at matched retention."""
    parser = _parser()
    options = parser.parse_args(arguments)
    same = same_flags(parser, options, unlearn_parser("unlearn", ""))

    from negmerge_kit.comparison.compare import across, is_classifier
    from negmerge_kit.comparison.methods import find_methods
    from negmerge_kit.comparison.options import PLAIN, ComparisonOptions
    from negmerge_kit.pools.pool import open_pool

    pools = [open_pool(folder, force=options.force) for folder in options.pool]
    if (ids := candidate_ids(options)) is not None:
        pools = [_only(pool, ids) for pool in pools]
    classifier = is_classifier(pools[0])
    methods = find_methods(options.rules, options.baselines, classifier=classifier)
    _refuse(options, methods, pools)
    options.keep = KEEP if options.keep is None else options.keep
    terms = ComparisonOptions(options.choose, options.shadows, options.seed, options.epochs) if classifier else PLAIN
    comparisons: list[Comparison] = []
    for pool in pools:
        comparison, kept = compare_pool(pool, methods, terms, options)
        comparisons.append(comparison)
        for warning in comparison.warnings:
            print(f"negmerge compare: {pool.folder}: {warning}", file=sys.stderr)
    first = comparisons[0]
    resampled = _resample(first, options) if options.resample else None
    subsets = _redraw(first, kept, options) if options.subsets else ()
    if options.plot:
        from negmerge_kit.plots.classifier_comparison import standings_figure
        from negmerge_kit.plots.frontier import rule_frontier
        from negmerge_kit.plots.save import save_figure

        figure = standings_figure(comparisons) if classifier else rule_frontier(comparisons, resampled)
        save_figure(figure, options.plot)
    result = _json(comparisons, resampled, subsets, options)
    if options.json:
        print_json(result)
    else:
        for comparison in comparisons:
            print(standings_table(comparison) if classifier else rules_table(comparison))
        if len(comparisons) > 1:
            table = standings_spread if classifier else spread_table
            print(table(result["across"], f"{len(comparisons)} pools"))
        if resampled:
            print(differences_table(first, resampled, options.reference))
        if subsets:
            print(spread_table(across(subsets, independent=False), f"{len(subsets)} subsets, which overlap"))
        print(costs_table(first))
        if options.plot:
            print(f"wrote {options.plot}")
        print_end(*_next(first, pools[0], same))
    if not any(comparison.feasible for comparison in comparisons):
        print(
            f"infeasible: at no scale above 0, from the first step on, does any rule keep {options.keep:g} of the "
            "base's retention. Try a lower --keep or finer --scales.",
            file=sys.stderr,
        )
        return 2
    return 0


def _next(comparison: Comparison, pool: Pool, same: Words) -> list[Words]:
    """Next command: unlearn by the table's first rule; which one is best is left to the reader."""
    rows = [row for row in comparison.rows if row.method.rule in RULES and row.scale]
    if not rows:
        return []
    if len(rows) > 1:
        print(f"next takes the first of {len(rows)} rules that have a scale: choose yours with --rule and its dials")
    first = rows[0]
    dials = {dial.name: dial.default for dial in RULES[first.method.rule].parameters}
    chosen = [
        word
        for name, value in first.params.items()
        if value != dials[name]
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    return [["unlearn", pool.folder, *same, "--rule", first.method.rule, *chosen, "--out", unlearned_file(pool)]]


def _parser() -> argparse.ArgumentParser:
    parser = Parser("compare", ABOUT)
    add = parser.add_argument
    add("pool", nargs="+", type=Path, metavar="POOL", help="one pool, or several of one scene")
    add("--rules", default="all", metavar="RULE,RULE", help="all, none, or names, with dials as in ties:density=0.1")
    add(
        "--baselines",
        default="all",
        metavar="NAME,NAME",
        help="all, none, or names: single and greedy search over "
        "candidates; a classifier's pool also takes retrain, salun and the other baselines",
    )
    add(
        "--choose",
        default="floor",
        metavar="floor|gap",
        help="classifier: scales and rates by the retention floor "
        "or by the smallest gap to the retrained model on validation (an oracle)",
    )
    add("--shadows", type=int, default=0, metavar="K", help="classifier: shadow models for the likelihood ratio attack")
    add(
        "--epochs",
        type=int,
        metavar="N",
        help="classifier: passes of every baseline and of the retrained model, "
        "for a quick look (default: those of the papers)",
    )
    add("--candidates", metavar="ID,ID", help="compare on these candidates only (default: all)")
    add("--keep", type=float, help="share of the base's retention to keep (default 0.95)")
    add("--scales", default=AUTO, metavar="A:B:STEP", help=SCALES)
    add_buffers_flag(parser)
    add("--resample", type=int, default=0, metavar="B", help="bootstrap the images B times; scores every scale in full")
    add("--reference", default="negmerge", metavar="RULE", help="the rule that --resample takes differences to")
    add("--subsets", type=int, default=0, metavar="K", help="compare on K subsets of the candidates, too")
    add("--subset-size", type=int, metavar="N", help="candidates of a subset (default: half)")
    add("--seed", type=int, default=0, help="seed of --resample and --subsets, of baselines and shadow models")
    add("--plot", type=Path, metavar="FILE", help="the rules and their frontier, as PNG, SVG or PDF")
    add_recompute_flag(parser)
    add("--force", action="store_true", help="let candidates of another base in; the result names them")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--json", action="store_true", help="print JSON")
    add_executor_flags(parser)
    return parser


def _only(pool: Pool, ids: Sequence[str]) -> Pool:
    """The pool with the candidates of --candidates and no others."""
    for id in ids:
        pool.entry(id)  # raises for an unknown id
    if len(set(ids)) != len(ids) or len(ids) < 2:
        raise ParameterError(f"--candidates is {','.join(ids)!r}: name at least two, each one once.")
    return pool.only(ids)


def _refuse(options: argparse.Namespace, methods: Sequence[Method], pools: Sequence[Pool]) -> None:
    """Raise ParameterError for flags that cannot work, before the long work begins."""
    from negmerge_kit.classifier_eval.retrained_model import RetrainedSpec, require_retrained
    from negmerge_kit.comparison.classifier_rule_rows import models_to_make
    from negmerge_kit.comparison.compare import is_classifier
    from negmerge_kit.comparison.options import ComparisonOptions
    from negmerge_kit.devices import pick_device

    if len({pool.folder.resolve() for pool in pools}) < len(pools):
        raise ParameterError("a pool is named twice: name each one once.")
    if len(scenes := {pool.scene["name"] for pool in pools}) > 1:
        raise ParameterError(f"these pools are of different scenes ({', '.join(sorted(scenes))}): compare one scene.")
    for flag, count in (("--resample", options.resample), ("--subsets", options.subsets)):
        if count < 0:
            raise ParameterError(f"{flag} is {count}: give how many to draw, or leave it out.")
    if is_classifier(pools[0]) and (options.resample or options.subsets):
        raise ParameterError("--resample and --subsets do not know a classifier's metrics: leave them out.")
    if not is_classifier(pools[0]) and (options.choose != "floor" or options.shadows or options.epochs is not None):
        given = {
            "--choose": options.choose != "floor",
            "--shadows": options.shadows,
            "--epochs": options.epochs is not None,
        }
        flags = [flag for flag, value in given.items() if value]
        raise ParameterError(f"{pools[0].folder} is no standard classifier's pool: leave {' and '.join(flags)} out.")
    if options.choose == "gap" and options.keep is not None:
        raise ParameterError("--choose gap has no floor to keep: leave --keep out.")
    if options.choose == "gap" and "val" not in models_to_make(methods, ComparisonOptions("gap")):
        wanted = RetrainedSpec(seed=options.seed, epochs=options.epochs, device=pick_device(options.device).type)
        for pool in pools:
            require_retrained(pool, wanted.other)
    if len(pools) > 1 and (options.resample or options.subsets):
        raise ParameterError("--resample and --subsets look at one pool: name one, or leave them out.")
    if options.resample and options.reference not in {method.name for method in methods}:
        raise ParameterError(f"--reference {options.reference} is not among the compared rules: name one of them.")
    if options.subsets:
        from negmerge_kit.comparison.subset_draws import draw_subsets, half

        ids = pools[0].distinct
        draw_subsets(ids, options.subsets, options.subset_size or half(ids), seed=options.seed)
    if options.plot:
        from negmerge_kit.plots.save import check_place

        check_place(options.plot)


def compare_pool(
    pool: Pool, methods: Sequence[Method], terms: ComparisonOptions, options: argparse.Namespace
) -> tuple[Comparison, RowStore]:
    """Compare on one pool as the flags say, showing how far it is; finished rows are kept in the pool."""
    from negmerge_kit.cli.progress import ProgressDisplay, now
    from negmerge_kit.comparison.compare import compare_rules
    from negmerge_kit.comparison.row_store import RowStore
    from negmerge_kit.unlearning.workbench import Workbench

    scales, recompute = parse_scales(options.scales), options.recompute
    if options.executor != "serial":
        from negmerge_kit.sweeps.comparison_job import comparison_jobs

        _make_reference(pool, methods, terms, options.device, recompute)
        jobs = comparison_jobs(
            pool,
            methods,
            keep=options.keep,
            scales=scales,
            device=options.device,
            recompute=recompute,
            options=terms,
            buffers=options.buffers,
        )
        spread(f"comparing on {pool.folder}", jobs, options, last="last rule")
        recompute = False  # the pool keeps the rows now: what follows reads them
    bench = Workbench(pool, device=options.device)
    if options.buffers != "keep":
        bench.choose(buffers=options.buffers)  # refused before the bar
    same: dict[str, Any] = {"keep": options.keep, "scales": scales, "buffers": options.buffers, "options": terms}
    kept = RowStore(pool, device=bench.model.device, recompute=recompute, **same)
    # Those before the last one say nothing about how long it takes.
    with ProgressDisplay(f"comparing on {pool.folder}", len(methods), last="") as display:
        row, before = "retraining", None

        def on_row(progress: Progress) -> None:
            nonlocal row, before
            row, before = progress.message, progress.step
            display.show(row, done=progress.step)

        def on_step(progress: Progress) -> None:
            # One bar over all rates of a baseline. Before the first row no row is under way.
            part = None if before is None else before + progress.step / progress.total
            display.show(now(row, progress), done=part)

        comparison = compare_rules(
            bench, methods, kept=kept, on_row=on_row, on_step=on_step, recompute=recompute, **same
        )
        display.show(done=len(methods))
    return comparison, kept


def _make_reference(
    pool: Pool, methods: Sequence[Method], terms: ComparisonOptions, device: str, recompute: bool
) -> None:
    """Retrain, and train the shadow models, before rows are worked out elsewhere: all of them need these models."""
    from negmerge_kit.cli.progress import ProgressDisplay, now
    from negmerge_kit.comparison.baseline_rows import evaluator_of, retrained
    from negmerge_kit.comparison.classifier_rule_rows import models_to_make
    from negmerge_kit.comparison.compare import is_classifier
    from negmerge_kit.unlearning.workbench import Workbench

    if not is_classifier(pool):
        return
    models = models_to_make(methods, terms)
    if not models and not terms.shadows:
        return
    with ProgressDisplay(f"before comparing on {pool.folder}", len(models) + terms.shadows) as display:
        evaluator = evaluator_of(
            Workbench(pool, device=device),
            terms,
            on_shadow=lambda progress: display.show(progress.message, done=len(models) + progress.step),
        )
        for made, split in enumerate(models):

            def on_step(progress: Progress, made: int = made) -> None:
                display.show(now("retraining", progress), done=made)

            retrained(evaluator, terms, on_step, split=split, recompute=recompute)
            display.show(done=made + 1)
        _ = evaluator.shadows  # trained now, kept in the pool


def _resample(comparison: Comparison, options: argparse.Namespace) -> dict[str, Resampled]:
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.comparison.bootstrap import resample

    with ProgressDisplay("every scale in full", len(comparison.rows)) as display:
        return resample(
            comparison,
            reference=options.reference,
            replicates=options.resample,
            seed=options.seed,
            on_row=lambda progress: display.show(progress.message, done=progress.step),
        )


def _redraw(comparison: Comparison, kept: RowStore, options: argparse.Namespace) -> tuple[Comparison, ...]:
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.comparison.subset_draws import redraw

    with ProgressDisplay("subsets", options.subsets * len(comparison.rows)) as display:
        return redraw(
            comparison,
            options.subsets,
            size=options.subset_size,
            seed=options.seed,
            kept=kept,
            on_row=lambda progress: display.show(progress.message, done=progress.step),
        )


def _json(
    comparisons: Sequence[Comparison],
    resampled: dict[str, Resampled] | None,
    subsets: Sequence[Comparison],
    options: argparse.Namespace,
) -> Json:
    """JSON object of one comparison; of several pools, every row with its pool, and the spread over the pools."""
    from negmerge_kit.comparison.compare import across

    first = comparisons[0].json()
    if len(comparisons) > 1:
        rows = [{"pool": one.pool, **row} for one in comparisons for row in one.json()["rows"]]
        return {
            "keep": first["keep"],
            "seeds": len(comparisons),
            "scales": first["scales"],
            "beyond": first["beyond"],
            "buffers": first["buffers"],
            "pools": [{k: v for k, v in one.json().items() if k not in ("rows", "seeds")} for one in comparisons],
            "rows": rows,
            "across": across(comparisons),
        }
    if resampled:
        first["resampled"] = {
            "reference": options.reference,
            "replicates": options.resample,
            "seed": options.seed,
            "rules": {name: found.json() for name, found in resampled.items()},
        }
    if subsets:
        first["subsets"] = {
            "seed": options.seed,
            "draws": [list(one.candidates) for one in subsets],
            "across": across(subsets, independent=False),
        }
    return first
