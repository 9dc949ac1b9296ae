"""A card on disk: JSON and Markdown that appear together, read back, and laid out as a Hub repository."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from negmerge_kit.cards.card import checked_record, with_file
from negmerge_kit.cards.markdown import FENCE, card_markdown, dumped
from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.overwrite_guard import Kind, check_output
from negmerge_kit.errors import CardError
from negmerge_kit.safe_json import check_regular, parse_json
from negmerge_kit.types import Json

RUN_FROM = "pool"
"""The entry with the pool's path relative to the card; left out of a published card."""


def card_path(weights: Path, card: Path | None = None) -> Path:
    """Path of the card's JSON: next to the weights, or where `card` says; the Markdown goes next to it.

    Raises:
        CardError: if `card` is neither .json nor .md, or one of the two would fall on the weights.

    >>> card_path(Path("runs/u.safetensors")).as_posix()
    'runs/u.card.json'
    """
    if card is None:
        return weights.with_name(weights.name.removesuffix(".safetensors") + ".card.json")
    if card.suffix not in (".json", ".md"):
        raise CardError(f"{card} is no name for a card: end it in .json or .md, both are written.")
    if weights.resolve() in (card.with_suffix(".json").resolve(), card.with_suffix(".md").resolve()):
        raise CardError(f"{weights} is to hold both the weights and the card: name two files.")
    return card.with_suffix(".json")


def check_card(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Check the paths of a card's JSON and Markdown as `check_output` does."""
    read = list(inputs)
    for file in (path, path.with_suffix(".md")):
        check_output(file, Kind("a card", read_card), read)


@contextmanager
def card_files(path: Path) -> Iterator[Callable[[Json], None]]:
    """Write a card as JSON at `path` and as Markdown next to it: both appear when the block succeeds, or neither.

    Yields the function that takes the record; the block may write the weights first.
    """
    with ExitStack() as files:
        page = files.enter_context(atomic_file(path.with_suffix(".md")))
        data = files.enter_context(atomic_file(path))

        def write(record: Json) -> None:
            data.write(dumped(record).encode())
            page.write(card_markdown(record).encode())

        yield write


def run_from(pool: Path, card: Path) -> Json:
    """Entry with the pool's path, so that `verify` finds it again."""
    try:
        return {RUN_FROM: Path(os.path.relpath(pool.resolve(), card.resolve().parent)).as_posix()}
    except ValueError:  # another drive
        return {RUN_FROM: str(pool.resolve())}


def read_card(path: Path) -> Json:
    """The record of a card's JSON, or of its Markdown.

    Raises:
        CardError: if the file is missing or is no card.
    """
    try:
        text = check_regular(path).read_text(encoding="utf-8")
        if path.suffix == ".md":
            text = text.rpartition(FENCE)[2].partition("\n```")[0]
        record = parse_json(text)
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    except ValueError as error:
        raise CardError(f"{path} is no card ({error}): give the .json or .md that `negmerge unlearn` wrote.") from error
    return checked_record(record)


def weights_of(card: Path, record: Json) -> Path:
    """Path of a card's weights: next to it, under the name that it gives.

    Raises:
        CardError: if the card names no file, or one elsewhere.
    """
    name = str((record.get("file") or {}).get("name"))
    if not name.endswith((".safetensors", ".json")) or Path(name).name != name:
        raise CardError(f"{card} names no weights that are next to it: give them with --file FILE.")
    return card.with_name(name)


def hub_files(record: Json, weights: Path, *, licence: str | None = None) -> dict[str, Path | bytes]:
    """What a repository of these weights holds: the weights as `model.safetensors`, README.md and card.json.

    The path of the pool is left out: it is private to this machine.

    Raises:
        CardError: if these are not the weights that the card goes with.
    """
    fresh = with_file(record, weights)["file"]
    claimed = record.get("file") or {}
    if any(fresh.get(kind) != claimed.get(kind) for kind in ("sha256", "shards")):
        raise CardError(
            f"{weights} is not the file that its card describes (SHA-256): give the card that goes with it."
        )
    name = "model.safetensors.index.json" if "shards" in fresh else "model.safetensors"
    public = {key: value for key, value in record.items() if key != RUN_FROM} | {"file": fresh | {"name": name}}
    return {
        "README.md": card_markdown(public, licence=licence).encode(),
        "card.json": dumped(public).encode(),
        name: weights,
        **{shard: weights.with_name(shard) for shard in fresh.get("shards", ())},
    }


def page_agrees(page: Path, record: Json) -> tuple[bool, list[str]]:
    """Whether a card's Markdown still says, line by line and in order, what the record says; and what it says beyond.

    Lines and entries added by hand are allowed, such as a licence; they are named, because nobody checked them.
    """
    import yaml
    from huggingface_hub import ModelCard

    fresh = ModelCard(card_markdown(record))
    try:
        found = ModelCard(page.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError):  # front matter that is none any more
        return False, []
    head, own = found.data.to_dict(), fresh.data.to_dict()
    if any(head.get(name) != value for name, value in own.items()):
        return False, []
    extra = [f"{name}: {value}" for name, value in head.items() if name not in own]
    ours = [line for line in fresh.text.splitlines() if line.strip()]
    theirs = iter([line for line in found.text.splitlines() if line.strip()])
    for line in ours:
        for other in theirs:
            if other == line:
                break
            extra.append(other.strip())
        else:
            return False, []
    return True, [*extra, *(line.strip() for line in theirs)]
