"""Forecast of a reproduction or a grid before anything is fetched: downloads, computing time and disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import isfinite
from typing import TypeAlias

import torch
from torch.utils.flop_counter import FlopCounterMode

from negmerge_kit.data import DataSource
from negmerge_kit.data.hub import NamedSource
from negmerge_kit.data.source import EncodedSource
from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import ParameterError
from negmerge_kit.models.classifier import BATCH, Classifier
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json

SUSTAINED = 40.0
"""Tera floating-point operations a second that a large GPU is assumed to sustain: an assumption, not a measurement."""

TRAINING = 3.0
"""Forward and backward pass in forward passes."""

SEARCHED = 0.25
"""Share of the images that a search of a candidate's own scale looks at, of all images at every scale of the grid: most
scales are given up early. Counted on the embedded scene: 14 to 44 %, on average 23 %, for the eight of its grid."""

Clock: TypeAlias = Callable[[], float]


def forecast(
    sources: Sequence[DataSource],
    control: DataSource,
    model: Classifier,
    transform: Transform,
    grid: Callable[[str, int], Sequence[Recipe]],
    *,
    merged: int = 1,
    single: bool = False,
    tflops: float = SUSTAINED,
) -> Json:
    """Downloads, GPU hours and disk of a table over these data sets.

    Args:
        transform: how large an image is once it is decoded.
        grid: the recipes for a data set, by its name and number of training images.
        merged: rules whose scale is searched.
        single: whether every candidate's own scale is searched, too.
        tflops: what the device sustains. A search is counted as if no scale were ever given up early.

    Raises:
        ParameterError: unless `tflops` is a finite number above 0.
    """
    check_tflops(tflops)
    flops = flops_per_image(model)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.weights("meta").values())
    kept = {split: count_images(control, split, transform) for split in ("val", "test")}
    downloads = {control.text: control.bytes}
    rows: list[Json] = []
    for source in sources:
        images = {split: count_images(source, split, transform) for split in ("train", "val", "test")}
        recipes = grid(source.name, images["train"])
        trained = sum(recipe.epochs * images["train"] for recipe in recipes)
        searches = merged + len(recipes) * single
        looked = searches * len(DEFAULT_SCALES) * (images["val"] + kept["val"])
        searched = looked + (1 + merged + single) * (images["test"] + kept["test"])
        downloads[source.text] = source.bytes
        disk = (1 + len(recipes)) * weights + sum(images.values()) * transform.nbytes + (source.bytes or 0)
        rows.append(
            {
                "data": source.name,
                "title": source.title,
                "download_bytes": source.bytes,
                "licence": source.licence,
                "candidates": len(recipes),
                "training_images": images["train"],
                "training_hours": TRAINING * trained * flops / (tflops * 1e12) / 3600,
                "search_hours": searched * flops / (tflops * 1e12) / 3600,
                "disk_bytes": disk,
            }
        )
    stored = (control.bytes or 0) + weights
    return {
        "model_bytes": weights,
        "control": {"data": control.name, "title": control.title, "download_bytes": control.bytes},
        "download_bytes": sum(size or 0 for size in downloads.values()) + weights,
        "assumed_tflops": tflops,
        "gpu_hours": sum(row["training_hours"] + row["search_hours"] for row in rows),
        "disk_bytes": sum(row["disk_bytes"] for row in rows) + sum(kept.values()) * transform.nbytes + stored,
        "rows": rows,
    }


def check_tflops(tflops: float) -> float:
    """The number itself; ParameterError unless it is finite and above 0."""
    if not (isfinite(tflops) and tflops > 0):
        raise ParameterError(f"--tflops is {tflops:g}: give what the device sustains, above 0.")
    return tflops


def flops_per_image(model: Classifier) -> float:
    """Floating-point operations of one image's forward pass through the image tower, as torch counts them."""
    pixels = torch.zeros(1, 3, *model.image_size, device=model.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode(pixels)
    return float(counter.get_total_flops())


def count_images(source: DataSource, split: str, transform: Transform) -> int:
    """How many images a split has: from the registry for named data, else by listing; nothing is decoded or fetched.

    Raises:
        SceneError: for unregistered data that is not here yet; prepare it first.

    >>> from negmerge_kit.data import find_data
    >>> count_images(find_data("cars"), "train", Transform(224, 224))
    7330
    """
    if isinstance(source, NamedSource):
        return source.count([split])
    if split not in source.splits:
        return 0  # a control is never trained on
    if isinstance(source, EncodedSource):
        return len(source.rows(split)[1])
    return len(source.images(split, image_size=transform))


def predicted_seconds(model: Classifier, recipes: Sequence[Recipe], *, images: int, scored: int) -> tuple[float, float]:
    """(training, scoring): seconds for these recipes where the model is, at the speed of forward passes timed now.

    TRAINING · epochs · images, and SEARCHED · scales · scored for each recipe, times the seconds of one image's forward
    pass: rougher than `measured_seconds`, which takes training steps, but at no time in the way of what trains.

    Args:
        images: that candidates train on.
        scored: validation images, of both sides, that the search of a candidate's own scale looks at.
    """
    each = seconds_of_an_image(model)
    epochs = sum(recipe.epochs for recipe in recipes)
    return TRAINING * epochs * images * each, len(recipes) * SEARCHED * len(DEFAULT_SCALES) * scored * each


def seconds_of_an_image(model: Classifier, *, clock: Clock = time.perf_counter) -> float:
    """Of a forward pass over a whole batch, the quickest of three: what else the machine does is not the model's."""
    blank = torch.zeros(BATCH[model.device.type], 3, *model.image_size, dtype=torch.uint8)
    model.features(blank)  # the first pass also sets up

    def timed() -> float:
        started = clock()
        model.features(blank).cpu()
        return clock() - started

    return min(timed() for _ in range(3)) / len(blank)
