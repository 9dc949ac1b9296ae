"""A slider move on a model of real size with random weights: many candidates, thousands of images, no downloads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, cycle
from pathlib import Path
from typing import Any

import torch

from negmerge_kit.bench.random_subject import random_scene
from negmerge_kit.bench.slider import summary, timed
from negmerge_kit.checkpoints.pool import Candidate, Pool, StoredFile
from negmerge_kit.lab.evaluation import answer
from negmerge_kit.lab.placing import Place, Placing
from negmerge_kit.lab.resident import Choice, ResidentDeltas
from negmerge_kit.lab.running_statistics import RunningStatistics
from negmerge_kit.types import Json, Weights
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.scene import open_scene

IMAGES, CANDIDATES, LIVE = 5_800, 30, 240
RULE, PARAMS = "negmerge", (("agreement", 1.0), ("average", "mean"), ("over", "agreeing"))
SCALE_MS, CHOICE_MS = 300.0, 1000.0


@dataclass(frozen=True)
class RandomPool(Pool):
    """Candidates that are drawn when they are asked for: half of each one's move is shared by all."""

    base_weights: Weights = field(default_factory=dict)
    shared: Weights = field(default_factory=dict)

    def candidate(self, id: str) -> Weights:
        """The base, moved by the shared noise and as much of this candidate's own."""
        generator = torch.Generator().manual_seed(int(id))
        moved = {}
        for name, move in self.shared.items():
            own = torch.randn(move.shape, generator=generator) * move.float().cpu().std()
            moved[name] = self.base_weights[name] + 0.5 * (move.cpu() + own).to(move.dtype)
        return {**self.base_weights, **moved}


def random_slider(
    arch: str, *, images: int = IMAGES, candidates: int = CANDIDATES, moves: int = 40, device: str = "auto"
) -> Json:
    """Milliseconds of a scale move and of another set of candidates, each with every image scored, and with LIVE."""
    scene = random_scene(arch, images, device)
    model = scene.build()
    deltas = ResidentDeltas(model.weights())
    entries = tuple(Candidate(str(number), "", "", {}) for number in range(candidates))
    nothing = StoredFile("", "")
    weights = {name: tensor.cpu() for name, tensor in scene.base.items()}
    pool = RandomPool(Path(), {}, nothing, nothing, entries, base_weights=weights, shared=scene.delta)
    # A scene is asked for only where running statistics are recalibrated, which is not measured here.
    placing = Placing(model, deltas, RunningStatistics(model, open_scene("tiny:digits")))
    sets = (scene.splits.forget, *scene.splits.retain)
    live = tuple(images.take(LIVE // len(sets)) for images in sets)
    subsets = cycle(chain.from_iterable(combinations(pool.ids, candidates - left) for left in (1, 2)))
    everyone = Choice(tuple(pool.ids), RULE, PARAMS)

    def move(asked: Sequence[ImageSet]) -> Callable[[float], Any]:
        def moved(scale: float) -> None:
            placing.move(pool, Place(everyone, scale, exact=False))
            answer(model, asked)

        return moved

    def choose(scale: float) -> None:
        placing.move(pool, Place(Choice(next(subsets), RULE, PARAMS), scale, exact=False))
        answer(model, sets)

    started = time.perf_counter()
    placing.move(pool, Place(everyone, 0.5))
    loaded = time.perf_counter() - started
    rows = [
        summary(f"scale moved, {images:,} images scored", timed(move(sets), moves), SCALE_MS),
        summary(f"scale moved, {sum(map(len, live))} live images scored", timed(move(live), moves), SCALE_MS),
        summary(f"other candidates merged, {images:,} images scored", timed(choose, moves), CHOICE_MS),
    ]
    return {
        "model": arch, "candidates": candidates, "images": images, "device": str(model.device),
        "cores": os.cpu_count(), "residency": deltas.residency, "given_up": deltas.told, "batch": model.batch,
        "loading_seconds": loaded, "rows": rows,
    }  # fmt: skip
