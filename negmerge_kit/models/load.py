"""Models by name: built with their weights and, where they bring any, their heads."""

from __future__ import annotations

from pathlib import Path

import torch

from negmerge_kit.devices import pick_device
from negmerge_kit.errors import CheckpointError
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.clip import ClipClassifier, build_model, build_untrained
from negmerge_kit.models.model_spec import ModelSpec, find_model
from negmerge_kit.models.standard_classifier import load_classifier
from negmerge_kit.types import Json


def load_model(spec: str | Path | Json, *, device: str = "auto") -> Classifier:
    """Build a model with its weights and, for the embedded one, its heads.

    Args:
        spec: "tiny"; "ARCH/TAG" or "ARCH/FILE" as open_clip names them; "timm:NAME/TAG" or "timm:NAME/FILE" for an
            image tower alone; "classifier:NAME/FILE" (see `load_classifier`); a weight file of the embedded model (or
            of a model that its metadata names as "arch");
            or {"arch": ..., "pretrained": TAG or FILE, "size": pixels a side, where not its own}.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        CheckpointError: weights that are missing, do not fit, were trained with another activation, or do not look at
            the image.
        DeviceError: a device that is not there.

    >>> model = load_model("tiny", device="cpu")
    >>> tuple(model.heads["digits"].shape)
    (10, 64)
    """
    found = find_model(spec)
    if found.is_classifier:
        return load_classifier(found, device=device)
    classifier = ClipClassifier(build_model(found, pick_device(device)), found)
    _check_that_it_looks(classifier)
    for name, (classes, templates) in found.heads():
        classifier.add_head(name, classes, templates)
    return classifier


def untrained(arch: str, *, size: int | None = None, device: str = "auto") -> Classifier:
    """An open_clip architecture with random weights and no heads: for measuring speed, and for nothing else.

    >>> untrained("negmerge-tiny", device="cpu").spec
    ModelSpec(arch='negmerge-tiny', pretrained='random', size=None)
    """
    return ClipClassifier(build_untrained(arch, pick_device(device), size), ModelSpec(arch, "random", size))


def _check_that_it_looks(classifier: Classifier) -> None:
    """Refuse weights under which two very different images look the same."""
    grey = torch.randint(0, 256, (2, 3, *classifier.image_size), generator=torch.Generator().manual_seed(0))
    grey[0] = 0
    black, noise = classifier.features(grey.to(torch.uint8)).unbind()
    if not bool(torch.isfinite(noise).all()) or float((black - noise).abs().max()) < 1e-5:
        raise CheckpointError(
            f"{classifier.spec} gives the same or no features for different images: its weights are "
            "broken or belong to another architecture; give another file or tag."
        )
