"""The app in a separate process, as users start it: its address, its output, and how much memory it holds."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from negmerge_kit.errors import NegmergeError

START_SECONDS = 120.0


@dataclass(frozen=True)
class Served:
    """A running app."""

    address: str
    pid: int
    log: Path

    def said(self) -> str:
        """All that it wrote to its terminal so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def memory(self) -> float:
        """Megabytes that the process holds (resident set); NaN where /proc does not say."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return float("nan")
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line[:6] == "VmRSS:")


@contextmanager
def served(folder: Path, device: str = "auto") -> Iterator[Served]:
    """The app on the pool in `folder`, on a free port of this machine, ended with the block.

    Raises:
        NegmergeError: if it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "negmerge_kit.cli", "demo", "--pool", str(folder), "--device", device]
    with tempfile.TemporaryDirectory(prefix="negmerge-bench-") as place:
        log_file = Path(place) / "log"
        with log_file.open("wb") as log:
            process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
        app = Served(f"http://127.0.0.1:{port}", process.pid, log_file)
        try:
            until = time.monotonic() + START_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise NegmergeError(f"the app did not start: {app.said().strip()[-300:] or 'it gave no answer'}.")
                time.sleep(0.2)
            yield app
        finally:
            process.terminate()
            process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
