"""Fine-tuning, measured in one run with the authors' loop: files decoded by workers at every sight, in float32."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.authors_loader import decode_once, published_loader, write_jpegs
from benchmarks.bench_merge import spent
from negmerge_kit.data.augment import augment
from negmerge_kit.devices import pick_device
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.load import load_model, untrained
from negmerge_kit.models.parameters import trained_parameters
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json

CLASSES = 8
RECIPE = Recipe(
    lr=1e-5, epochs=2, batch_size=128, augment="rand-m5-n2-mstd0.5", flips="as-published", trainable="no-attention"
)
"""The middle of the published pool."""


def bench(
    pool: object = None,
    *,
    device: str = "auto",
    images: int | None = None,
    repeats: int = 3,
    workers: int | None = None,
) -> Json:
    """Images a second of every way to fine-tune; what `python -m benchmarks finetune` prints.

    `authors` is their loop: Pillow and timm in `workers` processes, then a float32 step. `ours` trains the same
    recipe from images decoded once (which `decode_seconds` reports) and augmented by threads, in float32 and, on a
    GPU, in bfloat16. `augmenting alone` and `training alone` are the two halves of ours. Each number is one epoch
    after one to warm up, the median of `repeats`; the ways take turns. On a GPU the model is ViT-B-32 with random
    weights and the images are 256 pixels wide; on a CPU it is the embedded model, at 32. `pool` is not used.
    """
    model = _model(device)
    kind = model.device.type
    count = images or (8192 if kind == "cuda" else 512)
    workers = min(16, os.cpu_count() or 1) if workers is None else workers
    side = max(model.image_size) * 8 // 7 if kind == "cuda" else max(model.image_size)
    with tempfile.TemporaryDirectory(prefix="negmerge-bench-") as place:
        write_jpegs(Path(place), count, side, classes=CLASSES)
        started = time.perf_counter()
        decoded = decode_once(Path(place), model.image_size)
        decoding = time.perf_counter() - started
        loader = published_loader(
            Path(place),
            model.image_size,
            augment=RECIPE.augment,
            mean=model.mean,
            std=model.std,
            batch_size=RECIPE.batch_size,
            workers=workers,
        )
        step = authors_step(model)

        def authors() -> float:
            return spent(lambda: [step(*batch) for batch in next(loader)])

        authors()
        ways: dict[str, Callable[[], float]] = {"authors": authors}
        for precision in ("float32", "bfloat16") if kind == "cuda" else ("float32",):
            recipe = replace(RECIPE, precision=precision)
            ways[f"ours, {precision}"] = lambda recipe=recipe: second_epoch(model, decoded, recipe)  # type: ignore[misc]
        best = list(ways)[-1]
        plain = replace(RECIPE, augment="none", precision=best.split()[-1])
        ways["training alone"] = lambda: second_epoch(model, decoded, plain)
        ways["augmenting alone"] = lambda: spent(lambda: _augment_all(decoded))
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, run in ways.items():
                taken[way].append(run())
    rates = {way: count / statistics.median(seconds) for way, seconds in taken.items()}
    return {
        "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
        "model": str(model.spec),
        "images": count,
        "size": model.image_size[0],
        "batch": RECIPE.batch_size,
        "workers": workers,
        "decode_seconds": decoding,
        "rows": [{"way": way, "images_per_s": rate, "ratio": rate / rates["authors"]} for way, rate in rates.items()],
        "ratio": rates[best] / rates["authors"],
    }


def second_epoch(model: Classifier, images: ImageSet, recipe: Recipe) -> float:
    """Seconds of our second epoch of two."""
    half = -(-len(images) // recipe.batch_size)
    moments = [time.perf_counter() for step in finetune(model, images, recipe) if step.index >= half]
    return sum(later - earlier for earlier, later in pairwise(moments))


def authors_step(model: Classifier) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """One step of the authors' loop on this model: float32, no attention weights, gradient clipped, AdamW."""
    weights = list(trained_parameters(model.tower, RECIPE.trainable).values())
    optimizer = torch.optim.AdamW(weights, lr=RECIPE.lr, weight_decay=RECIPE.weight_decay)
    head = model.head("bench").T

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        model.network.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        logits = model.encode(images.to(model.device)) @ head
        loss = torch.nn.functional.cross_entropy(logits, labels.to(model.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, RECIPE.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _model(device: str) -> Classifier:
    on_gpu = pick_device(device).type == "cuda"
    model = untrained("ViT-B-32-quickgelu", device=device) if on_gpu else load_model("tiny", device=device)
    width = model.features(torch.zeros(1, 3, *model.image_size, dtype=torch.uint8)).shape[1]
    noise = torch.Generator().manual_seed(0)
    head = torch.nn.functional.normalize(torch.randn(CLASSES, width, generator=noise), dim=1)
    model.heads["bench"] = 100 * head.to(model.device)
    return model


def _augment_all(images: ImageSet) -> None:
    for k, batch in enumerate(images.images.split(RECIPE.batch_size)):
        augment(batch, RECIPE.augment, seed=k, flips=True)
