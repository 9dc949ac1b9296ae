"""Jobs that are real and short, with faults on demand; workers import this file by its own name."""

import hashlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from negmerge_kit.errors import ParameterError
from negmerge_kit.progress import Progress


@dataclass(frozen=True)
class Count:
    """Hashes for some steps, notes who runs it in a file of the folder, and fails as it is told."""

    folder: Path
    label: str
    steps: int = 3
    fault: str = ""
    seconds: float = 0.0

    def run(self, on_step):
        started = self.folder / f"{self.label}.started"
        first = not started.exists()
        with started.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if self.fault == "raise":
            raise RuntimeError("a bug of its own")
        if self.fault == "refuse":
            raise ParameterError("too small: give a larger number.")
        if self.fault == "exit":
            sys.exit(4)
        if self.fault == "unsendable":
            return lambda: None
        if self.fault == "die" or (self.fault == "die once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        for k in range(self.steps):
            until = time.monotonic() + self.seconds / self.steps
            digest = hashlib.sha256(self.label.encode())
            while time.monotonic() < until:
                digest.update(bytes(1 << 16))
            on_step(Progress("step", step=k + 1, total=self.steps, loss=1.0 / (k + 1)))
        return {
            "label": self.label,
            "pid": os.getpid(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "node": _node(),
        }

    def pids(self):
        """Every process that has begun it."""
        return [int(line) for line in (self.folder / f"{self.label}.started").read_text().split()]


def _node():
    if "ray" not in sys.modules:
        return None
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid):
    """The processes that this one has begun and that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(condition, seconds=60.0):
    """Poll until the condition holds; whether it did."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
