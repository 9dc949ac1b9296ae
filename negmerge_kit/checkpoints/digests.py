"""SHA-256 of files, computed while other work is done: it begins before anything heavy is imported, torch among it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import FileIO
from pathlib import Path
from threading import local
from types import TracebackType

from negmerge_kit.errors import CheckpointError
from negmerge_kit.safe_json import check_regular

BLOCK = 1 << 22
"""Bytes read together: long enough that a thread seldom waits for the interpreter, which imports hold."""
TURN = 4
"""Blocks of one file before the next one's turn."""


class Digests:
    """Files being hashed, a thread a core, each file from its beginning, all at nearly the same place.

    So a merge, which reads all files at the same place too, finds in memory what was hashed, and the other way round:
    files larger than memory are read from disk once. Leaving the block ends what still runs.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Digests() as digests:
    ...     file = Path(folder) / "a"
    ...     _ = file.write_bytes(b"abc")
    ...     digests.begin([file])
    ...     digests.of(file)[:8]
    'ba7816bf'
    """

    def __init__(self) -> None:
        self._found: dict[Path, Future[str]] = {}
        self._read: dict[Path, tuple[int, ...]] = {}
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        self._room = _Room()
        self._ended = False

    def __enter__(self) -> Digests:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._threads.shutdown(cancel_futures=True)

    def begin(self, files: Iterable[Path]) -> None:
        """Hash these files, those that are not begun yet."""
        for path in files:
            if path.resolve() not in self._found:
                found = self._found[path.resolve()] = Future[str]()
                self._threads.submit(self._open, path, found)

    def of(self, path: Path) -> str:
        """The file's digest in hex, as soon as it is known.

        Raises:
            CheckpointError: if it cannot be read, or is another file by now than the one that was hashed.
        """
        self.begin([path])
        digest = self._found[path.resolve()].result()
        try:
            now = _identity(path.stat())
        except OSError as error:
            raise _unreadable(path, error) from None
        # What reads the file by name later would get other bytes than were hashed.
        if now != self._read[path.resolve()]:
            raise CheckpointError(
                f"{path} changed while it was read: nothing is known of what it held. Run this again."
            )
        return digest

    def _open(self, path: Path, found: Future[str]) -> None:
        try:
            file = check_regular(path).open("rb", buffering=0)
        except OSError as error:
            found.set_exception(_unreadable(path, error))
        else:
            self._read[path.resolve()] = _identity(os.fstat(file.fileno()))
            self._go_on(path, file, hashlib.sha256(), found)

    def _go_on(self, path: Path, file: FileIO, digest: hashlib._Hash, found: Future[str]) -> None:
        room = self._room.block
        try:
            for _ in range(TURN):
                if self._ended:
                    file.close()
                    return
                count = file.readinto(room)
                if not count:
                    file.close()
                    found.set_result(digest.hexdigest())
                    return
                digest.update(memoryview(room)[:count])
        except OSError as error:
            found.set_exception(_unreadable(path, error))
            return
        with suppress(RuntimeError):  # the block was left
            self._threads.submit(self._go_on, path, file, digest, found)


class _Room(local):
    """Memory that one thread reads into, whatever the file."""

    def __init__(self) -> None:
        self.block = bytearray(BLOCK)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read: {error.strerror or error}. Check the path.")
