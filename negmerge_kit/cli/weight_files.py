"""`negmerge merge | apply | undo | convert`: weight files in, weight files out."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from negmerge_kit.checkpoints import merge_files
from negmerge_kit.checkpoints.digests import Digests
from negmerge_kit.checkpoints.legacy import convert_files
from negmerge_kit.checkpoints.normalise import read_map
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.cli.next_command import Words, evaluate_next, print_end, unlearned_file
from negmerge_kit.cli.options import Parser, add_executor_flags, add_gone_flag, add_rule_flags, print_json, rule_params
from negmerge_kit.cli.sweep import executor_of
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.layout import is_running_statistic
from negmerge_kit.merging.negation import GONE
from negmerge_kit.types import Json

OUT = "FILE.safetensors like the base, or, where the base has its config, a FOLDER with that and the tokenizer"


def merge(arguments: list[str], digests: Digests) -> int:
    """Merge candidates' deltas and write the unlearned checkpoint, the delta, or both; see `cli.merge`."""
    parser = _files_parser("merge", "Merge the candidates' deltas and subtract scale times the result from the base.")
    parser.add_argument("--out", type=Path, metavar="FILE|FOLDER", help=OUT)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the merged delta to subtract (default 1)")
    parser.add_argument("--delta-out", type=Path, metavar="FILE", help="the merged delta, sparse and bit-packed")
    parser.add_argument(
        "--nonfinite", default="refuse", choices=["refuse", "pass"], help="NaN and infinities in inputs"
    )
    add_gone_flag(parser, "--engine", GONE["engine"])
    parser.add_argument("--force", action="store_true", help="merge candidates that say they are of another base, too")
    add_rule_flags(parser)
    add_executor_flags(parser)
    options = parser.parse_args(arguments)
    if options.out is None and options.delta_out is None:
        parser.error("nothing to write: give --out, --delta-out or both")
    if options.buffers == "recalibrate":
        raise ParameterError(
            "--buffers recalibrate needs a pool's model and images, and files have none: use keep or "
            "merge here, or `negmerge unlearn POOL`."
        )
    if options.buffers == "merge" and not any(map(is_running_statistic, open_checkpoint(options.base))):
        raise ParameterError(f"{options.base} has no running statistics to merge: leave --buffers out.")
    result = (
        _by_shard(options)
        if options.executor != "serial"
        else merge_files.merge_files(
            options.base,
            options.candidate,
            out=options.out,
            delta_out=options.delta_out,
            scale=options.scale,
            rule=options.rule,
            device=options.device,
            buffers=options.buffers,
            nonfinite=options.nonfinite,
            force=options.force,
            renames=read_map(options.map) if options.map else None,
            ignore=options.ignore,
            digests=digests,
            **rule_params(options),
        )
    )
    return _print(
        options,
        result,
        f"{result['rule']} of {len(result['candidates'])} candidates: kept {result['kept']:,} of {result['moved']:,} "
        f"moved elements ({100 * result['kept_of_moved']:.1f} %; {100 * result['kept_fraction']:.1f} % of all "
        f"{result['elements']:,})",
        evaluate_next(options.out, [options.base])
        if options.out
        else ["apply", Path(options.base), options.delta_out, "--scale", options.scale, "--out", unlearned_file()],
    )


def _by_shard(options: Namespace) -> Json:
    """Merge by one job for each shard of the base."""
    if options.delta_out or options.nonfinite != "refuse":
        raise ParameterError("--executor merges shards into --out: leave out --delta-out and --nonfinite.")

    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.sweeps.merge_job import merge_sharded

    shards = len(open_checkpoint(options.base).files)
    with ProgressDisplay(f"shards of {options.out}", shards) as display:
        return merge_sharded(
            options.base,
            options.candidate,
            out=options.out,
            scale=options.scale,
            rule=options.rule,
            device=options.device,
            buffers=options.buffers,
            force=options.force,
            renames=read_map(options.map) if options.map else None,
            ignore=options.ignore,
            executor=executor_of(options),
            on_step=display.step,
            on_end=display.end,
            **rule_params(options),
        )


def apply(arguments: list[str]) -> int:
    """Write the base minus scale times a delta that was merged before."""
    options = _delta_parser("apply", "Subtract scale times a merged delta from the base.", "BASE").parse_args(arguments)
    result = merge_files.apply_file(options.base, options.delta, scale=options.scale, out=options.out)
    return _print(options, result, f"wrote {result['out']}", evaluate_next(options.out, [options.base]))


def undo(arguments: list[str]) -> int:
    """Write the base again from an unlearned checkpoint and the delta that was applied to it."""
    options = _delta_parser("undo", "Give the base back, bit for bit.", "UNLEARNED").parse_args(arguments)
    result = merge_files.undo_file(options.base, options.delta, scale=options.scale, out=options.out)
    return _print(options, result, f"wrote {result['out']}")


def convert(arguments: list[str]) -> int:
    """Turn old pickled checkpoints into safetensors; nothing in them is executed."""
    parser = Parser(
        "convert", "Turn pickled checkpoints into safetensors; nothing named in them is imported or called."
    )
    parser.add_argument("old", nargs="+", metavar="OLD.pt")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the converted files")
    parser.add_argument("--weights", metavar="NAME", help="which of several state dicts, such as state_dict_ema")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    result = convert_files(options.old, options.out, weights=options.weights)
    lines = []
    for file in result["files"]:
        dropped = f"; dropped {', '.join(file['dropped'])}" if file["dropped"] else ""
        lines.append(f"{file['path']} -> {file['out']}: {file['tensors']} tensors{dropped}")
        lines += [f"note: {note}" for note in file["notes"]]
    files = [Path(file["out"]) for file in result["files"]]
    if len(files) == 1 or len({file["tensors"] for file in result["files"]}) > 1:  # not a base and its candidates
        return _print(options, result, "\n".join(lines), ["merge", "--help"])
    lines.append("next takes the first file as the base, the others as its candidates")
    return _print(options, result, "\n".join(lines), ["merge", *files, "--out", unlearned_file(taken=files)])


def _files_parser(verb: str, about: str) -> Parser:
    parser = Parser(verb, about)
    parser.add_argument("base", metavar="BASE", help="safetensors file or folder, single or sharded")
    parser.add_argument("candidate", nargs="+", metavar="CANDIDATE", help="fine-tuned copies of the base")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    add_name_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def add_name_flags(parser: Parser) -> None:
    """Add the flags that match the tensor names of base and candidates."""
    parser.add_argument(
        "--map",
        type=Path,
        metavar="FILE",
        help="lines old = new: candidates' names, or beginnings with a dot at the end, to the base's",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that may differ and stay the base's, such as '*.position_ids'; may be given several times",
    )


def _delta_parser(verb: str, about: str, first: str) -> Parser:
    parser = Parser(verb, about)
    parser.add_argument("base", metavar=first)
    parser.add_argument("delta", metavar="DELTA", help="what `negmerge merge --delta-out` wrote")
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE|FOLDER", help=OUT)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _print(options: Namespace, result: Json, line: str, *commands: Words) -> int:
    if options.json:
        print_json(result)
    else:
        print(*result.get("notes", ()), line, sep="\n")
        print_end(*commands)
    return 0
