"""`negmerge data list | check | prepare | verify`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from negmerge_kit.cli.next_command import Words, print_end, same_flags
from negmerge_kit.cli.options import Parser, add_corrupt_flag, add_pixel_flags, print_json
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.data import DataSource, Transform
    from negmerge_kit.scenes.scene import Scene


def data(arguments: list[str]) -> int:
    """Dispatch to `list`, `check`, `prepare` or `verify`."""
    actions = {"list": list_data, "check": check, "prepare": prepare, "verify": verify}
    if not arguments or arguments[0] not in actions:
        if arguments and arguments[0] in ("-h", "--help"):
            print("usage: negmerge data list [--json] | check | prepare | verify DATA... [OPTIONS]")
            return 0
        given = f"there is no `negmerge data {arguments[0]}`: " if arguments else ""
        raise ParameterError(f"{given}say what to do with data: list, check, prepare or verify.")
    return actions[arguments[0]](arguments[1:])


def list_data(arguments: list[str]) -> int:
    """Print the data sets that can be named."""
    parser = Parser("data list", "List the named data sets and the embedded families.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    from negmerge_kit.data import DATASETS, find_data
    from negmerge_kit.data.embedded import FAMILIES
    from negmerge_kit.data.sklearn_digits import SCANS

    sources = [find_data(name) for name in (*DATASETS, *FAMILIES, SCANS)]
    if options.json:
        print_json({"data": [{**_facts(source), "classes": len(source.classes)} for source in sources]})
        return 0
    for source in sources:
        print(f"  {source.name:16}{_size(source.bytes):>10}  {source.title}")
    print("\nor your own: folder:PATH (one folder a class), hf:OWNER/NAME, NAME:PATH (a local copy of a named set)")
    return 0


def prepare(arguments: list[str]) -> int:
    """Fetch data sets and decode their images once; goes on where it was stopped."""
    parser = _parser("prepare", "Fetch data and decode their images once; goes on where it was stopped.")
    parser.add_argument("--splits", metavar="SPLIT,SPLIT", help="only these splits (default: all that the data have)")
    add_corrupt_flag(parser)
    parser.add_argument("--dry-run", action="store_true", help="print size, licence and destination, do nothing")
    options = parser.parse_args(arguments)

    from negmerge_kit.data import find_data

    transform = _transform(options)
    sources = [find_data(text) for text in options.data]
    wanted = [word.strip() for word in options.splits.split(",")] if options.splits else None
    for source in sources:
        for split in wanted or ():
            source.check_split(split)
    # Everything is printed before anything is fetched.
    all_facts = [_announce(source, wanted or source.splits, transform, quiet=options.json) for source in sources]
    if not options.dry_run:
        for source, facts in zip(sources, all_facts, strict=True):
            splits = wanted or source.splits
            _decode(source, splits, transform, options.corrupt)
            facts["data"] = source.text
            facts["decoded"] = _made(source, splits, transform, options.corrupt, quiet=options.json)
    if options.json:
        print_json({"data": all_facts})
    elif options.dry_run:
        options.dry_run = False
        print_end(["data", "prepare", *options.data, *same_flags(parser, options, parser)])
    else:
        print_end(_next(options, parser))
    return 0


def _next(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Words:
    """Next command: forget the first data set and keep the others; --help where a model or those are missing."""
    from negmerge_kit.cli.options import forget_parser
    from negmerge_kit.data import find_data
    from negmerge_kit.models.model_spec import find_model
    from negmerge_kit.models.tiny_clip import TINY

    first, *others = options.data
    if options.model and options.model.startswith("classifier:"):
        return ["sweep", "--help"]
    if not options.model or not others:
        return ["forget", "--help"]
    kept = [word for text in others for word in ("--retain", text)]
    grid = "tiny" if find_model(options.model).arch == TINY else "paper-randaugment"
    return [
        "forget",
        *same_flags(parser, options, forget_parser()),
        "--forget",
        first,
        *kept,
        "--grid",
        grid,
        "--out",
        f"{find_data(first).name}-forgotten",
    ]


def check(arguments: list[str]) -> int:
    """Report classes, twins and odd files of data sets, of all their splits; decodes what is not decoded."""
    about = "Report classes without images, long tails, twins and odd files; trains nothing."
    parser = _parser("check", about, size=32)
    options = parser.parse_args(arguments)

    from negmerge_kit.cli.data_check import gather, print_report
    from negmerge_kit.data import find_data

    transform, sources = _transform(options, size=32), [find_data(text) for text in options.data]
    for source in sources:
        _decode(source, source.splits, transform, "skip", leave=False)
    report = gather(sources, transform)
    print_json(report) if options.json else print_report(report)
    return 0


def verify(arguments: list[str]) -> int:
    """Check every decoded pixel against its fingerprint."""
    parser = _parser("verify", "Check the decoded images of data sets against their fingerprints.")
    options = parser.parse_args(arguments)

    from negmerge_kit.data import find_data
    from negmerge_kit.data.source import EncodedSource

    transform, results, problems = _transform(options), [], []
    for text in options.data:
        source = find_data(text)
        if not isinstance(source, EncodedSource):
            results.append({"data": source.text, "splits": {}})
            continue
        found = source.verify(image_size=transform)
        if not found:
            problems.append(
                f"{source.text} is not prepared at {transform.height} x {transform.width}: run "
                f"`negmerge data prepare {text}`."
            )
        problems += [sentence for sentence in found.values() if sentence]
        results.append({"data": source.text, "splits": {split: sentence is None for split, sentence in found.items()}})
    if options.json and not problems:
        print_json({"data": results})
    if problems:
        raise NegmergeError("\n".join(problems))
    if not options.json:
        for result in results:
            what = ", ".join(result["splits"]) or "drawn from its seeds"
            print(f"{result['data']}: {what}: as they were decoded")
    return 0


def _parser(verb: str, about: str, *, size: int = 224) -> argparse.ArgumentParser:
    parser = Parser(f"data {verb}", about)
    parser.add_argument("data", nargs="+", metavar="DATA", help="a name, folder:PATH, hf:OWNER/NAME or NAME:PATH")
    parser.add_argument("--model", metavar="MODEL", help="at the size and by the preprocessing of this model")
    parser.add_argument("--size", type=int, metavar="PIXELS", help=f"pixels a side (default: the model's, or {size})")
    add_pixel_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _transform(options: argparse.Namespace, *, size: int = 224) -> Transform:
    from negmerge_kit.data.transform import as_transform
    from negmerge_kit.models.model_spec import sized
    from negmerge_kit.models.preprocessing import transform_of

    if options.model:
        transform = transform_of(sized(options.model, options.size))
    else:
        transform = as_transform(size if options.size is None else options.size)
    return replace(transform, orientation=options.orientation, transparency=options.transparency)


def _facts(source: DataSource) -> Json:
    return {
        "name": source.name,
        "title": source.title,
        "bytes": source.bytes,
        "licence": source.licence,
        "class_names": source.names_from,
        "homepage": source.homepage,
        "splits": list(source.splits),
        "flips": source.flips,
    }


def _announce(
    source: DataSource, splits: Sequence[str], transform: Transform, *, quiet: bool, to: TextIO | None = None
) -> Json:
    """Print what is about to be fetched, under which licence, and where it goes; returns the facts."""
    from negmerge_kit.data.decoded_cache import cache_folder
    from negmerge_kit.data.hub import HubSource

    facts = {**_facts(source), "data": source.text, "cache": str(cache_folder() / "images")}
    lines = [f"{source.title}", f"  licence      {source.licence}"]
    lines.append(f"  class names  from {source.names_from}")
    if source.homepage:
        lines.append(f"  more         {source.homepage}")
    if isinstance(source, HubSource):
        from huggingface_hub import constants

        ready = source.is_ready(splits, image_size=transform)
        revision, missing = (source.revision, 0) if ready else source.resolved()
        place = str(constants.HF_HUB_CACHE)
        facts |= {"repository": source.repo, "revision": revision, "download": missing, "hub_cache": place}
        size = f"{_size(missing)} from {source.repo}" if missing else "nothing, all files are there"
        lines += [f"  commit       {revision}", f"  to download  {size}", f"  to           {place}"]
    if (count := source.count(splits)) is not None:
        facts["decoded_bytes"] = count * transform.nbytes
        what = f"{count:,} images of {transform.height} x {transform.width}"
        lines.append(f"  decoded      about {_size(count * transform.nbytes)} ({what}) into {facts['cache']}")
    if not quiet:
        print("\n".join(lines), file=to)
    return facts


def prepare_scene(scene: Scene) -> None:
    """Fetch and decode what a scene needs; of what is fetched, size, licence and destination are printed first.

    Twins of the images to forget are named at the end.
    """
    from negmerge_kit.data.hub import HubSource
    from negmerge_kit.data.source import EncodedSource

    for source, splits in scene.needs():
        if not source.is_ready(splits, image_size=scene.transform):
            if isinstance(source, HubSource):
                _announce(source, splits, scene.transform, quiet=False, to=sys.stderr)
            _decode(source, splits, scene.transform, scene.corrupt, leave=False)
        for split in splits:
            _say_left_out(source, split, scene.transform, scene.corrupt)
    if any(isinstance(source, EncodedSource) for source, _ in scene.needs()):  # drawn sets share no image
        from negmerge_kit.scenes.overlap import find_overlaps

        for sentence in find_overlaps(scene):
            print(f"{scene.name}: {sentence}", file=sys.stderr)


def _decode(
    source: DataSource, splits: Sequence[str], transform: Transform, corrupt: str, *, leave: bool = True
) -> None:
    from negmerge_kit.cli.progress import ProgressDisplay

    for split in splits:
        if source.is_ready([split], image_size=transform):
            source.prepare([split], image_size=transform, corrupt=corrupt)
            continue
        with ProgressDisplay(f"{source.name} {split}", keep=leave) as display:

            def on_images(done: int, total: int, display: ProgressDisplay = display) -> None:
                display.show(done=done, total=total)

            source.prepare([split], image_size=transform, corrupt=corrupt, on_images=on_images)


def _say_left_out(source: DataSource, split: str, transform: Transform, corrupt: str) -> dict[str, int]:
    """Print what was noticed in the images and not used; returns the counts."""
    from negmerge_kit.data.transform import left_out

    noticed = source.noticed(split, image_size=transform, corrupt=corrupt)
    for sentence in left_out(noticed, transform.orientation, transform.transparency):
        print(f"{source.name} ({split}): {sentence}", file=sys.stderr)
    return noticed


def _made(source: DataSource, splits: Sequence[str], transform: Transform, corrupt: str, *, quiet: bool) -> Json:
    """Print and return what was prepared, split by split; images that were left out are named."""
    made = {}
    for split in splits:
        record = source.described(split, image_size=transform, corrupt=corrupt)
        left_out = record.get("corrupt", [])
        if left_out:
            shown = ", ".join(left_out[:5]) + (" …" if len(left_out) > 5 else "")
            print(
                f"negmerge data prepare: {len(left_out)} images of {source.name} ({split}) cannot be decoded and "
                f"were left out: {shown}",
                file=sys.stderr,
            )
        made[split] = {
            "n": record["n"],
            "classes": len(source.classes),
            "fingerprint": record["fingerprint"],
            "corrupt": left_out,
            "noticed": _say_left_out(source, split, transform, corrupt),
        }
        if not quiet:
            print(f"  {split:13}{record['n']:,} images, {len(source.classes)} classes, {record['fingerprint'][:12]}…")
    return made


def _size(value: float | None) -> str:
    """Format a number of bytes, in decimal units.

    >>> _size(18_000_000), _size(None)
    ('18.0 MB', 'unknown')
    """
    if value is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
