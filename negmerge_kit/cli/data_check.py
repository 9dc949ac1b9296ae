"""The report of `negmerge data check`: what to know of images before anything is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.data import DataSource, Transform

EXAMPLES = 3
"""Examples shown of each finding; --json has them all."""


def gather(sources: Sequence[DataSource], transform: Transform) -> Json:
    """Counts of classes, twins by the names of their images, and modes and oddities of files, of all splits."""
    from negmerge_kit.data.report import class_counts, file_modes, twins_of
    from negmerge_kit.data.source import EncodedSource

    sets, places, files = [], [], []
    for source in sources:
        for split in source.splits:
            sets.append(source.images(split, image_size=transform, corrupt="skip"))
            places.append(_names(source, split, transform))
        if isinstance(source, EncodedSource):
            files.append(
                {
                    "name": source.name,
                    "modes": {place: file_modes(source.encoded(place)) for place in source.layout},
                    "unreadable": [
                        name
                        for split in source.splits
                        for name in source.described(split, image_size=transform, corrupt="skip")["corrupt"]
                    ],
                    "noticed": {
                        split: source.noticed(split, image_size=transform, corrupt="skip") for split in source.splits
                    },
                }
            )
    twins = [
        {
            "first": [sets[pair["first"]].name, sets[pair["first"]].split],
            "second": [sets[pair["second"]].name, sets[pair["second"]].split],
            **{
                kind: [[places[pair["first"]][one], places[pair["second"]][two]] for one, two in pair[kind]]
                for kind in ("exact", "near")
            },
        }
        for pair in twins_of(sets)
    ]
    return {"sets": [class_counts(images) for images in sets], "twins": twins, "files": files}


def _names(source: DataSource, split: str, transform: Transform) -> list[str]:
    """A name for every image of a split: its file, or its number in the source's files or the split."""
    from negmerge_kit.data.folder import FolderRows
    from negmerge_kit.data.source import EncodedSource

    if not isinstance(source, EncodedSource):
        n = len(source.images(split, image_size=transform))
        return [f"image {place}" for place in range(n)]
    rows, record = source.rows(split)[0], source.decode(split, image_size=transform, corrupt="skip")
    if isinstance(rows, FolderRows):
        return [rows.files[row] for row in record.indices]
    return [f"image {row}" for row in record.indices]


def print_report(report: Json) -> None:
    """Print one screen: counts and a few examples of every finding."""
    from negmerge_kit.data.report import LONG_TAIL
    from negmerge_kit.data.twins import NEAR

    for each in report["sets"]:
        line = f"  {each['name']} {each['split']:6}{each['n']:,} images, {each['classes']} classes of "
        line += f"{each['smallest']:,} to {each['largest']:,}"
        if each["empty"]:
            line += f"; without images: {_some(each['empty'])}"
        if each["largest"] >= LONG_TAIL * max(each["smallest"], 1):
            line += "; a long tail: draw stratified"
        print(line)
    print(f"twins (exact: the same pixels at this size; near: correlation of {NEAR} or more, mirror images too)")
    for pair in report["twins"]:
        if pair["exact"] or pair["near"]:
            first, second = " ".join(pair["first"]), " ".join(pair["second"])
            where = f"within {first}" if first == second else f"{first} with one in {second}"
            print(f"  {where}: {len(pair['exact']):,} images exact, {len(pair['near']):,} near")
            for kind in ("exact", "near"):
                if pair[kind]:
                    print(f"    {kind:6}{_some([' = '.join(two) for two in pair[kind]])}")
    if not any(pair["exact"] or pair["near"] for pair in report["twins"]):
        print("  none")
    for each in report["files"]:
        for place, modes in each["modes"].items():
            print(f"  {each['name']} files in {place}: {', '.join(f'{n:,} {mode}' for mode, n in modes.items())}")
        if each["unreadable"]:
            print(f"  {each['name']}: {len(each['unreadable']):,} cannot be decoded: {_some(each['unreadable'])}")
        for split, noticed in each["noticed"].items():
            if any(noticed.values()):
                print(
                    f"  {each['name']} {split}: {noticed.get('turned', 0):,} with an EXIF turn, "
                    f"{noticed.get('transparent', 0):,} with transparent pixels"
                )


def _some(names: list[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (f" and {len(names) - EXAMPLES:,} more" if len(names) > EXAMPLES else "")
