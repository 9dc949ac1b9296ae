"""Files and folders written whole or not at all: a temporary neighbour, flushed to disk, renamed over the target."""

from __future__ import annotations

import os
import shutil
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
        raise _cannot_write(path, error) from error
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
        raise _unfinished(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder that appears at `path`, with all that the block puts into it, only if the block ends well.

    The writers of its files flush them, as `atomic_file` does. A folder that is there is replaced, so
    look at it first: it stays until the new one is complete, moves aside, and is deleted when the new one has its
    place.

    Raises:
        CheckpointError: if the folder around it cannot be written or the disk is full.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with atomic_folder(pathlib.Path(place) / "model") as folder:
    ...         _ = (folder / "a.txt").write_bytes(b"whole")
    ...     [file.name for file in pathlib.Path(place).rglob("*")]
    ['model', 'a.txt']
    """
    path = Path(path)
    target = path.resolve()  # a link to a folder stays a link
    try:
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    except OSError as error:
        raise _cannot_write(path, error) from error
    former = temporary.with_suffix(".former")
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _sync_folder(temporary)
        try:
            if target.exists():
                target.rename(former)
            temporary.rename(target)
        finally:
            if former.exists() and not target.exists():
                former.rename(target)
        _sync_folder(target.parent)
    except CheckpointError as error:  # of a file in it, which the user knows by the folder's name
        raise type(error)(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        raise _unfinished(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(former, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot write {path}: {error.strerror or error}. Choose a folder that exists and may be written to."
    )


def _unfinished(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"could not finish writing {path}: {error.strerror or error}. "
        "Nothing was changed; free some space or choose another folder."
    )


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
