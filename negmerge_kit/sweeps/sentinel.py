"""A sentinel file: how a worker makes sure that it sees the folder it is to write into."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.errors import PoolError

NAME = ".sentinel"


@dataclass(frozen=True)
class Sentinel:
    """A folder and the token that the driver wrote into it at the start of the sweep."""

    folder: Path
    token: str

    def check(self) -> None:
        """Raise PoolError unless this process reads the driver's token in this very folder."""
        try:
            found = (self.folder / NAME).read_text(encoding="ascii")
        except (OSError, ValueError):
            found = ""
        if found != self.token:
            raise PoolError(
                f"the worker on {socket.gethostname()} does not see {self.folder} as the driver does: put it in a "
                "folder that every machine shares under one path, and let one sweep at a time write there."
            )


@contextmanager
def planted(folders: Sequence[Path]) -> Iterator[tuple[Sentinel, ...]]:
    """A fresh token in each folder for the length of the block.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, planted([Path(folder)]) as (sentinel,):
    ...     sentinel.check()
    """
    sentinels = tuple(Sentinel(folder, secrets.token_hex(8)) for folder in folders)
    for sentinel in sentinels:
        with atomic_file(sentinel.folder / NAME) as file:
            file.write(sentinel.token.encode())
    try:
        yield sentinels
    finally:
        for sentinel in sentinels:
            with suppress(OSError):
                (sentinel.folder / NAME).unlink()
