"""Files written whole or not at all: a temporary neighbour, flushed to disk, renamed over the target."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from negmerge_kit.errors import CheckpointError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears at `path` only if the block ends without an error.

    The old file stays untouched until the new one is complete on disk; on any failure the
    temporary file is removed.

    Raises:
        CheckpointError: if the folder cannot be written or the disk is full; the message says which
            folder, so that the user can free space or choose another.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(pathlib.Path(folder) / "a.txt") as file:
    ...         _ = file.write(b"whole")
    ...     (pathlib.Path(folder) / "a.txt").read_bytes()
    b'whole'
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}. Choose a folder that exists and may be written to."
        ) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"could not finish writing {path}: {error.strerror or error}. "
            "Nothing was changed; free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _umask() -> int:
    """This process's umask; reading it means setting it for a moment."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Flush the rename itself; Windows has no such call on folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
