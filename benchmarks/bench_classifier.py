"""Training a standard classifier, measured in one run with a plain torchvision loader and a float32 step."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.authors_loader import plain_loader
from benchmarks.bench_finetune import second_epoch
from benchmarks.bench_merge import spent
from negmerge_kit.devices import pick_device
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.standard_classifier import StandardClassifier, load_classifier
from negmerge_kit.training.finetuning import MOMENTUM
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json

CLASSES = 10
RECIPE = Recipe(
    lr=0.1, epochs=2, weight_decay=5e-4, batch_size=256, warmup=0, clip_norm=0.0, augment="crop-4", optimizer="sgd"
)
"""The published original model's, for two epochs."""


def bench(
    pool: object = None,
    *,
    device: str = "auto",
    images: int | None = None,
    repeats: int = 3,
    workers: int | None = None,
) -> Json:
    """Training images a second on random 32 x 32 images; what `python -m benchmarks classifier` prints.

    The network is ResNet-18 on a GPU and ResNet-20, which a laptop trains, elsewhere.
    `plain loader` is a torchvision pipeline: every image cropped and mirrored by Pillow in `workers` processes, then a
    float32 step with SGD. `ours` trains the same recipe with images, crops and mirrors on the device, in float32 and,
    on a GPU, in bfloat16 by channels last. Each number is one epoch after one to warm up, the median of `repeats`; the
    ways take turns. `pool` is not used.
    """
    gpu = pick_device(device).type == "cuda"
    model = load_classifier(f"classifier:{'resnet18' if gpu else 'resnet20'}", classes=CLASSES, device=device)
    kind = model.device.type
    count = images or (51_200 if gpu else 2_560)
    workers = min(16, os.cpu_count() or 1) if workers is None else workers
    recipe = replace(RECIPE, batch_size=min(RECIPE.batch_size, count))
    pixels = torch.randint(0, 256, (count, 3, *model.image_size), generator=torch.Generator().manual_seed(0))
    names = tuple(map(str, range(CLASSES)))
    known = ImageSet("bench", pixels.to(torch.uint8), torch.arange(count) % CLASSES, names, "train")
    loader = plain_loader(known, padding=4, batch_size=recipe.batch_size, workers=workers)
    step = plain_step(model, recipe)

    def plain() -> float:
        return spent(lambda: [step(*batch) for batch in next(loader)])

    plain()
    ways: dict[str, Callable[[], float]] = {"plain loader": plain}
    for precision in ("float32", "bfloat16") if kind == "cuda" else ("float32",):
        used = replace(recipe, precision=precision)
        ways[f"ours, {precision}"] = lambda used=used: second_epoch(model, known, used)  # type: ignore[misc]
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            taken[way].append(run())
    rates = {way: count / statistics.median(seconds) for way, seconds in taken.items()}
    rows = [{"way": way, "images_per_s": rate, "ratio": rate / rates["plain loader"]} for way, rate in rates.items()]
    return {
        "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
        "model": str(model.spec),
        "images": count,
        "batch": recipe.batch_size,
        "workers": workers,
        "rows": rows,
        "ratio": rows[-1]["ratio"],
    }


def plain_step(model: StandardClassifier, recipe: Recipe) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """One step of a plain loop on this network: float32, SGD with momentum, a loss read at every step."""
    network = model.tower
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=MOMENTUM, weight_decay=recipe.weight_decay)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        network.train().requires_grad_(True)
        # The loader gives pixels in [0, 1]; the network's own normalisation is the one that ours does.
        mean, std = (torch.tensor(value, device=model.device).view(1, 3, 1, 1) for value in (model.mean, model.std))
        logits = network((images.to(model.device, non_blocking=True) - mean) / std)
        loss = torch.nn.functional.cross_entropy(logits, labels.to(model.device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step
