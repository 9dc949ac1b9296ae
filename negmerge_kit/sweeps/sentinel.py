"""A sentinel file: how a worker makes sure that it sees the folder it is to write into."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from negmerge_kit.checkpoints.unfinished import SENTINEL
from negmerge_kit.errors import PoolError


@dataclass(frozen=True)
class Sentinel:
    """A folder, and the token in the name of the file that the driver made there: each driver has its own."""

    folder: Path
    token: str

    @property
    def path(self) -> Path:
        """The driver's file."""
        return self.folder / f"{SENTINEL}{self.token}"

    def check(self) -> None:
        """Raise PoolError unless this process sees the driver's file in this very folder."""
        if not self.path.exists():
            raise PoolError(
                f"the worker on {socket.gethostname()} does not see {self.folder} as the driver does: put it in a "
                "folder that every machine shares under one path."
            )


@contextmanager
def planted(folders: Sequence[Path]) -> Iterator[tuple[Sentinel, ...]]:
    """A fresh token in each folder for the length of the block, locked as long: so `clear_up` knows it for a live one.

    Raises:
        PoolError: if a folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, planted([Path(folder)]) as (sentinel,):
    ...     sentinel.check()
    """
    sentinels = tuple(Sentinel(folder, secrets.token_hex(8)) for folder in folders)
    with ExitStack() as held:
        for sentinel in sentinels:
            try:
                held.enter_context(_planted(sentinel.path))
            except OSError as error:
                raise PoolError(
                    f"cannot write to {sentinel.folder}: {error.strerror or error}. Choose a folder that may be "
                    "written to."
                ) from error
        yield sentinels


@contextmanager
def _planted(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            path.unlink()
