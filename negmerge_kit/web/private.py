"""The app's private folder: nobody else reads it, and it ends with the app, or with the next start after a kill."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "negmerge-app-"
_LOCK = ".held"


class PrivateFolder:
    """A fresh folder that only this user can read, held by a lock for as long as this process lives.

    Folders whose process was killed, so that nobody holds their lock any more, are removed on the way.

    >>> with PrivateFolder() as folder:
    ...     folder.path.is_dir()
    True
    >>> folder.path.exists()
    False
    """

    def __init__(self) -> None:
        remove_abandoned()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._lock = FileLock(self.path / _LOCK, thread_local=False)  # whichever thread ends the app
            self._lock.acquire()
            if (self.path / _LOCK).exists():  # else another start took it for an abandoned one just before
                return
            self._lock.release()

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """End it, with all that is in it; once more does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def remove_abandoned() -> None:
    """Remove private folders of this user whose process is gone, however it ended.

    A folder without a lock file is left alone: version 0.1 made such, and its owner may be alive.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            mine = not hasattr(os, "geteuid") or folder.lstat().st_uid == os.geteuid()
            if mine and not folder.is_symlink() and (folder / _LOCK).is_file():
                with FileLock(folder / _LOCK).acquire(timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
