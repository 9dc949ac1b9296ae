"""`negmerge agreement`: on how many elements the candidates' signs agree, and why."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.checkpoints import merge_files
from negmerge_kit.checkpoints.normalise import read_map
from negmerge_kit.cli.options import Parser, print_json
from negmerge_kit.cli.pool_health import EXPLAINED, HEADS, health_cells, print_warnings
from negmerge_kit.cli.weight_files import add_name_flags
from negmerge_kit.pools.pool import RECORD, Pool, open_pool
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.analysis.step_along import Direction
    from negmerge_kit.analysis.why_signs import Why


def agreement(arguments: list[str]) -> int:
    """Count the elements on which the candidates' signs agree, and explain the count with --why."""
    parser = Parser("agreement", "On how many elements the candidates' signs agree, against chance.")
    parser.add_argument("base", metavar="BASE|POOL", help="safetensors file or folder; or a pool, on its own")
    parser.add_argument("candidate", nargs="*", metavar="CANDIDATE", help="fine-tuned copies of the base")
    parser.add_argument(
        "--why",
        action="store_true",
        help="with what cosines predict, along subsets and halves; of a pool also by hyperparameter, and what "
        "steps along consensus and conflict do (half a minute)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="figure as PNG, SVG or PDF")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    add_name_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.plot:
        from negmerge_kit.plots.save import check_place

        check_place(options.plot)
    pool = _pool(options, parser)
    base, files = options.base, options.candidate
    if pool is not None:
        base, files = pool.folder / pool.base_file.file, [pool.folder / entry.file for entry in pool.entries]
    names: Json = {"renames": read_map(options.map) if options.map else None, "ignore": options.ignore}
    result = merge_files.agreement_files(base, files, device=options.device, **names)
    why = _why(pool, base, files, options.device, names) if options.why else None
    if options.plot:
        _plot(why, base, files, options.plot, names)
    if options.json:
        print_json(result if why is None else {**result, "why": why.json()})
        return 0
    for note in result["notes"]:
        print(note)
    print(
        f"all {len(result['candidates'])} signs agree on {result['unanimous']:,} of {result['moved']:,} moved elements "
        f"({100 * result['unanimous_of_moved']:.1f} %, by chance {100 * result['chance']:.2f} %; "
        f"{100 * result['unanimous_fraction']:.1f} % of all {result['elements']:,})"
    )
    length = result["unanimous_of_length"]
    print(
        "of the plain average's length nothing can be said: a candidate holds values that are not finite"
        if length is None
        else f"unanimous elements hold {100 * length:.1f} % of the plain average's squared length"
    )
    wide = max((16, *(len(row["candidate"]) + 2 for row in result["health"])))
    print(f"\n{'candidate':{wide}}{HEADS}".rstrip())
    for row in result["health"]:
        print(f"{row['candidate']:{wide}}{health_cells(row)}".rstrip())
    print(EXPLAINED)
    print_warnings(result["health"], result["suggestion"])
    if why is not None:
        print(format_why(why))
    if options.plot:
        print(f"wrote {options.plot}")
    return 0


def format_why(why: Why) -> str:
    """Format the explanation as a few short tables."""
    decays = why.decay is not None and why.decay.elements > 0
    heads = f"{'':20}{'moved':>10}{'agree':>9}{'by decay alone' if decays else '':>{16 * decays}}"
    lines = ["", why.finding, why.decay_finding, "", f"{heads}{'expected from cosines':>24}"]
    for row in (*why.blocks, *why.kinds):
        alone = f"{100 * (row.decayed or 0) / row.moved:>14.1f} %" if decays else ""
        lines.append(
            f"{row.name:20}{row.moved:>10,}{100 * row.share:>7.1f} %{alone}{100 * row.expected.value:>22.1f} %"
        )
    lines += ["", f"{'candidates':20}{'zeros':>9}{'of random subsets':>22}{'by chance':>12}"]
    for size in why.zero_ratio:
        spread = f"{100 * size.least:.1f} to {100 * size.most:.1f} %"
        lines.append(f"{size.n:<20}{100 * size.mean:>7.1f} %{spread:>22}{100 * size.chance:>10.1f} %")
    if why.halves:
        overlap, lot, cosine = (
            sum(getattr(half, name) for half in why.halves) / len(why.halves)
            for name in ("overlap", "chance", "cosine")
        )
        lines += [
            "",
            f"two halves of the pool share {100 * overlap:.1f} % of their consensus (at random "
            f"{100 * lot:.1f} %); cosine of their merged deltas {cosine:.2f}; mean of {len(why.halves)} halvings",
        ]
    if why.fields:
        lines += ["", "share of the candidates' diversity of direction that goes with a hyperparameter:"]
    for name, found in why.fields.items():
        lines.append(
            f"  {name:18}cannot be known: another value for every candidate, or all alike"
            if found is None
            else f"  {name:18}{100 * found.share:.1f} % ({found.groups} values; at random {100 * found.chance:.1f} %, "
            f"p = {found.p:.3f})"
        )
    for direction in why.directions:
        for step in direction.steps[-1:]:
            lines.append(
                f"{direction.part:12} a step of {step.distance:.2f}: forget {100 * step.forget.value:+.1f} points "
                f"({100 * step.forget.low:+.1f} to {100 * step.forget.high:+.1f}, n = {step.forget.n}), retain "
                f"{100 * step.retain.value:+.1f} ({100 * step.retain.low:+.1f} to {100 * step.retain.high:+.1f}, "
                f"n = {step.retain.n}), {step.forget.split}"
            )
    return "\n".join(lines)


def _pool(options: argparse.Namespace, parser: Parser) -> Pool | None:
    if options.candidate:
        return None
    if not (Path(options.base) / RECORD).exists():
        parser.error(f"{options.base} is no pool and comes without candidates: give BASE CANDIDATE... or a POOL")
    pool = open_pool(options.base)
    if not pool.entries:
        parser.error(f"{options.base} holds no candidate yet: finish it with `negmerge pool build`")
    for repeat in pool.repeats:
        print(f"negmerge agreement: {repeat}", file=sys.stderr)
    return pool.only(pool.distinct)


def _why(pool: Pool | None, base: str | Path, files: list[str | Path], device: str, names: Json) -> Why:
    from negmerge_kit.analysis.decay import known_shift
    from negmerge_kit.analysis.why_signs import why_signs

    weights, candidates = merge_files.open_all(base, files, **names).compared()
    if pool is None:
        return why_signs(weights, candidates, names=[str(path) for path in files])
    steps = _steps(pool, device)
    return why_signs(
        weights,
        candidates,
        names=pool.ids,
        recipes=[entry.recipe for entry in pool.entries],
        shifts=[known_shift(entry) for entry in pool.entries],
        directions=steps,
    )


def _steps(pool: Pool, device: str) -> list[Direction]:
    from negmerge_kit.analysis.step_along import PARTS, STEPS, step_along
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.unlearning.workbench import Workbench

    with ProgressDisplay("steps along the parts", len(PARTS) * len(STEPS)) as display:
        return step_along(Workbench(pool, device=device), on_step=lambda progress: display.advance())


def _plot(why: Why | None, base: str | Path, files: list[str | Path], path: Path, names: Json) -> None:
    from negmerge_kit.plots.save import save_figure

    if why is not None:
        from negmerge_kit.plots.why_signs import why_figure

        save_figure(why_figure(why), path)
        return
    from negmerge_kit.merging import chance, sign_agreement
    from negmerge_kit.models.layers import split_attention
    from negmerge_kit.plots.scale_curve import agreement_by_layer

    weights, candidates = merge_files.open_all(base, files, **names).compared()
    layers = list(sign_agreement(split_attention(weights), [split_attention(candidate) for candidate in candidates]))
    n = len(candidates)
    save_figure(agreement_by_layer(layers, votes=n, chance=chance(n)), path)
