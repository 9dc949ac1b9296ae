"""Merging files, measured in one run with the authors' loop and the least that reading them can cost."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.authors_merge import authors_loop
from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging import merge, unlearn
from negmerge_kit.sweeps.malloc import KEPT, LARGEST_MMAP_THRESHOLD
from negmerge_kit.types import Item, Json

SIZES = (50_000_000, 113_000_000)
COUNTS = (3, 8, 16, 30)
TYPED = 8
"""Candidates that `negmerge merge` is typed with."""
WIDTH = 768
RATIOS = (
    ("merge", "floor"),
    ("former", "floor"),
    ("authors", "floor"),
    ("typed", "authors_typed"),
    ("typed_cpu", "authors_typed_cpu"),
)
ROOT = Path(__file__).parents[1]
AUTHORS = Path(__file__).with_name("authors_merge.py")


def bench(
    pool: object = None,
    *,
    sizes: Sequence[int] = SIZES,
    counts: Sequence[int] = COUNTS,
    repeats: int = 5,
    former: str | Path | None = None,
    folder: str | Path | None = None,
) -> Json:
    """Rows for every size (float32 parameters) and number of candidates; what `python -m benchmarks merge` prints.

    `floor` sums every mapped tensor once, on as many threads as torch uses; `merge` merges the same files with the
    result dropped; `to_file` writes the unlearned model as well; `authors` is their loop, one model-sized dict after
    another. `typed` is `negmerge merge BASE C0 … C7 --out FILE` as a process, from its start to its exit, hashes and
    the wait for the disk included; `authors_typed` is their loop as a script that saves, too, and does not wait for
    the disk; `…_cpu` are the seconds that they keep a core busy. With `former`, a
    checkout of another version, `former` is its `merge` with the result dropped.

    The ways take turns; seconds are the least of `repeats`, and ratios the median of the pairs, so that a busy machine
    troubles all alike (`best_ratio` is least to least). `peak_mb` is anonymous memory above the level before, while
    streaming to a file. `pool` is not used: the files are drawn in a temporary folder and removed. Raises
    ParameterError when no size fits the disk.
    """
    rows: list[Json] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder, prefix="negmerge-bench-") as place:
            home = Path(place)
            fitting = [n for n in counts if _fits(size, n, home)]
            files = list(write_models(home, size, max(fitting, default=0)))
            for n in fitting:
                rows.append(measure(files[: n + 1], home / "out.safetensors", repeats=repeats, former=former))
    if not rows:
        raise ParameterError("no size fits the disk or the memory: give smaller sizes or another folder.")
    return {"threads": torch.get_num_threads(), "rows": rows}


def measure(files: Sequence[Path], out: Path, *, repeats: int, former: str | Path | None = None) -> Json:
    """One row: the base and its candidates, merged in every way."""
    ways: dict[str, Callable[[], float]] = {
        "floor": lambda: spent(lambda: read_once(files)),
        "merge": lambda: spent(lambda: drain(files)),
        "to_file": lambda: spent(lambda: to_file(files, out)),
        "authors": lambda: spent(lambda: authors_loop(files)),
    }
    if former is not None:
        ways["former"] = lambda: drained_by(Path(former), files)
    if len(files) == TYPED + 1:
        ours = [sys.executable, "-m", "negmerge_kit.cli", "merge", *map(str, files), "--out", str(out)]
        theirs = [sys.executable, str(AUTHORS), *map(str, files), str(out)]
        ways["typed"] = lambda: typed(ours, "typed_cpu")
        ways["authors_typed"] = lambda: typed(theirs, "authors_typed_cpu")
    taken: dict[str, list[float]] = {name: [] for name in ways}

    def typed(command: Sequence[str], cpu: str) -> float:
        wall, busy = run(command)
        taken.setdefault(cpu, []).append(busy)
        return wall

    for _ in range(repeats):
        for name, way in ways.items():
            taken[name].append(way())
    layout = open_checkpoint(files[0]).layout()
    row: Json = {
        "elements": sum(torch.Size(shape).numel() for shape, _ in layout.values()),
        "candidates": len(files) - 1,
        "gigabytes": sum(file.stat().st_size for file in files) / 1e9,
        **{name: min(seconds) for name, seconds in taken.items()},
    }
    for one, other in RATIOS:
        if one in taken:
            pairs = zip(taken[one], taken[other], strict=True)
            row[f"{one}_ratio"] = statistics.median(a / b for a, b in pairs)
            row[f"{one}_best_ratio"] = min(taken[one]) / min(taken[other])
    return row | {
        "peak_mb": peak_of_a_process(files, out) / 1e6,
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


def drain(files: Sequence[Path]) -> None:
    """Merge and drop every delta."""
    base, *candidates = (open_checkpoint(file) for file in files)
    for _ in merge(base, candidates):
        pass


def to_file(files: Sequence[Path], out: Path) -> None:
    """Merge, subtract and write."""
    base, *candidates = (open_checkpoint(file) for file in files)
    save_checkpoint(out, unlearn(base, candidates, scale=1.0), like=base)


def drained_by(tree: Path, files: Sequence[Path]) -> float:
    """Seconds that another version's `merge` takes in another process, imports left out."""
    code = (
        "import sys, time\n"
        "from negmerge_kit import merge, open_checkpoint\n"
        "def drain():\n"
        "    base, *candidates = map(open_checkpoint, sys.argv[1:])\n"
        "    for _ in merge(base, candidates):\n"
        "        pass\n"
        "times = []\n"
        "for _ in range(2):\n"
        "    started = time.perf_counter()\n"
        "    drain()\n"
        "    times.append(time.perf_counter() - started)\n"
        "print(min(times))\n"
    )
    command = [sys.executable, "-c", code, *(str(file.resolve()) for file in files)]
    kept = {"MALLOC_MMAP_THRESHOLD_": str(LARGEST_MMAP_THRESHOLD), "MALLOC_TRIM_THRESHOLD_": str(KEPT)}  # as here
    done = subprocess.run(command, cwd=tree, env=os.environ | kept, check=True, capture_output=True, text=True)
    return float(done.stdout)


def run(command: Sequence[str]) -> tuple[float, float]:
    """Seconds from start to exit of a process as one types it, and those that it kept a core busy."""
    # Importing the kit here has set how OpenMP's threads wait, and children would inherit it.
    typed = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=typed)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


def peak_of_a_process(files: Sequence[Path], out: Path) -> float:
    """`peak_memory` of `to_file`, in a process that has merged nothing before."""
    code = (
        "import sys, negmerge_kit, torch\n"
        "from pathlib import Path\n"
        "from benchmarks.bench_merge import peak_memory, to_file\n"
        "torch.ones(1).sum()\n"
        "*files, out = map(Path, sys.argv[1:])\n"
        "print(peak_memory(lambda: to_file(files, out)))\n"
    )
    command = [sys.executable, "-c", code, *(str(file.resolve()) for file in (*files, out))]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


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
