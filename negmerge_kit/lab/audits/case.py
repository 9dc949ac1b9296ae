"""An audit's case: the models, the images that they are asked about, and how a probe's numbers become an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from negmerge_kit.errors import SceneError
from negmerge_kit.lab.audits.probe import LOWER, Probe, Reading, judge
from negmerge_kit.lab.audits.subjects import Subject
from negmerge_kit.lab.training.recipe import Recipe
from negmerge_kit.types import Json
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.scene import Splits

Hits = Callable[[Subject], Tensor]

PER_CLASS = 100
"""Training images of each class that feature probes learn from, at most."""


@dataclass(frozen=True)
class Members:
    """Images whose part in pretraining is known: kept ones that were seen, ones never seen, forget ones that were."""

    seen: tuple[ImageSet, ...]
    unseen: tuple[ImageSet, ...]
    forget: ImageSet


@dataclass(frozen=True)
class Case:
    """What probes get.

    Attributes:
        subjects: base and unlearned, retrained where there is one, and `shuffled`, the floor of feature probes.
        train: forget images that a probe may learn from; `fit`: at most PER_CLASS of each class, by the seed.
        val, test: both sides; a probe that chooses does so on val, every number is of test.
        templates: prompt templates of each set, for heads that are built anew.
        recipe: how relearning trains.
        members: pretraining images, or None where nobody knows them.
    """

    subjects: Mapping[str, Subject]
    train: ImageSet
    val: Splits
    test: Splits
    templates: Mapping[str, tuple[str, ...]]
    recipe: Recipe
    members: Members | None = None
    seed: int = 0
    steps: int = 60
    asked: Mapping[str, Subject] = field(init=False)
    fit: ImageSet = field(init=False)

    def __post_init__(self) -> None:
        """Keep the models whose knowledge is in question apart from the floor; refuse classes without images."""
        if len(self.train.classes) < 2:
            raise SceneError(
                f"{self.train.name} has one class: a probe needs two to tell apart; split it, or add some."
            )
        asked = {name: subject for name, subject in self.subjects.items() if name != "shuffled"}
        object.__setattr__(self, "asked", asked)
        for images in (self.train, self.test.forget):
            there = set(images.labels.tolist())
            if empty := [name for label, name in enumerate(images.classes) if label not in there]:
                raise SceneError(
                    f"class {empty[0]!r} of {images.name} has no image on split {images.split}: "
                    "leave it out of the scene or add images, a probe needs every class."
                )
        object.__setattr__(self, "fit", few_of_each(self.train, PER_CLASS, seed=self.seed))

    @property
    def forget(self) -> ImageSet:
        """The test images to forget, which most probes ask about."""
        return self.test.forget

    @property
    def chance(self) -> float:
        """Accuracy of guessing among the forget set's classes."""
        return 1 / len(self.forget.classes)

    def answer(self, name: str, asks: str, hits: Hits, *, floor: bool = False, details: Json | None = None) -> Probe:
        """A probe whose number is a share of the forget set's test images; `hits` says which, model by model.

        Args:
            floor: ask the shuffled weights too.
        """
        subjects = self.subjects if floor else self.asked
        found = {who: hits(subject) for who, subject in subjects.items()}
        readings = {who: Reading.share(right, self.forget.split) for who, right in found.items()}
        return Probe(
            name,
            asks,
            readings,
            self.chance,
            judge(found, self.chance),
            details=details or {},
            good=LOWER,
            floor=self.floor(readings),
        )

    def floor(self, readings: Mapping[str, Reading]) -> tuple[str, float]:
        """What shows no knowledge among a probe's readings: the retrained model, else shuffled weights, else chance."""
        who = next((who for who in ("retrained", "shuffled") if who in readings), None)
        return (who, readings[who].value) if who else ("chance", self.chance)


def few_of_each(images: ImageSet, per_class: int, *, seed: int) -> ImageSet:
    """`per_class` images of every class (fewer where there are fewer), drawn by the seed.

    >>> from negmerge_kit.vision.data.embedded import family_images
    >>> len(few_of_each(family_images("digits", "train"), 5, seed=0))
    50
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = images.labels.cpu()[order]
    rows = torch.cat([order[labels == label][:per_class] for label in range(len(images.classes))])
    rows = rows.to(images.labels.device)
    return ImageSet(images.name, images.images[rows], images.labels[rows], images.classes, images.split)
