"""This process's private folder: nobody else reads it; it ends with the last app, or the next start after a kill."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "negmerge-app-"
_LOCK = ".held"
_TURN = threading.Lock()


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


class AppFolder:
    """An app's part of its process's private folder.

    gradio has one cache a process, GRADIO_TEMP_DIR, which it reads whenever it gives or takes a file: all apps of the
    process share it, and it ends with the last of them. What an app makes, `path` holds, and ends with that app.
    """

    _shared: PrivateFolder | None = None
    _apps = 0

    def __init__(self) -> None:
        with _TURN:
            if AppFolder._shared is None:
                AppFolder._shared = PrivateFolder()
            AppFolder._apps += 1
            self.cache = AppFolder._shared.path / "cache"
            self.path = Path(tempfile.mkdtemp(prefix="app-", dir=AppFolder._shared.path))
            os.environ["GRADIO_TEMP_DIR"] = str(self.cache)
        self._open = True

    def remove(self) -> None:
        """End it, and with the last app the cache; once more does nothing."""
        with _TURN:
            if not self._open:
                return
            self._open = False
            shutil.rmtree(self.path, ignore_errors=True)
            AppFolder._apps -= 1
            if not AppFolder._apps and AppFolder._shared:
                AppFolder._shared.remove()
                AppFolder._shared = None
