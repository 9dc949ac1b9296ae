"""Options that several verbs share, and how results are printed."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.rules import RULES
from negmerge_kit.scoring.early_stopping import AUTO, FARTHEST
from negmerge_kit.scoring.scale_search import BISECT_GONE
from negmerge_kit.types import Json

SCALES = (
    "scales to try and no others; 0:1:0.05 is the paper's grid (default auto: that grid and, where retention has not "
    f"met its floor at 1, on to 2, 4, 8 … {FARTHEST:g} until it does, then in twentieths of the last doubling)"
)


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises one sentence instead of printing its usage; the exit code is 2."""

    def __init__(self, verb: str, about: str) -> None:
        super().__init__(prog=f"negmerge {verb}", description=about, allow_abbrev=False)

    def error(self, message: str) -> Any:
        """Raise instead of printing the whole usage."""
        raise ParameterError(f"{message}. `{self.prog} --help` tells the options.")


class _Gone(argparse.Action):
    """Action that refuses an option with its `const`, the sentence that names the replacement."""

    def __call__(self, *given: object, **named: object) -> None:
        raise ParameterError(f"{self.option_strings[0]} is gone: {self.const}")


def add_gone_flag(parser: argparse._ActionsContainer, flag: str, instead: str) -> None:
    """Keep the name of a removed option for one version: refused with a remedy, and absent from --help.

    >>> parser = Parser("search", "")
    >>> add_gone_flag(parser, "--old", "use --new.")
    >>> parser.parse_args(["--old", "3"])
    Traceback (most recent call last):
    negmerge_kit.errors.ParameterError: --old is gone: use --new.
    """
    # One value or none, so that options with and without one are refused alike.
    parser.add_argument(flag, action=_Gone, nargs="?", const=instead, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_recompute_flag(parser: argparse.ArgumentParser) -> None:
    """Add --recompute, for verbs whose rows the pool keeps."""
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="compute again what is kept in the pool: rows, trials, and the retrained model where it is a row",
    )
    add_gone_flag(parser, "--anew", "use --recompute.")


def add_rule_flags(parser: argparse.ArgumentParser) -> None:
    """Add --rule and one flag for each parameter of any rule in RULES."""
    cautions = " ".join(f"{name}: {rule.caution}" for name, rule in RULES.items() if rule.caution)
    group = parser.add_argument_group("rule flags", cautions.replace("%", "%%"))
    group.add_argument("--rule", default="negmerge", choices=list(RULES), help="how the candidates' deltas merge")
    rules_by_parameter: dict[str, list[str]] = {}
    for name, rule in RULES.items():
        for parameter in rule.parameters:
            rules_by_parameter.setdefault(parameter.name, []).append(name)
    for name, rules in rules_by_parameter.items():
        dials = {rule: item for rule in rules for item in RULES[rule].parameters if item.name == name}
        parameter = dials[rules[0]]
        defaults = [f"{rule} {item.default}" for rule, item in dials.items()]
        if len({item.default for item in dials.values()}) == 1:
            defaults = [f"{', '.join(rules)}; default {parameter.default}"]
        tries = f"; compare searches {'/'.join(f'{v:g}' for v in parameter.tries)}" * bool(parameter.tries)
        kind = {"float": float, "int": int, "choice": str}[parameter.kind]
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"rule_{name}",
            type=kind,
            metavar="|".join(map(str, parameter.choices)) if parameter.kind == "choice" else kind.__name__.upper(),
            help=f"{parameter.explains.replace('%', '%%')} ({', '.join(defaults)}{tries})",
        )
    add_buffers_flag(group)


def add_buffers_flag(parser: argparse._ActionsContainer) -> None:
    """Add --buffers, which decides what becomes of BatchNorm's running statistics."""
    parser.add_argument(
        "--buffers",
        default="keep",
        choices=["keep", "merge", "recalibrate"],
        help="BatchNorm statistics: the base's, merged, or re-estimated on remaining training images (pools only)",
    )


def rule_params(options: argparse.Namespace) -> dict[str, Any]:
    """Rule parameters given as flags, by name; the rule fills in the rest.

    Raises:
        ParameterError: for a parameter that the rule does not have; the message names the rules that do.
    """
    flags = {name.removeprefix("rule_"): value for name, value in vars(options).items() if name.startswith("rule_")}
    given = {name: value for name, value in flags.items() if value is not None}
    own = {parameter.name for parameter in RULES[options.rule].parameters}
    if strange := [name for name in given if name not in own]:
        owners = [name for name, rule in RULES.items() if strange[0] in {dial.name for dial in rule.parameters}]
        raise ParameterError(
            f"--{strange[0].replace('_', '-')} is no dial of --rule {options.rule}: leave it out, or choose --rule "
            f"{' or '.join(owners)}."
        )
    return given


def add_choice_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every verb over a pool takes: rule flags, --candidates and --device."""
    add_rule_flags(parser)
    parser.add_argument("--candidates", metavar="ID,ID", help="merge only these candidates (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def candidate_ids(options: argparse.Namespace) -> list[str] | None:
    """Ids named by --candidates, or None for all."""
    return (
        [id.strip() for id in options.candidates.split(",") if id.strip()] if options.candidates is not None else None
    )


def search_parser(verb: str, about: str) -> argparse.ArgumentParser:
    """Parser with the options of every verb that searches a scale."""
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


def unlearn_parser(verb: str, about: str) -> argparse.ArgumentParser:
    """Parser with the options of every verb that writes an unlearned checkpoint from a pool."""
    parser = search_parser(verb, about)
    parser.add_argument("--card", type=Path, metavar="FILE", help="its card, JSON and Markdown (default: next to FILE)")
    parser.add_argument("--audit", action="store_true", help="probe what is left, and tell it in the card (a minute)")
    parser.add_argument("--scale", default="auto", help="auto, or a number to use instead of searching")
    return parser


def forget_parser() -> argparse.ArgumentParser:
    """Parser with the options of `negmerge forget`."""
    parser = unlearn_parser("forget", "Make a model forget data of your own; goes on where it was stopped.")
    parser.add_argument("--model", required=True, metavar="NAME", help="open_clip architecture, timm:NAME, or tiny")
    parser.add_argument("--pretrained", metavar="TAG", help="its weights: a tag, or a file")
    add_size_flag(parser)
    parser.add_argument("--forget", required=True, metavar="DATA", help="a data set's name, folder:PATH or hf:NAME")
    parser.add_argument("--retain", required=True, action="append", metavar="DATA", help="what to keep; repeatable")
    parser.add_argument("--grid", required=True, metavar="GRID", help="a preset's name, or FILE.toml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for pool, checkpoint and card")
    parser.add_argument("--mode", default="standard", choices=["standard", "linear"], help="how candidates are trained")
    add_corrupt_flag(parser)
    add_pixel_flags(parser)
    add_executor_flags(parser)
    add_training_flags(parser)
    return parser


def add_executor_flags(parser: argparse.ArgumentParser) -> None:
    """Add --executor and its settings, which decide where the jobs run."""
    group = parser.add_argument_group("where the jobs run")
    group.add_argument(
        "--executor",
        default="serial",
        metavar="serial|process|ray",
        help="one after another, in processes of this machine (one a GPU), or on a Ray cluster (default serial)",
    )
    group.add_argument("--workers", type=int, metavar="N", help="jobs at a time (default: one a GPU, or one a core)")
    group.add_argument("--address", metavar="HOST:PORT", help="Ray cluster to join (default: one on this machine)")
    group.add_argument("--gpus-per-job", type=float, metavar="X", help="share of a GPU that a Ray job takes, as 0.5")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every verb takes that trains candidates."""
    parser.add_argument(
        "--anyway", action="store_true", help="train even if the base does not know what it should forget"
    )
    group = parser.add_argument_group("memory and speed")
    group.add_argument("--micro-batch", type=int, metavar="N", help="images in one pass, where a batch needs too much")
    group.add_argument("--compile", action="store_true", help="run the image tower through torch.compile")
    group.add_argument(
        "--precision", metavar="float32|bfloat16|float16", help="what the image tower computes in (default: the grid's)"
    )
    add_gone_flag(
        parser,
        "--processes",
        "candidates train one a GPU with --executor process, or on a cluster with --executor ray.",
    )


def add_size_flag(parser: argparse.ArgumentParser) -> None:
    """Add --size, for images of another size than the model's own."""
    parser.add_argument("--size", type=int, metavar="PIXELS", help="pixels a side of its images (default: the model's)")


def add_corrupt_flag(parser: argparse.ArgumentParser) -> None:
    """Add --corrupt, which decides what becomes of images that cannot be decoded."""
    parser.add_argument(
        "--corrupt",
        default="refuse",
        choices=["refuse", "skip"],
        help="refuse images that cannot be decoded, or count, name and leave them out",
    )


def add_pixel_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for reading pixels, which `as_rgb` takes."""
    parser.add_argument(
        "--orientation",
        default="stored",
        choices=["stored", "exif"],
        help="rows as the file stores them (as torchvision), or photographs turned as EXIF says",
    )
    parser.add_argument(
        "--transparency",
        default="stored",
        choices=["stored", "white", "black"],
        help="transparent pixels in their stored colours (as torchvision), or laid onto a colour",
    )


def reading_of(options: argparse.Namespace) -> dict[str, Any]:
    """Values of the flags that the two functions above add, as a scene takes them."""
    return {name: getattr(options, name) for name in ("corrupt", "orientation", "transparency")}


def print_json(result: Json) -> None:
    """Print one JSON object on standard output; raises ValueError for NaN, which JSON does not have."""
    print(json.dumps(result, indent=2, allow_nan=False))


def percent(score: Json | None) -> str:
    """Format a score object: value, interval, n and split."""
    if score is None:
        return "not scored"
    low, high = 100 * score["low"], 100 * score["high"]
    return f"{100 * score['value']:5.1f} %  (95 % interval {low:.1f}-{high:.1f}, n = {score['n']}, {score['split']})"


def seconds(value: float) -> str:
    """Format a duration with two digits where they matter.

    >>> seconds(0.0123), seconds(75.4)
    ('12 ms', '75 s')
    """
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.{0 if value >= 10 or math.isinf(value) else 1}f} s"
