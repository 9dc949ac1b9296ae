"""When does sign consensus pay? Pools with candidates that were trained too hard, too little, on other images, or not.

    python -m benchmarks.uneven FOLDER [--pools 8] [--workers 2] [--record FILE]

Each pool holds candidates of every kind, fine-tuned from the embedded base with hyperparameters and seeds of its own.
Every cell is a choice among them; in every cell every rule is read at equal test retention (see equal_retention.py).
Weights and answers stay in FOLDER, so a run that was stopped goes on; FILE, by default benchmarks/records/uneven.json,
holds what `docs/when.md` is made of.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
import torch

from benchmarks.equal_retention import Bits, Curve, Resamples, reading, walk
from negmerge_kit.comparison.matched_retention import FLOORS
from negmerge_kit.comparison.methods import find_method
from negmerge_kit.data.embedded import family_images
from negmerge_kit.errors import NotFiniteError
from negmerge_kit.pools.pool import Pool, open_pool
from negmerge_kit.pools.pool_writer import candidate_id, record_candidate, save_candidate, writing
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.sweeps.job import Job
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import find_executor, run_sweep
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Items, Json
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench

SCENE, OTHER = "tiny:digits", "letters"
"""What is forgotten, and the family on which candidates of the wrong one are trained: one of those to keep."""

KINDS: Mapping[str, tuple[int, str]] = {
    "clean": (30, "learning rate 5e-4 to 2e-3, 4 to 8 epochs, weight decay 0.01, 0.1 or 0.5"),
    "reckless": (6, "as clean, with a rate of 4 to 20 times 1e-3"),
    "timid": (4, "one epoch, learning rate 1e-4"),
    "noise": (4, "a clean candidate's delta with each tensor's elements shuffled and their signs drawn"),
    "wrong": (4, f"as clean, trained on {OTHER}, which should be kept"),
    "fixed": (8, "as clean, every candidate seeing the images in one fixed order"),
    "fixed-reckless": (2, "as reckless, in the fixed order"),
}
"""How many candidates of each kind a pool holds, and what they are."""

CELLS: Mapping[str, Mapping[str, int]] = {
    "4 clean": {"clean": 4},
    "8 clean": {"clean": 8},
    "16 clean": {"clean": 16},
    "30 clean": {"clean": 30},
    "9 + 1 reckless": {"clean": 9, "reckless": 1},
    "4 + 1 reckless": {"clean": 4, "reckless": 1},
    "8 + 2 reckless": {"clean": 8, "reckless": 2},
    "16 + 4 reckless": {"clean": 16, "reckless": 4},
    "24 + 6 reckless": {"clean": 24, "reckless": 6},
    "6 + 4 reckless": {"clean": 6, "reckless": 4},
    "4 + 4 timid": {"clean": 4, "timid": 4},
    "4 + 2 reckless + 2 timid": {"clean": 4, "reckless": 2, "timid": 2},
    "8 + 2 noise": {"clean": 8, "noise": 2},
    "6 + 4 noise": {"clean": 6, "noise": 4},
    "8 + 2 wrong": {"clean": 8, "wrong": 2},
    "6 + 4 wrong": {"clean": 6, "wrong": 4},
    "8 fixed order": {"fixed": 8},
    "8 + 2 reckless, fixed order": {"fixed": 8, "fixed-reckless": 2},
}
"""The first so many candidates of each kind."""

REFERENCE = "uniform"
RULES = (
    REFERENCE,
    "negmerge",
    "negmerge:agreement=0.75",
    "negmerge:average=min",
    "negmerge:agreement=0.75:average=min",
    "ties",
    "random-mask",
    "median",
    "normalised",
    "single",
)
"""`single` is the candidate that forgets most at equal retention on validation, read on test."""

RECORD = Path(__file__).parent / "records" / "uneven.json"


def recipes(seed: int) -> Iterator[tuple[str, Recipe]]:
    """Every trained candidate's kind and recipe; pools share no seed and no draw."""
    draw = Random(seed)
    for kind, (count, _) in KINDS.items():
        for _ in range(count if kind != "noise" else 0):
            recipe = Recipe(
                lr=float(f"{5e-4 * 4 ** draw.random():.3g}"),
                epochs=draw.randint(4, 8),
                weight_decay=draw.choice((0.01, 0.1, 0.5)),
                seed=draw.randrange(2**31),
                order="fixed" if kind.startswith("fixed") else "own",
            )
            if kind.endswith("reckless"):
                recipe = replace(recipe, lr=float(f"{4e-3 * 5 ** draw.random():.3g}"))
            if kind == "timid":
                recipe = replace(recipe, lr=1e-4, epochs=1)
            yield kind, recipe


def shuffled(pool: Pool, id: str, seed: int) -> Items:
    """A candidate's weights with the elements of each tensor's delta in a random order, with random signs."""
    generator = torch.Generator().manual_seed(seed)
    candidate = pool.candidate(id)
    for name, base in pool.base.items():
        moved = (candidate[name] - base).flatten()
        moved = moved[torch.randperm(len(moved), generator=generator)]
        signs = torch.randint(2, moved.shape, generator=generator) * 2 - 1
        yield name, base + (moved * signs).view_as(base)


@dataclass(frozen=True)
class StudiedPool:
    """The job of one pool: train what is missing, then measure every rule in every cell."""

    folder: Path
    seed: int

    @property
    def label(self) -> str:
        """The folder's name."""
        return self.folder.name

    def run(self, on_step: ProgressFn = no_progress) -> list[Json]:
        """One row a cell and rule: scales, and which test images were right there, packed."""
        kinds = self.filled(on_step)
        bench = Workbench(open_pool(self.folder), device="cpu")
        study = Study(bench, kinds)
        rows: list[Json] = []
        for cell in CELLS:
            for rule in RULES:
                on_step(Progress(f"{cell}, {rule}", step=len(rows), total=len(CELLS) * len(RULES)))
                rows.append({"cell": cell, "rule": rule} | study.row(cell, rule))
        return rows

    def filled(self, on_step: ProgressFn) -> dict[str, list[str]]:
        """Candidate ids by kind, every one trained and recorded."""
        pool = open_pool(self.folder)
        bench = Workbench(pool, device="cpu", memory="none")
        forget, other = bench.images("train").forget, family_images(OTHER, "train")
        kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}

        def add(kind: str, recipe: Json, weights: Items) -> None:
            nonlocal pool
            id = candidate_id(pool, recipe)
            if id not in pool.ids:
                with writing(self.folder):
                    pool = record_candidate(pool, save_candidate(pool, recipe, weights))
            kinds[kind].append(id)

        def trained(kind: str, recipe: Recipe) -> Items:
            model = bench.fresh_model()
            for step in finetune(model, other if kind == "wrong" else forget, recipe):
                on_step(Progress(f"{kind}: {recipe.label}", step=step.index, total=step.total))
            yield from model.weights().items()

        for kind, recipe in recipes(self.seed):
            named = {"file": f"{OTHER}: {recipe.label} seed {recipe.seed}"} if kind == "wrong" else recipe.json()
            add(kind, named, trained(kind, recipe))
        for k in range(KINDS["noise"][0]):
            source = kinds["clean"][k]
            add("noise", {"file": f"noise of {source}"}, shuffled(pool, source, 1000 * self.seed + k))
        return kinds


class Study:
    """One pool's rows; remembers what several cells share."""

    def __init__(self, bench: Workbench, kinds: Mapping[str, Sequence[str]]) -> None:
        self.bench, self.kinds = bench, kinds
        self._length = 1.0  # of the last row's subtracted delta in the middle of its walk: the next walk starts there
        self._alone: dict[str, float] = {}

    def row(self, cell: str, rule: str) -> Json:
        """Scales and answers of one rule in one cell on test, or the sentence that says why there are none."""
        ids = [id for kind, count in CELLS[cell].items() for id in self.kinds[kind][:count]]
        if rule == "single":
            ids, method = [min(ids, key=self.alone)], find_method(REFERENCE)
        else:
            method = find_method(rule)
        choice = self.bench.choose(ids, method.rule, dict(method.params))
        kept = self.bench.merged(choice).counts.kept_fraction
        curve = self.curve(choice, "test")
        if curve is None:
            return {"kept": kept, "curve": None}
        return {"kept": kept, "curve": packed(curve)}

    def alone(self, id: str) -> float:
        """What one candidate leaves at equal retention on validation; infinite where it never meets the floors."""
        if id not in self._alone:
            curve = self.curve(self.bench.choose([id], REFERENCE), "val")
            self._alone[id] = float("inf") if curve is None else float(reading(curve)[0])
        return self._alone[id]

    def curve(self, choice: Choice, split: str) -> Curve | None:
        """The walk of a choice, from the length of delta that the last one ended at."""
        delta = self.bench.merged(choice).delta
        norm = float(torch.stack([change.float().square().sum() for change in delta.values()]).sum().sqrt())
        if norm == 0:
            return None

        def measure(scale: float) -> Bits:
            try:
                answers = self.bench.scorer.answers(choice if scale else None, scale, split)
            except NotFiniteError:  # far beyond every floor: nothing is right there
                answers = self.bench.scorer.answers(None, 0.0, split)
                return np.zeros(len(answers.forget), bool), np.zeros(len(answers.retain), bool)
            return answers.forget.numpy(), answers.retain.numpy()

        curve = walk(measure, self._length / norm)
        if curve is not None:
            self._length = median(curve.scales[1:]) * norm
        return curve


def packed(curve: Curve) -> Json:
    """A curve as plain values."""
    sides = {"forget": curve.forget, "retain": curve.retain}
    bits = {name: [np.packbits(row).tobytes().hex() for row in side] for name, side in sides.items()}
    return {"scales": list(curve.scales), "n": [curve.forget.shape[1], curve.retain.shape[1]], **bits}


def unpacked(values: Json) -> Curve:
    """The curve that `packed` gave."""
    sides = (
        np.stack([np.unpackbits(np.frombuffer(bytes.fromhex(row), np.uint8), count=n) for row in values[name]])
        for name, n in zip(("forget", "retain"), values["n"], strict=True)
    )
    return Curve(tuple(values["scales"]), *(side.astype(bool) for side in sides))


def summary(pools: Sequence[Sequence[Json]], *, times: int = 2000) -> Json:
    """Every cell and rule: forget accuracy at equal retention, and its difference from the plain mean, in pools' means.

    Args:
        pools: each pool's rows.
        times: resamples of pools and images.
    """
    curves = [
        {(row["cell"], row["rule"]): unpacked(row["curve"]) if row["curve"] else None for row in rows} for rows in pools
    ]
    some = next(curve for of_pool in curves for curve in of_pool.values() if curve is not None)
    draws = Resamples.draw(len(pools), some.forget.shape[1], some.retain.shape[1], times=times)
    cells = []
    for cell in CELLS:
        reference = [of_pool[cell, REFERENCE] for of_pool in curves]
        lines = []
        for rule in RULES:
            found = [of_pool[cell, rule] for of_pool in curves]
            rows = [row for of_pool in pools for row in of_pool if (row["cell"], row["rule"]) == (cell, rule)]
            lines.append({"rule": rule, "kept": [row["kept"] for row in rows]} | compared(found, reference, draws))
        cells.append({"cell": cell, "candidates": CELLS[cell], "rules": lines})
    return {
        "scene": SCENE,
        "split": "test",
        "floors": FLOORS,
        "pools": len(pools),
        "n": {"forget": some.forget.shape[1], "retain": some.retain.shape[1]},
        "resamples": times,
        "kinds": {kind: {"candidates": count, "what": what} for kind, (count, what) in KINDS.items()},
        "cells": cells,
    }


def compared(found: Sequence[Curve | None], reference: Sequence[Curve | None], draws: Resamples) -> Json:
    """One rule in one cell: each pool's curve in counts, and the means with their intervals."""
    counts = [
        curve
        and {
            "scales": [round(scale, 5) for scale in curve.scales],
            "forget": curve.forget.sum(axis=1).tolist(),
            "retain": curve.retain.sum(axis=1).tolist(),
            "reading": float(reading(curve)[0]),
        }
        for curve in found
    ]
    whole = [curve for curve in found if curve is not None]
    known = [curve for curve in reference if curve is not None]
    if len(whole) < len(found) or len(known) < len(found):  # a mean over other pools than the next rule's says nothing
        return {"curves": counts, "forget": None, "difference": None}
    readings = np.stack([draws.readings(curve) for curve in whole])
    differences = readings - np.stack([draws.readings(curve) for curve in known])
    points = [float(reading(curve)[0]) for curve in whole]
    apart = [point - float(reading(curve)[0]) for point, curve in zip(points, known, strict=True)]
    return {
        "curves": counts,
        "forget": _score(points, draws.interval(readings)),
        "difference": _score(apart, draws.interval(differences)),
        "pools_lower": sum(value < 0 for value in apart),
    }


def _score(values: Sequence[float], interval: tuple[float, float]) -> Json:
    return {"value": float(np.mean(values)), "low": interval[0], "high": interval[1]}


def main() -> None:
    """Run what is missing, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pools", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE")
    options = parser.parse_args()
    jobs = []
    for seed in range(options.pools):
        pool, _ = start_pool(SCENE, options.folder.resolve() / f"pool-{seed}")
        jobs.append(StudiedPool(pool.folder, seed))

    def show(job: Job, progress: Progress) -> None:
        print(f"{job.label} {progress.step}/{progress.total}: {progress.message}", file=sys.stderr, flush=True)

    found: dict[int, list[Json]] = {}
    for outcome in run_sweep(jobs, executor=find_executor("process", workers=options.workers), on_step=show):
        if outcome.failure:
            sys.exit(outcome.failure)
        found[outcome.job.seed] = outcome.value
    options.record.parent.mkdir(exist_ok=True)
    values = summary([found[seed] for seed in sorted(found)])
    options.record.write_text(json.dumps(values, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
