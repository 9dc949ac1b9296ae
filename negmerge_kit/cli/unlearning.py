"""`negmerge search | unlearn | evaluate`: from a pool to an unlearned checkpoint and its numbers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.flags import (
    SCALES,
    Parser,
    add_choice_flags,
    add_gone_flag,
    candidate_ids,
    percent,
    print_json,
    rule_params,
)
from negmerge_kit.cli.last_lines import print_end, same_flags, unlearned_file
from negmerge_kit.errors import ParameterError, SceneError, check_scale
from negmerge_kit.scoring.floors import KEEP, keep_text, parse_keep
from negmerge_kit.scoring.grid import AUTO, parse_scales
from negmerge_kit.scoring.scale import BISECT_GONE
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.lab.resident import Choice
    from negmerge_kit.lab.retrained import Retrained
    from negmerge_kit.lab.workbench import Workbench
    from negmerge_kit.scoring.floors import Keep
    from negmerge_kit.scoring.grid import Scales
    from negmerge_kit.scoring.scale import ScaleSearch


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
    for pool in options.pool:
        bench, _, result = run_search(options, pool, test=options.test)
        results.append(result)
        if result["status"] == "ok" and result["scale"] > 0:
            outs[pool] = unlearned_file(bench.pool, taken=outs.values())
        if not options.json:
            if len(options.pool) > 1:
                print(f"{pool}:")
            _tell(result)
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
    return write_unlearned(options, options.pool, options.out)


def unlearn_parser(verb: str, about: str) -> argparse.ArgumentParser:
    """The options of every verb that writes an unlearned checkpoint from a pool."""
    parser = search_parser(verb, about)
    parser.add_argument("--card", type=Path, metavar="FILE", help="its card, JSON and Markdown (default: beside FILE)")
    parser.add_argument("--audit", action="store_true", help="probe what is left, and tell it in the card (a minute)")
    parser.add_argument("--scale", default="auto", help="auto, or a number to use instead of searching")
    return parser


def places(out: Path, card: Path | None, inputs: Sequence[Path]) -> Path:
    """Where the card goes; what must not be written over is refused, weights or card, before the long work."""
    from negmerge_kit.checkpoints.outputs import CHECKPOINT, check_output
    from negmerge_kit.views.card_files import card_path, check_card

    if out.suffix != ".safetensors":
        raise ParameterError(f"{out} has no .safetensors ending, by which loaders know the format: name it so.")
    check_output(out, CHECKPOINT, inputs)
    beside = card_path(out, card)
    check_card(beside, inputs)
    return beside


def write_unlearned(options: argparse.Namespace, pool: Path, out: Path) -> int:
    """Search, score, write checkpoint and card, and say so; the exit code."""
    from negmerge_kit.checkpoints.pool import open_pool
    from negmerge_kit.checkpoints.writer import save_checkpoint
    from negmerge_kit.lab.card import BY_HAND, card, with_file
    from negmerge_kit.lab.report import searched
    from negmerge_kit.views.card_files import card_files, run_from

    beside = places(out, options.card, open_pool(pool, force=options.force).read_from)
    by_hand = scale_by_hand(options.scale)
    bench, choice, result = run_search(options, pool, test=True, by_hand=by_hand)
    result |= {"out": None, "card": None}
    if result["status"] == "ok" and result["scale"] == 0 and result["choose"] == "gap":
        raise ParameterError(
            "no scale above 0 is nearer to the retrained model than the base: nothing was written. "
            "Try finer --scales or other --candidates."
        )
    if result["status"] == "ok" and result["scale"] == 0 and by_hand is None:
        raise ParameterError(f"{result['outcome']}, so nothing was written. {result['remedy']}")
    if result["status"] == "ok":
        items = bench.unlearned(choice, result["scale"])
        chosen = BY_HAND[0] if by_hand is not None else searched(result)
        record = card(bench, choice, result, chosen=chosen, probes=_audited(bench, choice, result, options.audit))
        with card_files(beside) as write:
            written = save_checkpoint(out, items, like=bench.pool.base, metadata=record)
            write(with_file(record, written) | run_from(bench.pool.folder, beside))
        result |= {"out": str(written), "card": str(beside)}
    if options.json:
        print_json(result)
    else:
        _tell(result)
        print_end(*([["verify", beside]] if result["card"] else []))
    return 0 if result["status"] == "ok" else 2


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

    from negmerge_kit.checkpoints.pool import open_pool
    from negmerge_kit.checkpoints.reader import open_checkpoint
    from negmerge_kit.lab.evaluation import evaluate_splits
    from negmerge_kit.vision.scene import Scene, open_scene

    weights = open_checkpoint(options.file)
    if (Path(options.scene) / "pool.json").exists():
        pool = open_pool(options.scene)
        scene = Scene.from_json(pool.scene)
        scene.require(pool.scene)
        model = scene.load(device=options.device, heads=pool.heads)
        model.load(pool.base.items())
        model.anchor()
    else:
        scene = open_scene(options.scene)
        model = scene.load(device=options.device)
    ours = model.weights()
    model.load(weights.items())
    text = [name for name in ours if not name.startswith("visual.")] if model.has_text else []
    after = model.weights()
    if any(not after[name].equal(ours[name]) for name in text):
        raise SceneError(
            f"{options.file} has another text tower than {options.scene}: give the pool it was made from as --scene."
        )
    result = evaluate_splits(model, scene.images(options.split).to(model.device)).json()
    if options.json:
        print_json(result)
        return 0
    print(f"forget {percent(result['forget'])}\nretain {percent(result['retain'])}")
    for name, score in result["families"].items():
        print(f"  {name:10} {percent(score)}")
    return 0


def search_parser(verb: str, about: str) -> argparse.ArgumentParser:
    """The options of every verb that searches a scale."""
    parser = Parser(verb, about)
    parser.add_argument(
        "--keep",
        metavar="SHARE|NAME=SHARE,...",
        help="share of the base's retention to keep, or each named retain set's own; all must hold (default 0.95)",
    )
    parser.add_argument("--scales", default=AUTO, metavar="A:B:STEP", help=SCALES)
    parser.add_argument(
        "--exhaustive",
        action="store_const",
        dest="method",
        const="exhaustive",
        default="early",
        help="score every scale in full",
    )
    add_gone_flag(parser, "--bisect", BISECT_GONE)
    parser.add_argument(
        "--choose",
        default="floor",
        choices=["floor", "gap"],
        help="by the retention floor or, for a classifier, the smallest gap to the pool's retrained "
        "model on validation (an oracle: it needs that model)",
    )
    parser.add_argument("--force", action="store_true", help="merge candidates of another base, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_choice_flags(parser)
    return parser


def _audited(bench: Workbench, choice: Choice, result: Json, wanted: bool) -> Json | None:
    if not wanted:
        return None
    from negmerge_kit.lab.audits.audit import audit

    return audit(bench, choice, result["scale"]).json()


def scale_by_hand(text: str) -> float | None:
    """What --scale says: None for auto, else the number."""
    if text == "auto":
        return None
    try:
        return check_scale(float(text))
    except ValueError:
        raise ParameterError(f"scale '{text}': write auto, or a finite number of 0 or more.") from None


def grid_and_floor(options: argparse.Namespace) -> tuple[Scales, Keep]:
    """What --scales and --keep say; what --choose gap would not heed is refused."""
    if options.choose == "gap":
        given = {
            "--keep": options.keep is not None,
            "--scale": vars(options).get("scale", "auto") != "auto",
            "--unlearned": vars(options).get("unlearned") is not None,
        }
        if idle := [flag for flag, there in given.items() if there]:
            raise ParameterError(f"--choose gap looks at every scale and has no floor: leave {' and '.join(idle)} out.")
    return parse_scales(options.scales), KEEP if options.keep is None else parse_keep(options.keep)


def run_search(
    options: argparse.Namespace, pool: Path, *, test: bool, by_hand: float | None = None
) -> tuple[Workbench, Choice, Json]:
    """Open a pool, choose by the rule flags, and search the scale or take the one given by hand."""
    from negmerge_kit.checkpoints.pool import open_pool
    from negmerge_kit.lab.report import search_json
    from negmerge_kit.lab.workbench import Workbench

    scales, keep = grid_and_floor(options)
    bench = Workbench(open_pool(pool, force=options.force), device=options.device)
    choice = bench.choose(candidate_ids(options), options.rule, rule_params(options), buffers=options.buffers)
    started, held = time.perf_counter(), None
    if by_hand is None and options.choose == "gap":
        held, found = _nearest(bench, choice, scales)
    elif by_hand is None:
        found = bench.search(choice, keep=keep, scales=scales, method=options.method)
    else:
        found = bench.fixed(choice, by_hand, keep=keep)
    result = search_json(bench, choice, found, test=test, started=started)
    if held is not None:
        result["retrained"] = held.json()
    return bench, choice, result if by_hand is None else result | {"keep": None}


def _nearest(bench: Workbench, choice: Choice, scales: Scales) -> tuple[Retrained, ScaleSearch]:
    """The search, and the retrained model that it was held against: of several, the one that chooses in `compare`."""
    from negmerge_kit.lab.retrained import ANY, Wanted
    from negmerge_kit.lab.yardstick import Yardstick

    yardstick = Yardstick(bench, chooser=ANY.other)
    held = yardstick.require()
    yardstick.chooser = Wanted(sha256=held.sha256)  # this one to the end, even if another is made meanwhile
    return held, yardstick.nearest(choice, scales=scales)


def _tell(result: Json) -> None:
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
