"""Merging files, measured in one run beside the authors' loop and beside the least that reading them can cost."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging import merge, unlearn

from negmerge_kit.types import Item, Json

SIZES = (50_000_000, 113_000_000)
COUNTS = (3, 8, 16, 30)
WIDTH = 768


def bench(
    pool: object = None,
    *,
    sizes: Sequence[int] = SIZES,
    counts: Sequence[int] = COUNTS,
    repeats: int = 5,
    folder: str | Path | None = None,
) -> Json:
    """Rows for every size (float32 parameters) and number of candidates; what `python -m benchmarks merge` prints.

    `floor` sums every mapped tensor once, on as many threads as torch uses; `fused` and `plain` merge the same files
    with the result dropped; `to_file` writes the unlearned model as well; `authors` is their loop, one model-sized
    dict after another. The kinds take turns, and the median of `repeats` counts, so that a busy machine troubles all
    alike. Seconds; ratios are to the floor; `peak_mb` is anonymous memory above the level before, while streaming to a
    file. `pool` is not used: the files are drawn in a temporary folder and removed. Raises ParameterError when no
    size fits the disk.
    """
    rows: list[Json] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder, prefix="negmerge-bench-") as place:
            home = Path(place)
            fitting = [n for n in counts if _fits(size, n, home)]
            files = list(write_models(home, size, max(fitting, default=0)))
            rows += [measure(files[: n + 1], home / "out.safetensors", repeats=repeats) for n in fitting]
    if not rows:
        raise ParameterError("no size fits the disk or the memory: give smaller sizes or another folder.")
    return {"threads": torch.get_num_threads(), "compiler": compiler_present(), "rows": rows}


def measure(files: Sequence[Path], out: Path, *, repeats: int) -> Json:
    """One row: the base and its candidates, merged in every way."""
    started = time.perf_counter()
    fused = "fused" if compiler_present() else "plain"
    spent(lambda: drain(files, fused))
    compiling = time.perf_counter() - started
    ways: dict[str, Callable[[], object]] = {
        "floor": lambda: read_once(files),
        "fused": lambda: drain(files, fused),
        "plain": lambda: drain(files, "plain"),
        "to_file": lambda: to_file(files, out, fused),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            taken[name].append(spent(way))
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    authors = spent(lambda: authors_loop(files))
    layout = open_checkpoint(files[0]).layout()
    return {
        "elements": sum(torch.Size(shape).numel() for shape, _ in layout.values()),
        "candidates": len(files) - 1,
        "gigabytes": sum(file.stat().st_size for file in files) / 1e9,
        "floor": middle["floor"],
        "fused": middle["fused"],
        "fused_ratio": statistics.median(a / b for a, b in zip(taken["fused"], taken["floor"], strict=True)),
        "plain": middle["plain"],
        "plain_ratio": statistics.median(a / b for a, b in zip(taken["plain"], taken["floor"], strict=True)),
        "to_file": middle["to_file"],
        "authors": authors,
        "authors_ratio": authors / middle["floor"],
        "first_call": compiling,
        "peak_mb": peak_memory(lambda: to_file(files, out, fused)) / 1e6,
        "largest_mb": max(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in layout.values()) / 1e6,
    }


def write_models(folder: Path, size: int, candidates: int) -> Iterator[Path]:
    """A base and its candidates of about `size` float32 parameters, shaped like a CLIP: one table, then blocks."""
    shapes = {"token_embedding": (size // 5 // WIDTH, WIDTH)}
    while sum(rows * columns for rows, columns in shapes.values()) + 12 * WIDTH**2 <= size:
        block = len(shapes)
        shapes |= {
            f"{block}.in_proj": (3 * WIDTH, WIDTH),
            f"{block}.out_proj": (WIDTH, WIDTH),
            f"{block}.c_fc": (4 * WIDTH, WIDTH),
            f"{block}.c_proj": (WIDTH, 4 * WIDTH),
            f"{block}.ln": (1, WIDTH),
        }
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    yield save_checkpoint(folder / "base.safetensors", base.items(), like=base)
    shared = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for number in range(candidates):

        def tuned(seed: int = number) -> Iterator[Item]:
            noise = torch.Generator().manual_seed(seed)
            for name, tensor in base.items():
                yield name, tensor + 1e-3 * (shared[name] + torch.empty_like(tensor).uniform_(-1, 1, generator=noise))

        yield save_checkpoint(folder / f"{number}.safetensors", tuned(), like=base)


def read_once(files: Sequence[Path]) -> float:
    """The floor: every tensor of every file summed once, on torch's number of threads."""
    threads = torch.get_num_threads()
    opened = [open_checkpoint(file) for file in files]
    tensors = [(weights, name) for name in opened[0] for weights in opened]

    def total(part: int) -> float:
        return sum(float(weights.view(name).sum()) for weights, name in tensors[part::threads])

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(total, range(threads)))
    finally:
        torch.set_num_threads(threads)


def drain(files: Sequence[Path], engine: str) -> None:
    """Merge and drop every delta."""
    base, *candidates = (open_checkpoint(file) for file in files)
    for _ in merge(base, candidates, engine=engine):
        pass


def to_file(files: Sequence[Path], out: Path, engine: str) -> None:
    """Merge, subtract and write."""
    base, *candidates = (open_checkpoint(file) for file in files)
    save_checkpoint(out, unlearn(base, candidates, scale=1.0, engine=engine), like=base)


def authors_loop(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """NegMerge the way the authors' script goes: whole task vectors in dicts, one candidate after another."""
    base = load_file(files[0])
    total: dict[str, Any] = {}
    signs: dict[str, Any] = {}
    for file in files[1:]:
        candidate = load_file(file)
        vector = {name: candidate[name] - base[name] for name in base}
        total = {name: total.get(name, 0) + vector[name] for name in vector}
        signs = {name: signs.get(name, 0) + torch.sign(vector[name]) for name in vector}
    n = len(files) - 1
    return {name: torch.where(signs[name].abs() == n, total[name] / n, torch.zeros_like(total[name])) for name in total}


def spent(way: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def peak_memory(way: Callable[[], object]) -> float:
    """Bytes of anonymous memory that a call needs at its height, above the level before it; NaN where unknown."""
    if not Path("/proc/self/status").exists():
        return float("nan")
    before, done, peak = _anonymous(), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    way()
    done.set()
    watcher.join()
    return float(max(peak - before, 0))


def _anonymous() -> int:
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def _fits(size: int, candidates: int, folder: Path) -> bool:
    """Whether the files fit the disk, and the memory that keeps them warm."""
    need = size * 4 * (candidates + 2)
    if shutil.disk_usage(folder).free < need:
        return False
    info = Path("/proc/meminfo")
    if not info.exists():
        return True
    free = next(int(line.split()[1]) * 1024 for line in info.read_text().splitlines() if line.startswith("MemAvail"))
    return need < 0.9 * free
