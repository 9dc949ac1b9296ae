"""Cost of a row of a comparison: seconds, peak memory, evaluations and images."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from negmerge_kit.types import Json

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time to train the candidates, to merge and to search; bytes; evaluations.

    Attributes:
        search: everything that choosing on validation takes: of a rule the scoring of every scale, of a baseline the
            training and the scoring of every rate; the final scoring on test is not counted.
        train: what the pool records for the candidates that the row needs, also those that it then leaves out.
        peak_memory: on CUDA the most that torch held; elsewhere the most that the whole process held, base, images and
            libraries included; None where the system does not report it.
        evaluations: scales looked at on validation, in full or in part; `images` answered for them.
    """

    train: float
    merge: float
    search: float
    device: str
    peak_memory: int | None
    evaluations: int
    images: int

    @property
    def wall(self) -> float:
        """Seconds for everything: train, merge and search."""
        return self.train + self.merge + self.search

    def json(self) -> Json:
        """Plain values."""
        return asdict(self) | {"wall": self.wall}


class Meter:
    """Seconds and peak memory of a block."""

    seconds = 0.0
    peak: int | None = None


@contextmanager
def metered(device: torch.device) -> Iterator[Meter]:
    """Measure the block's wall time and, where the system reports it, its peak memory.

    >>> with metered(torch.device("cpu")) as meter:
    ...     _ = torch.zeros(10)
    >>> meter.seconds >= 0
    True
    """
    meter = Meter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _forget_peak()
    started = time.perf_counter()
    try:
        yield meter
    finally:
        meter.seconds = time.perf_counter() - started
        meter.peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _process_peak()


def _forget_peak() -> None:
    """Reset the process's high-water mark; only Linux can (proc(5), clear_refs 5)."""
    try:
        _RESET.write_text("5")
    except OSError:
        return


def _process_peak() -> int | None:
    """Most bytes that this process held: since the block began on Linux, since its start elsewhere."""
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None  # Windows
    # Bytes on macOS, kilobytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
