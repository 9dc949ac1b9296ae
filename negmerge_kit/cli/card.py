"""`negmerge verify | push`: a card's claims computed again, and weights with their card sent to the Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.options import Parser, print_json
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.unlearning.delta_cache import Choice
    from negmerge_kit.unlearning.workbench import Workbench


def verify(arguments: list[str]) -> int:
    """Recompute what a card claims and say, line by line, what holds; exit code 2 unless everything does."""
    parser = Parser("verify", "Recompute what an unlearning card claims: hashes, the merge bit for bit, the scores.")
    parser.add_argument("card", type=Path, metavar="CARD", help="the .json or .md that `negmerge unlearn` wrote")
    parser.add_argument("--file", type=Path, metavar="FILE", help="the weights (default: as named, next to the card)")
    parser.add_argument("--pool", type=Path, metavar="POOL", help="the pool (default: where the card was written from)")
    parser.add_argument("--probes", action="store_true", help="run the card's probes of forgetting again, too")
    parser.add_argument(
        "--partial", action="store_true", help="exit 0 even where something that the card names could not be checked"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    from negmerge_kit.cards.files import RUN_FROM, read_card, weights_of
    from negmerge_kit.cards.verify import Finding, verify_record
    from negmerge_kit.pools.pool import RECORD, open_pool

    record = read_card(options.card)
    weights = options.file or weights_of(options.card, record)
    folder = options.pool or options.card.parent / str(record.get(RUN_FROM, ""))
    there = options.pool or (record.get(RUN_FROM) and (folder / RECORD).is_file())
    pool = open_pool(folder, force=True) if there else None
    audit = _audit if options.probes else None
    findings: list[Finding] = []

    def add_finding(finding: Finding) -> None:
        findings.append(finding)
        if not options.json:
            print(f"{MARKS[finding.holds]:12}{finding.claim}: {finding.says}", flush=True)

    page = options.card.with_suffix(".md")
    if page.is_file():
        add_finding(Finding("the page", *_page(page, record)))
    for finding in verify_record(record, weights, pool, device=options.device, audit=audit):
        add_finding(finding)
    never = [finding.claim for finding in findings if finding.holds is None and not finding.needed]
    counts = {
        "hold": sum(finding.holds is True for finding in findings),
        "fail": sum(finding.holds is False for finding in findings),
        "unchecked": sum(finding.holds is None and finding.needed for finding in findings),
    }
    if options.json:
        summary = {"card": str(options.card), **counts, "never_checked": never}
        print_json(summary | {"claims": [finding.json() for finding in findings]})
    else:
        print(
            f"{counts['hold']} hold, {counts['fail']} do not hold, {counts['unchecked']} could not be checked; "
            f"beyond any check: {', '.join(never) or 'nothing'}"
        )
        if counts["unchecked"] and not options.partial:
            print("not everything was checked: --partial is content with the rest", file=sys.stderr)
    left_open = counts["unchecked"] and not options.partial
    return 2 if counts["fail"] or left_open or not counts["hold"] else 0


def push(arguments: list[str]) -> int:
    """Send unlearned weights and their card to the Hub as one commit."""
    parser = Parser("push", "Send unlearned weights to the Hub; their card becomes the repository's model card.")
    parser.add_argument("file", type=Path, metavar="FILE", help="weights that `negmerge unlearn` wrote")
    parser.add_argument("--repo", required=True, metavar="ID", help="OWNER/NAME on the Hub; made where it is not yet")
    parser.add_argument("--card", type=Path, metavar="CARD", help="its card (default: next to FILE)")
    parser.add_argument("--licence", metavar="ID", help="the weights' licence, as the Hub names it, such as mit")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; tell what would be sent")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="with --dry-run: leave the repository's files here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.folder and not options.dry_run:
        parser.error("--folder is for --dry-run: it holds what would have been sent")

    from negmerge_kit.cards.files import card_path, hub_files, read_card
    from negmerge_kit.checkpoints.hub import lay_out, publish

    record = read_card(options.card or card_path(options.file))
    files = hub_files(record, options.file, licence=options.licence)
    result: Json = {"repo": options.repo, "files": {name: _size(content) for name, content in files.items()}}
    if options.dry_run:
        folder = lay_out(files, options.repo, options.folder)
        result |= {"commit": None, "folder": str(folder) if folder else None}
    else:
        message = f"Unlearned weights: {record['rule']} at scale {record['scale']:g}"
        result |= {"commit": publish(files, options.repo, private=options.private, message=message), "folder": None}
    if options.json:
        print_json(result)
        return 0
    for name, size in result["files"].items():
        print(f"{size:>14,} bytes  {name}")
    where = f"; the files are in {result['folder']}" if result["folder"] else ""
    print(f"sent to {result['commit']}" if result["commit"] else f"dry run: nothing was sent to {options.repo}{where}")
    return 0


MARKS = {True: "holds", False: "DOES NOT", None: "not checked"}


def _page(page: Path, record: Json) -> tuple[bool | None, str]:
    from negmerge_kit import __version__
    from negmerge_kit.cards.files import page_agrees

    agrees, extra = page_agrees(page, record)
    if agrees and not extra:
        return True, "says what the record says"
    if agrees:
        shown = "; ".join(line[:60] for line in extra[:3]) + ("; …" if len(extra) > 3 else "")
        return None, f"says what the record says, and more, which nobody checked ({len(extra)}): {shown}"
    made_by = record["versions"].get("negmerge_kit")
    if made_by != __version__:
        return None, f"was laid out by version {made_by}, this is {__version__}: the record is checked instead"
    return False, f"{page} does not say what the record says"


def _audit(bench: Workbench, choice: Choice, scale: float) -> Json:
    from negmerge_kit.audits.audit import audit

    return audit(bench, choice, scale).json()


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
