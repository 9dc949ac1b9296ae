"""`negmerge merge | agreement | apply | undo | convert`: weight files in, weight files out."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from negmerge_kit.checkpoints import operations
from negmerge_kit.checkpoints.legacy import convert_files
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.cli.flags import Parser, add_rule_flags, print_json, rule_params, seconds
from negmerge_kit.types import Json


def merge(arguments: list[str]) -> int:
    """Merge candidates' deltas and write the unlearned checkpoint, the delta, or both."""
    parser = _files_parser("merge", "Merge the candidates' deltas and subtract scale times the result from the base.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="unlearned checkpoint to write, like the base")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the merged delta to subtract (default 1)")
    parser.add_argument("--delta-out", type=Path, metavar="FILE", help="the merged delta, sparse and bit-packed")
    parser.add_argument(
        "--nonfinite", default="refuse", choices=["refuse", "pass"], help="NaN and infinities in inputs"
    )
    parser.add_argument(
        "--engine",
        default="auto",
        choices=["auto", "fused", "plain"],
        help="compiled loop where it pays (auto), always where there is a compiler, or never; the bits are the same",
    )
    parser.add_argument("--force", action="store_true", help="merge candidates that say they are of another base, too")
    add_rule_flags(parser)
    options = parser.parse_args(arguments)
    if options.out is None and options.delta_out is None:
        parser.error("nothing to write: give --out, --delta-out or both")
    result = operations.merge_files(
        options.base,
        options.candidate,
        out=options.out,
        delta_out=options.delta_out,
        scale=options.scale,
        rule=options.rule,
        device=options.device,
        buffers=options.buffers,
        nonfinite=options.nonfinite,
        engine=options.engine,
        force=options.force,
        **rule_params(options),
    )
    return _print(
        options,
        result,
        f"{result['rule']} of {len(result['candidates'])} candidates: kept {result['kept']:,} of {result['moved']:,} "
        f"moved elements ({100 * result['kept_of_moved']:.1f} %; {100 * result['kept_fraction']:.1f} % of all "
        f"{result['elements']:,}) in {seconds(result['seconds'])}",
    )


def agreement(arguments: list[str]) -> int:
    """Tell on how many elements the candidates' signs agree."""
    parser = _files_parser("agreement", "On how many elements the candidates' signs agree, against chance.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="bars by layer, as PNG, SVG or PDF")
    options = parser.parse_args(arguments)
    result = operations.agreement_files(options.base, options.candidate, device=options.device)
    if options.plot:
        _plot(options)
    return _print(
        options,
        result,
        f"all {len(result['candidates'])} signs agree on {result['unanimous']:,} of {result['moved']:,} moved elements "
        f"({100 * result['unanimous_of_moved']:.1f} %, by chance {100 * result['chance']:.2f} %; "
        f"{100 * result['unanimous_fraction']:.1f} % of all {result['elements']:,})",
    )


def apply(arguments: list[str]) -> int:
    """Write the base minus scale times a delta that was merged before."""
    options = _delta_parser("apply", "Subtract scale times a merged delta from the base.", "BASE").parse_args(arguments)
    result = operations.apply_file(options.base, options.delta, scale=options.scale, out=options.out)
    return _print(options, result, f"wrote {result['out']} in {seconds(result['seconds'])}")


def undo(arguments: list[str]) -> int:
    """Write the base again from an unlearned checkpoint and the delta that was applied to it."""
    options = _delta_parser("undo", "Give the base back, bit for bit.", "UNLEARNED").parse_args(arguments)
    result = operations.undo_file(options.base, options.delta, scale=options.scale, out=options.out)
    return _print(options, result, f"wrote {result['out']} in {seconds(result['seconds'])}")


def convert(arguments: list[str]) -> int:
    """Turn old pickled checkpoints into safetensors; nothing in them is executed."""
    parser = Parser(
        "convert", "Turn pickled checkpoints into safetensors; nothing named in them is imported or called."
    )
    parser.add_argument("old", nargs="+", metavar="OLD.pt")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the converted files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    result = convert_files(options.old, options.out)
    lines = []
    for file in result["files"]:
        dropped = f"; dropped {', '.join(file['dropped'])}" if file["dropped"] else ""
        lines.append(f"{file['path']} -> {file['out']}: {file['tensors']} tensors{dropped}")
    return _print(options, result, "\n".join(lines))


def _files_parser(verb: str, about: str) -> Parser:
    parser = Parser(verb, about)
    parser.add_argument("base", metavar="BASE", help="safetensors file or folder, single or sharded")
    parser.add_argument("candidate", nargs="+", metavar="CANDIDATE", help="fine-tuned copies of the base")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _delta_parser(verb: str, about: str, first: str) -> Parser:
    parser = Parser(verb, about)
    parser.add_argument("base", metavar=first)
    parser.add_argument("delta", metavar="DELTA", help="what `negmerge merge --delta-out` wrote")
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _plot(options: Namespace) -> None:
    from negmerge_kit.merging import chance, sign_agreement
    from negmerge_kit.views.plots import agreement_by_layer
    from negmerge_kit.views.save import save_figure
    from negmerge_kit.vision.layers import split_attention

    base = open_checkpoint(options.base)
    candidates = [operations.open_candidate(path, base) for path in options.candidate]
    layers = list(sign_agreement(split_attention(base), [split_attention(candidate) for candidate in candidates]))
    n = len(candidates)
    save_figure(agreement_by_layer(layers, votes=n, chance=chance(n)), options.plot)


def _print(options: Namespace, result: Json, line: str) -> int:
    if options.json:
        print_json(result)
    else:
        print(line)
    return 0
