"""Scores of a model on a scene: one pass over resident images, counted per set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError
from negmerge_kit.scoring.accuracy import Accuracy, pool_accuracies
from negmerge_kit.scoring.curve import Point
from negmerge_kit.types import Json
from negmerge_kit.vision.classifier import Classifier
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.scene import Splits


@dataclass(frozen=True)
class Scores:
    """Forget and pooled retain accuracy on one split, and each family's own."""

    forget: Accuracy
    retain: Accuracy
    families: dict[str, Accuracy]

    def json(self) -> Json:
        """`{"forget", "retain", "families"}` of the JSON contract."""
        families = {name: accuracy.json() for name, accuracy in self.families.items()}
        return {"forget": self.forget.json(), "retain": self.retain.json(), "families": families}

    def point(self, scale: float) -> Point:
        """The same as a point of the curve."""
        _, *retain = self.families
        return Point(scale, self.forget, self.retain, sets={name: self.families[name] for name in retain})


def chance_of(splits: Splits) -> float:
    """Accuracy on the forget set that guessing among its classes reaches."""
    return 1 / len(splits.forget.classes)


def evaluate(model: Classifier, images: ImageSet) -> Accuracy:
    """Share of images whose highest logit is their label's, under the model's head for that set.

    Raises:
        SceneError: if the model has no head for the set; load the scene that the images belong to.
        NotFiniteError: if the model answers with NaN or infinity; its weights are damaged.

    >>> from negmerge_kit.vision.load import load_model
    >>> from negmerge_kit.vision.families import family_images
    >>> evaluate(load_model("tiny", device="cpu"), family_images("arrows", "val")).n
    240
    """
    classes = _classes(model, model.features(images.images), images)
    return Accuracy(int((classes == images.labels.to(classes.device)).sum()), len(images), images.split)


def evaluate_splits(model: Classifier, splits: Splits) -> Scores:
    """Score the forget set and every retain set; retention is pooled over its images."""
    forget = evaluate(model, splits.forget)
    retain = {images.name: evaluate(model, images) for images in splits.retain}
    return Scores(forget, pool_accuracies(retain.values()), {splits.forget.name: forget, **retain})


def answer(
    model: Classifier, sets: Sequence[ImageSet], *, between: Callable[[], object] = lambda: None
) -> list[Tensor]:
    """The model's class indices for every set in one go, [n] int64 on the CPU each.

    `between` is called before the passes that run side by side.
    """
    parts = []
    there = sets[0].images.device  # the device itself, unless these images did not fit
    for part in torch.cat([images.images.to(there) for images in sets]).split(model.at_once):
        between()
        parts.append(model.features(part))
    features = torch.cat(parts)
    parts = features.split([len(images) for images in sets])
    return [_classes(model, part, images).cpu() for part, images in zip(parts, sets, strict=True)]


def count(indices: Sequence[Tensor], sets: Sequence[ImageSet]) -> Scores:
    """Scores from the class indices of the forget set and of each retain set, in this order."""
    hits = [
        Accuracy(int((part == images.labels.cpu()).sum()), len(images), images.split)
        for part, images in zip(indices, sets, strict=True)
    ]
    families = {images.name: hit for images, hit in zip(sets, hits, strict=True)}
    return Scores(hits[0], pool_accuracies(hits[1:]), families)


def logits_of(model: Classifier, features: Tensor, images: ImageSet) -> Tensor:
    """Logits of features under the set's head, [n, C]; a NaN must not pass as class 0.

    Raises:
        NotFiniteError: if any is NaN or infinite.
    """
    logits = features @ model.head(images.name).T
    if not bool(torch.isfinite(logits).all()):
        raise NotFiniteError(
            "the model answers with NaN or infinity: its weights are damaged, or the scale is far too large."
        )
    return logits


def _classes(model: Classifier, features: Tensor, images: ImageSet) -> Tensor:
    """Highest logit's class for each feature."""
    return logits_of(model, features, images).argmax(dim=1)
