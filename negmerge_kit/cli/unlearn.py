"""`negmerge search | unlearn | evaluate`: from a pool to an unlearned checkpoint and its numbers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.next_command import print_end, same_flags, unlearned_file
from negmerge_kit.cli.options import (
    Parser,
    candidate_ids,
    percent,
    print_json,
    rule_params,
    search_parser,
    unlearn_parser,
)
from negmerge_kit.errors import ParameterError, check_scale
from negmerge_kit.scoring.early_stopping import parse_scales
from negmerge_kit.scoring.retention_floor import KEEP, keep_text, parse_keep
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.pipeline import PoolSearch, SearchOptions, Unlearned


def search(arguments: list[str]) -> int:
    """Find the scale that forgets most on validation with retention at its floor."""
    parser = search_parser(
        "search", "Find the scale that forgets most on validation while retention stays at its floor; one a pool."
    )
    parser.add_argument("pool", type=Path, nargs="+", metavar="POOL", help="searched in turn, one forget set each")
    parser.add_argument("--test", action="store_true", help="score the chosen scale once on test")
    options = parser.parse_args(arguments)
    results, outs = [], dict[Path, Path]()
    same = same_flags(parser, options, unlearn_parser("unlearn", ""))
    for folder in options.pool:
        found = run_search(options, folder, test=options.test)
        result = found.result
        results.append(result)
        if result["status"] == "ok" and result["scale"] > 0:
            outs[folder] = unlearned_file(found.bench.pool, taken=outs.values())
        if not options.json:
            if len(options.pool) > 1:
                print(f"{folder}:")
            print_search(result)
    if options.json:
        named = [{"pool": str(pool), **result} for pool, result in zip(options.pool, results, strict=True)]
        print_json(results[0] if len(results) == 1 else {"searches": named})
    else:
        print_end(*(["unlearn", pool, *same, "--out", out] for pool, out in outs.items()))
    return 0 if all(result["status"] == "ok" for result in results) else 2


def unlearn(arguments: list[str]) -> int:
    """Search on validation, score once on test, and write the unlearned checkpoint with its card."""
    parser = unlearn_parser(
        "unlearn", "Write the unlearned checkpoint: scale chosen on validation, scored once on test."
    )
    parser.add_argument("pool", type=Path, metavar="POOL")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    options = parser.parse_args(arguments)

    from negmerge_kit.pipeline import unlearn_pool
    from negmerge_kit.pools.pool import open_pool

    unlearned = unlearn_pool(
        open_pool(options.pool, force=options.force),
        options.out,
        search_options(options),
        card=options.card,
        audit=options.audit,
        device=options.device,
    )
    return print_unlearned(unlearned, options)


def print_unlearned(unlearned: Unlearned, options: argparse.Namespace) -> int:
    """Print what was written, or why nothing was; the exit code."""
    if options.json:
        print_json(unlearned.result)
    else:
        print_search(unlearned.result)
        print_end(*([["verify", unlearned.card]] if unlearned.card else []))
    return 0 if unlearned.weights else 2


def evaluate(arguments: list[str]) -> int:
    """Score a checkpoint on a scene's forget and retain sets."""
    parser = Parser("evaluate", "Score a checkpoint on a scene's forget and retain sets.")
    parser.add_argument("file", type=Path, metavar="FILE", help="safetensors checkpoint with the base's key set")
    parser.add_argument(
        "--scene", required=True, metavar="SCENE", help="tiny:FAMILY, tiny-classifier, a pool folder or a FILE.toml"
    )
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    from negmerge_kit.pipeline import evaluate_file

    result = evaluate_file(options.file, options.scene, split=options.split, device=options.device).json()
    if options.json:
        print_json(result)
        return 0
    print(f"forget {percent(result['forget'])}\nretain {percent(result['retain'])}")
    for name, score in result["families"].items():
        print(f"  {name:10} {percent(score)}")
    return 0


def scale_by_hand(text: str) -> float | None:
    """Value of --scale: None for auto, else the number."""
    if text == "auto":
        return None
    try:
        return check_scale(float(text))
    except ValueError:
        raise ParameterError(f"scale '{text}': write auto, or a finite number of 0 or more.") from None


def search_options(options: argparse.Namespace) -> SearchOptions:
    """Search options from the flags; raises for those that --choose gap would ignore."""
    from negmerge_kit.pipeline import SearchOptions

    by_hand = scale_by_hand(getattr(options, "scale", "auto"))
    if options.choose == "gap":
        given = {
            "--keep": options.keep is not None,
            "--scale": by_hand is not None,
            "--unlearned": vars(options).get("unlearned") is not None,
        }
        if idle := [flag for flag, there in given.items() if there]:
            raise ParameterError(f"--choose gap looks at every scale and has no floor: leave {' and '.join(idle)} out.")
    return SearchOptions(
        rule=options.rule,
        params=rule_params(options),
        candidates=candidate_ids(options),
        buffers=options.buffers,
        keep=KEEP if options.keep is None else parse_keep(options.keep),
        scales=parse_scales(options.scales),
        method=options.method,
        choose=options.choose,
        scale=by_hand,
    )


def run_search(options: argparse.Namespace, folder: Path, *, test: bool) -> PoolSearch:
    """Open a pool, merge it as the flags say, and search the scale or take the one given by hand."""
    from negmerge_kit.pipeline import search_pool
    from negmerge_kit.pools.pool import open_pool

    asked = search_options(options)
    return search_pool(open_pool(folder, force=options.force), asked, test=test, device=options.device)


def print_search(result: Json) -> None:
    """Print a search, or what was written after it, as text."""
    base = result["base"]
    floor = "scale by hand" if result["keep"] is None else f"keeping {keep_text(result['keep'])}"
    if result["choose"] == "gap":
        held = result["retrained"]
        floor = (
            f"nearest on validation to the retrained model {held['file']} (seed {held['seed']}, "
            f"{held['epochs']} epochs)"
        )
    print(f"rule {result['rule']}, {floor}")
    print(f"base    forget {percent(base['forget'])}\n        retain {percent(base['retain'])}")
    if result["status"] != "ok":
        print(f"infeasible: {result['outcome']}. {result['remedy']}", file=sys.stderr)
        return
    low, high = result["range"]
    print(f"scale {result['scale']:g}" + (f", of {low:g} to {high:g}" if result["keep"] is not None else ""))
    if result["outcome"]:
        print(f"        {result['outcome']}" + (f". {result['remedy']}" if result["remedy"] else ""))
    print(f"        forget {percent(result['forget'])}\n        retain {percent(result['retain'])}")
    if result["test"]:
        print(f"test    forget {percent(result['test']['forget'])}\n        retain {percent(result['test']['retain'])}")
    if result.get("out"):
        print(f"wrote {result['out']}\nwrote {result['card']} and {Path(result['card']).with_suffix('.md').name}")
