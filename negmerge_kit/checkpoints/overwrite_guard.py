"""Checks of output paths: never over what is read, and over a file that is there only if it is of their kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from negmerge_kit.checkpoints.header import read_header
from negmerge_kit.checkpoints.reader import Checkpoint
from negmerge_kit.checkpoints.shard_index import INDEX, shard_names
from negmerge_kit.errors import CheckpointError, NegmergeError
from negmerge_kit.types import Weights


@dataclass(frozen=True)
class Kind:
    """Kind of file that a command writes: its name in a sentence, and a check that raises for any other file.

    >>> CHECKPOINT.holds(Path(__file__))
    False
    """

    name: str
    look: Callable[[Path], object]

    def holds(self, path: Path) -> bool:
        """Whether the file's content is of this kind; its name says nothing."""
        try:
            self.look(path)
        except (NegmergeError, OSError, ValueError, LookupError, TypeError):
            return False
        return True


CHECKPOINT = Kind("a safetensors file", read_header)
SHARDS = Kind("an index of shards", shard_names)


def check_output(path: Path, kind: Kind, inputs: Iterable[Path] = ()) -> None:
    """Refuse a place for a result before the work on it begins; an empty file is no loss.

    Raises:
        CheckpointError: if the folder is not there, if the path is a folder or one of `inputs`, by whatever name or
            link, or if the file there is of another kind.

    >>> check_output(Path("nowhere/u.safetensors"), CHECKPOINT)
    Traceback (most recent call last):
    negmerge_kit.errors.CheckpointError: cannot write nowhere/u.safetensors: there is no folder nowhere. Make it first.
    """
    try:
        if not path.parent.is_dir():
            raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}. Make it first.")
        if path.is_dir():
            raise CheckpointError(f"cannot write {path}: it is a folder. Name a file in it.")
        refuse_inputs([path], inputs)
        if path.exists() and not (path.is_file() and (path.stat().st_size == 0 or kind.holds(path))):
            raise CheckpointError(
                f"{path} exists and is not {kind.name}, so it stays: choose another name, or remove it first."
            )
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}. Choose another name.") from error


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """`check_output` for each of several weight files: safetensors, or the index of their shards."""
    read = list(inputs)
    for path in outputs:
        check_output(path, SHARDS if path.name.endswith(INDEX) else CHECKPOINT, read)


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise CheckpointError when a path to be written is a file that is being read, through links, too."""
    read = [file for file in inputs if file.exists()]
    for path in outputs:
        if path.exists() and any(path.samefile(file) for file in read):
            raise CheckpointError(f"{path} is one of the inputs: choose another file to write.")


def files_of(*inputs: Weights) -> list[Path]:
    """The files that weights are read from, an index of shards among them."""
    files = [file for weights in inputs for file in getattr(weights, "files", ())]
    return files + [weights.index for weights in inputs if isinstance(weights, Checkpoint) and weights.index]


def make_folder(folder: Path) -> Path:
    """The folder that the user named for results, made if need be.

    Raises:
        CheckpointError: if it cannot be made, or a file is in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be made: {error.strerror or error}. Choose another folder.") from error
    return folder
