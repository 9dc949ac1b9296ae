"""`negmerge audit`: what can still be got out of an unlearned model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.next_command import Words, print_end, same_flags, unlearned_file
from negmerge_kit.cli.options import print_json, search_parser, unlearn_parser
from negmerge_kit.cli.unlearn import scale_by_hand, search_options

if TYPE_CHECKING:
    from negmerge_kit.audits.audit import Audit
    from negmerge_kit.audits.probe import Measurement, Probe
    from negmerge_kit.types import Weights
    from negmerge_kit.unlearning.workbench import Workbench


def audit(arguments: list[str]) -> int:
    """Probe a merge, or an unlearned file, for what is left of the forget set."""
    from negmerge_kit.audits.audit import PROBES, check_asked
    from negmerge_kit.audits.audit import audit as run_audit

    parser = search_parser("audit", "Probe an unlearned model for what is left: the pool's merge, or a file.")
    parser.add_argument("pool", type=Path, metavar="POOL")
    parser.add_argument("--scale", default="auto", help="auto, or a number to use instead of searching")
    parser.add_argument("--unlearned", type=Path, metavar="FILE", help="audit this checkpoint instead of a merge")
    reference = parser.add_mutually_exclusive_group()
    reference.add_argument("--retrained", type=Path, metavar="FILE", help="a model that was never shown the forget set")
    reference.add_argument(
        "--retrain", action="store_true", help="make that model for the embedded scene: two minutes, kept in POOL"
    )
    parser.add_argument(
        "--probes", default=",".join(PROBES), metavar="NAME,NAME", help=f"only these of {', '.join(PROBES)}"
    )
    parser.add_argument("--steps", type=int, default=60, help="fine-tuning steps that relearning may take (default 60)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="all numbers as a figure, PNG, SVG or PDF")
    options = parser.parse_args(arguments)
    names = [name.strip() for name in options.probes.split(",") if name.strip()]
    check_asked(names, options.steps)
    if options.plot:
        from negmerge_kit.plots.save import check_place

        check_place(options.plot)
    if options.unlearned is not None and scale_by_hand(options.scale) is not None:
        parser.error("--unlearned and --scale exclude each other: the file has been scaled already")

    from negmerge_kit.checkpoints.reader import open_checkpoint
    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.pipeline import search_pool
    from negmerge_kit.pools.pool import open_pool

    unlearned: Weights | None = open_checkpoint(options.unlearned) if options.unlearned else None
    retrained: Weights | None = open_checkpoint(options.retrained) if options.retrained else None
    asked = search_options(options)
    if unlearned is not None:
        asked = replace(asked, scale=0.0)
    found = search_pool(open_pool(options.pool, force=options.force), asked, device=options.device)
    bench, choice, searched = found.bench, found.choice, found.result
    if searched["status"] != "ok" or (searched["scale"] == 0 and searched["keep"] is not None and searched["remedy"]):
        why = "infeasible: " if searched["status"] != "ok" else ""
        print(f"{why}{searched['outcome']}, so there is nothing to audit. {searched['remedy']}", file=sys.stderr)
        return 2
    if options.retrain:
        retrained = _retrained(bench)
    with ProgressDisplay("probes", len(names)) as display:
        report = run_audit(
            bench,
            choice,
            searched["scale"],
            unlearned=unlearned,
            retrained=retrained,
            probes=names,
            steps=options.steps,
            on_probe=lambda probe: display.advance(),
        )
    if options.plot:
        from negmerge_kit.plots.probes import audit_figure
        from negmerge_kit.plots.save import save_figure

        save_figure(audit_figure(report), options.plot)
    if options.json:
        audited = choice.json() if unlearned is None else {"file": str(options.unlearned)}
        print_json({**report.json(), "audited": audited})
    else:
        print(format_audit(report))
        if options.plot:
            print(f"wrote {options.plot}")
        if unlearned is not None:
            print_end(_file_next(options.unlearned, options.pool))
        elif searched["scale"] > 0:
            same = same_flags(parser, options, unlearn_parser("unlearn", ""))
            print_end(["unlearn", options.pool, *same, "--audit", "--out", unlearned_file(bench.pool)])
        else:
            print_end()
    return 0


def _file_next(weights: Path, pool: Path) -> Words:
    """Next command after the audit of a file: its card's check, where it has one."""
    from negmerge_kit.cards.files import card_path

    card = card_path(weights)
    return ["verify", card] if card.is_file() else ["evaluate", weights, "--scene", pool]


def _retrained(bench: Workbench) -> Weights:
    from negmerge_kit.audits.retrained_base import retrained_reference
    from negmerge_kit.cli.progress import ProgressDisplay

    with ProgressDisplay(f"pretraining without {bench.scene.forget}") as display:
        return retrained_reference(bench, on_step=display.follow)


def format_audit(audit: Audit) -> str:
    """Format an audit as text: the finding, then each probe's question, numbers and verdict, what alarms first."""
    lines = [audit.finding, *([] if audit.scale is None else [f"scale {audit.scale:g}"])]
    for probe in audit.probes:
        good = f" ({probe.good} is better)" if probe.good else ""
        lines += ["", f"{probe.name}{good}: {probe.asks}"]
        if probe.undefined:
            lines.append(f"  {probe.undefined}")
        lines += [f"  {who:10} {_number(reading)}" for who, reading in probe.measurements.items()]
        lines += _context_lines(probe)
    return "\n".join([*lines, ""])


def _number(reading: Measurement) -> str:
    low, high = 100 * reading.low, 100 * reading.high
    return f"{100 * reading.value:5.1f} %  (95 % interval {low:.1f}-{high:.1f}, n = {reading.n}, {reading.split})"


def _context_lines(probe: Probe) -> list[str]:
    lines = [] if probe.chance is None else [f"  {'chance':10} {100 * probe.chance:5.1f} %"]
    if strangers := probe.details.get("strangers"):
        said = ", ".join(f"{who} {100 * share:.1f} %" for who, share in strangers.items())
        lines.append(f"  of test images, which none of them saw, it says so of: {said}")
    if moved := probe.details.get("by_rounding"):
        said = ", ".join(
            f"{who} {100 * by['value']:+.1f} ({100 * by['low']:+.1f} to {100 * by['high']:+.1f})"
            for who, by in moved.items()
        )
        lines.append(f"  rounding alone changes it by points, 95 % interval: {said}")
    for who in ("unlearned", "retrained", "shuffled"):
        if "curve" in probe.details.get(who, {}):
            steps, most = probe.details[who]["steps"], probe.details["most_steps"]
            back = f"is back after {steps} steps" if steps is not None else f"is not back within {most} steps"
            lines.append(f"  {who}: the base's accuracy {back}")
    return [*lines, f"  {probe.says}"] if probe.says else lines
