"""A model with random weights, pictures that it labels itself, and noise to subtract: a search without downloads."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch

from negmerge_kit.image_set import ImageSet
from negmerge_kit.merging.negation import subtract
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.load import untrained
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.types import Weights

CLASSES = 8
FORGET_SHARE = 7
"""One image of so many is to be forgotten: about the ratio of 814 of Cars to 5,000 of ImageNet."""


@dataclass(frozen=True)
class RandomScene:
    """What `random_scene` makes."""

    build: Callable[[], Classifier]
    base: Weights
    delta: Weights
    splits: Splits


def random_scene(arch: str, images: int, device: str) -> RandomScene:
    """A search like a real one in size: the labels are the base's own answers, so that accuracy falls from 1.

    The noise is as strong as half of the grid needs to bring retention to its floor.

    >>> scene = random_scene("negmerge-tiny", 70, "cpu")
    >>> len(scene.splits.forget), len(scene.splits.retain[0])
    (10, 60)
    """
    first = untrained(arch, device=device)
    generator = torch.Generator().manual_seed(0)
    heads = {name: torch.randn(CLASSES, _width(first), generator=generator) for name in ("forget", "retain")}
    weights = {name: tensor.cpu().clone() for name, tensor in first.weights().items()}

    first.heads = {name: head.to(first.device) for name, head in heads.items()}

    def build() -> Classifier:
        model = deepcopy(first)
        model.load(weights.items())
        return model

    model = build()
    base = dict(model.weights())
    sets = []
    for name, count in (("forget", images // FORGET_SHARE), ("retain", images - images // FORGET_SHARE)):
        pixels = _pictures(count, model.image_size, generator)
        labels = model.logits(pixels, name).argmax(dim=1).cpu()
        sets.append(ImageSet(name, pixels, labels, tuple(f"class {k}" for k in range(CLASSES)), "val"))
    noise = {
        name: torch.randn(tensor.shape, generator=generator).to(tensor) * tensor.float().std().nan_to_num().to(tensor)
        for name, tensor in base.items()
        if name.startswith("visual.") and tensor.is_floating_point() and tensor.ndim >= 2
    }
    strength = 0.01
    while strength < 10 and _kept(model, base, noise, 0.5 * strength, sets[1].take(500)) > 0.95:
        strength *= 1.5
    delta = {name: tensor * strength for name, tensor in noise.items()}
    forget, retain = (part.to(model.device) for part in sets)
    return RandomScene(build, base, delta, Splits(forget, (retain,)))


def _pictures(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Soft random pictures, uint8 [n, 3, H, W]."""
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    parts = [torch.nn.functional.interpolate(part, size, mode="bicubic").clamp(0, 1) for part in coarse.split(256)]
    return torch.cat([(part * 255).to(torch.uint8) for part in parts])


def _kept(model: Classifier, base: Weights, noise: Weights, scale: float, images: ImageSet) -> float:
    model.load(((name, subtract(base[name], tensor, scale)) for name, tensor in noise.items()), partial=True)
    right = model.logits(images.images, images.name).argmax(dim=1).cpu() == images.labels
    model.load(((name, base[name]) for name in noise), partial=True)
    return float(right.float().mean())


def _width(model: Classifier) -> int:
    return int(model.features(torch.zeros(1, 3, *model.image_size, dtype=torch.uint8)).shape[1])
