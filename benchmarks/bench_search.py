"""The scale search, measured in one run with the authors' way: new loader, decoding and model at every scale."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.authors_loader import published_validation, read_set, write_set
from benchmarks.bench_random_subject import random_scene
from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import PoolError
from negmerge_kit.merging.negation import apply_delta, subtract
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring import Accuracy, Point, ScaleSearch, select_scale
from negmerge_kit.scoring.accuracy import pool_accuracies
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES, KEEP, METHODS, Method
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.training.forecast import flops_per_image
from negmerge_kit.types import Json, Weights
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.evaluation import Scores
from negmerge_kit.unlearning.scorer import Scorer
from negmerge_kit.unlearning.workbench import Workbench

AUTHORS_BATCH = 128


@dataclass(frozen=True)
class Subject:
    """Subject of the search: a model that can be built again, the merged delta to subtract, and validation images."""

    name: str
    build: Callable[[], Classifier]
    base: Weights
    delta: Weights
    splits: Splits
    transform: Transform


def bench(
    pool: str | Path | None = None,
    *,
    model: str | None = None,
    images: int | None = None,
    device: str = "auto",
    scales: Sequence[float] = DEFAULT_SCALES,
    repeats: int = 3,
    workers: int = 0,
) -> Json:
    """Seconds of every way to search the scale; what `python -m benchmarks search` prints.

    `authors` finds, decodes and normalises the JPEG files and builds a new model at each scale, as their code does
    (its heads are cached there, and here). Ours decodes the same files once, builds the model once, and updates it in
    place; the seconds hold both. `same` says whether ours chose the authors' scale with their counts at it and,
    searched exhaustively, has their counts at every scale. `peak_share` is what the images' floating-point operations
    are of a large float32 matrix product's speed on the same device.

    Args:
        pool: its delta and its validation images, written out as JPEG; by default the embedded scene's.
        model: an open_clip architecture with random weights instead, and random pictures.
        images: how many of these (a seventh to forget).
        repeats: runs of ours, of which the median counts; the authors' way is run once, between them.
        workers: the authors' loader processes.

    Raises:
        PoolError: if the pool has no candidate.
    """
    subject = _of_model(model, images or 5800, device) if model else _of_pool(pool, device)
    with tempfile.TemporaryDirectory(prefix="negmerge-bench-") as place:
        home = Path(place)
        for part in subject.splits:
            write_set(home / part.name, part)
        taken: dict[Method, list[float]] = {method: [] for method in METHODS}
        found: dict[Method, tuple[ScaleSearch, int]] = {}
        theirs: dict[float, Scores] = {}
        authors = 0.0
        for run in range(repeats):
            for method in METHODS:
                started = time.perf_counter()
                found[method] = ours(subject, home, scales, method)
                taken[method].append(time.perf_counter() - started)
            if run == 0:
                started = time.perf_counter()
                theirs = {scale: authors_point(subject, home, scale, workers) for scale in scales}
                authors = time.perf_counter() - started
    middle = {method: statistics.median(seconds) for method, seconds in taken.items()}
    answered = found["exhaustive"][1]
    flops, peak = flops_per_image(subject.build()), peak_flops(subject.splits.forget.images.device)
    chosen = select_scale(
        list(theirs),
        [s.forget.value for s in theirs.values()],
        [s.retain.value for s in theirs.values()],
        KEEP * theirs[min(theirs)].retain.value,
    )
    at = theirs[chosen] if chosen is not None else None
    rows = [_row("authors", authors, authors, len(theirs) * _size(subject), chosen, at)]
    for method in METHODS:
        search, asked = found[method]
        scale = search.best.scale if search.best else None
        rows.append(_row(f"ours, {method}", middle[method], authors, asked, scale, search.best))
    same = all(
        row["scale"] == chosen and row["forget"] == rows[0]["forget"] and row["retain"] == rows[0]["retain"]
        for row in rows
    )
    whole = {point.scale: point for point in found["exhaustive"][0].curve}
    curve = all((whole[s].forget, whole[s].retain) == (theirs[s].forget, theirs[s].retain) for s in theirs)
    rate = answered / middle["exhaustive"]
    return {
        "device": _device_name(subject),
        "model": subject.name,
        "images": _size(subject),
        "scales": len(scales),
        "threads": torch.get_num_threads(),
        "same": same and curve,
        "ratio": {method: authors / middle[method] for method in METHODS},
        "images_per_s": rate,
        "gflops_per_image": flops / 1e9,
        "peak_tflops": peak / 1e12,
        "peak_share": rate * flops / peak,
        "rows": rows,
    }


def ours(subject: Subject, home: Path, scales: Sequence[float], method: Method) -> tuple[ScaleSearch, int]:
    """One search from the files on: decoded once, one model updated in place; and how many images were answered."""
    device, threads = subject.splits.forget.images.device, os.cpu_count() or 1
    decoded = [read_set(home / part.name, part, subject.transform, threads=threads) for part in subject.splits]
    scorer = Scorer(_Loaded(subject, Splits(decoded[0], tuple(decoded[1:])).to(device)))
    return scorer.search(Choice((), "negmerge", ()), scales=scales, method=method), scorer.images


class _Loaded:
    """The subject's model, updated in place to each scale."""

    def __init__(self, subject: Subject, splits: Splits) -> None:
        self._subject, self._splits, self._model = subject, splits, subject.build()

    @contextmanager
    def at(self, choice: Choice | None, scale: float) -> Iterator[Classifier]:
        base, deltas = self._subject.base, self._subject.delta.items()
        self._model.load(((name, subtract(base[name], delta, scale)) for name, delta in deltas), partial=True)
        yield self._model

    def images(self, split: str) -> Splits:
        return self._splits

    def yield_to_foreground(self) -> None:
        pass


def authors_point(subject: Subject, home: Path, scale: float, workers: int) -> Scores:
    """One scale the authors' way: the model from its file, the loader from the folder, every image decoded."""
    model = subject.build()
    changed = {
        name: subject.delta.get(name, torch.zeros_like(tensor))
        for name, tensor in subject.base.items()
        if tensor.is_floating_point()
    }
    model.load(apply_delta(subject.base, changed, scale))
    scores = {}
    for part in subject.splits:
        folder, normal = home / part.name, {"mean": model.mean, "std": model.std}
        loader = published_validation(folder, model.image_size, **normal, batch_size=AUTHORS_BATCH, workers=workers)
        right = 0
        with torch.no_grad():
            for pixels, labels in loader:
                logits = model.encode(pixels.to(model.device)) @ model.head(part.name).T
                right += int((logits.argmax(dim=1).cpu() == labels).sum())
        scores[part.name] = Accuracy(right, len(part), part.split)
    forget, *retain = scores.values()
    return Scores(forget, pool_accuracies(retain), scores)


def peak_flops(device: torch.device) -> float:
    """Floating-point operations a second of a large float32 matrix product, the best of five."""
    size = 8192 if device.type == "cuda" else 1024
    square = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(6):
        _settle(device)
        started = time.perf_counter()
        square @ square
        _settle(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _of_pool(pool: str | Path | None, device: str) -> Subject:
    opened = open_pool(pool) if pool else start_pool("tiny:digits")[0]
    if not opened.ids:
        raise PoolError(f"{opened.folder} has no candidate to merge: run `negmerge pool build tiny` first.")
    workbench = Workbench(opened, device=device)
    kind = str(workbench.model.device)

    def build() -> Classifier:
        model = deepcopy(workbench.model)
        model.load(opened.base.items())
        return model

    delta = workbench.merged(workbench.choose()).delta
    base = {name: tensor.to(kind) for name, tensor in opened.base.items()}
    return Subject(str(workbench.model.spec), build, base, delta, workbench.images("val"), workbench.scene.transform)


def _of_model(arch: str, images: int, device: str) -> Subject:
    scene = random_scene(arch, images, device)
    height, width = scene.build().image_size
    return Subject(
        f"{arch}, random weights", scene.build, scene.base, scene.delta, scene.splits, Transform(height, width)
    )


def _row(way: str, seconds: float, authors: float, images: int, scale: float | None, at: Point | Scores | None) -> Json:
    forget, retain = (at.forget, at.retain) if at else (None, None)
    return {
        "way": way,
        "seconds": seconds,
        "ratio": authors / seconds,
        "images": images,
        "images_per_s": images / seconds,
        "scale": scale,
        "forget": forget and forget.correct,
        "retain": retain and retain.correct,
    }


def _size(subject: Subject) -> int:
    return sum(len(part) for part in subject.splits)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(subject: Subject) -> str:
    device = subject.splits.forget.images.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
