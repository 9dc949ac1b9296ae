"""Scores of a model on a scene: one pass over resident images, counted per set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from negmerge_kit.errors import CheckpointError
from negmerge_kit.scoring.accuracy import Accuracy, pool_accuracies
from negmerge_kit.scoring.curve import Least, Point, stop_early
from negmerge_kit.types import Json
from negmerge_kit.vision.clip import Classifier
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.scene import Splits

BATCH = 240
"""Images scored at a time; early stopping looks at the counts after each batch."""


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


def evaluate(model: Classifier, images: ImageSet) -> Accuracy:
    """Share of images whose highest logit is their label's, under the model's head for that set.

    Raises:
        SceneError: if the model has no head for the set; load the scene that the images belong to.
        CheckpointError: if the model answers with NaN or infinity; its weights are damaged.

    >>> from negmerge_kit.vision.clip import load_model
    >>> from negmerge_kit.vision.families import family_images
    >>> evaluate(load_model("tiny", device="cpu"), family_images("arrows", "val")).n
    240
    """
    return Accuracy(sum(hits for _, hits, _ in count_hits(model, images)), len(images), images.split)


def evaluate_splits(model: Classifier, splits: Splits) -> Scores:
    """Score the forget set and every retain set; retention is pooled over its images."""
    forget = evaluate(model, splits.forget)
    retain = {images.name: evaluate(model, images) for images in splits.retain}
    return Scores(forget, pool_accuracies(retain.values()), {splits.forget.name: forget, **retain})


def answer(model: Classifier, sets: Sequence[ImageSet]) -> list[Tensor]:
    """The model's class indices for every set in one forward pass, [n] int64 on the CPU each."""
    features = model.features(torch.cat([images.images for images in sets]))
    parts = features.split([len(images) for images in sets])
    return [_classes(model, part, images).cpu() for part, images in zip(parts, sets, strict=True)]


def count_hits(model: Classifier, images: ImageSet) -> Iterator[tuple[str, int, int]]:
    """(set, correct, images) of each batch of a set, in order."""
    for start in range(0, len(images), BATCH):
        features = model.features(images.images[start : start + BATCH])
        labels = images.labels[start : start + BATCH]
        right = _classes(model, features, images) == labels.to(features.device)
        yield images.name, int(right.sum()), len(labels)


def score_point(
    model: Classifier,
    splits: Splits,
    scale: float,
    *,
    forget_at_most: int | None = None,
    retain_at_least: Least | None = None,
) -> Point:
    """One point of the curve for `search_scale`, stopped as soon as its counts prove it cannot win."""
    return stop_early(
        count_hits(model, splits.forget),
        (hits for images in splits.retain for hits in count_hits(model, images)),
        forget_n=len(splits.forget),
        retain_n={images.name: len(images) for images in splits.retain},
        forget_at_most=forget_at_most,
        retain_at_least=retain_at_least,
        scale=scale,
        split=splits.forget.split,
    )


def _classes(model: Classifier, features: Tensor, images: ImageSet) -> Tensor:
    """Highest logit's class for each feature; a NaN must not pass as class 0."""
    logits = features @ model.head(images.name).T
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError(
            "the model answers with NaN or infinity: its weights are damaged, or the scale is far too large."
        )
    return logits.argmax(dim=1)
