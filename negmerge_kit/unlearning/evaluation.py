"""Accuracy of a model on sets of images, and a forecast of every image's margin at another scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring.accuracy import Accuracy, pool_accuracies
from negmerge_kit.scoring.early_stopping import Point
from negmerge_kit.types import Json

Counts: TypeAlias = dict[str, int]
"""How many images, by the set's name."""


@dataclass(frozen=True)
class Scores:
    """Forget and pooled retain accuracy on one split, and each family's own."""

    forget: Accuracy
    retain: Accuracy
    families: dict[str, Accuracy]

    @classmethod
    def of(cls, families: dict[str, Accuracy]) -> Scores:
        """From the forget set's accuracy and then each retain set's; retention is pooled over its images."""
        forget, *retain = families.values()
        return cls(forget, pool_accuracies(retain), families)

    def json(self) -> Json:
        """`{"forget", "retain", "families"}` of the JSON contract."""
        families = {name: accuracy.json() for name, accuracy in self.families.items()}
        return {"forget": self.forget.json(), "retain": self.retain.json(), "families": families}

    def point(self, scale: float) -> Point:
        """The same as a point of the curve."""
        _, *retain = self.families
        return Point(scale, self.forget, self.retain, sets={name: self.families[name] for name in retain})


class ImageQueue:
    """Sets of images of one split in one line, each classified by the head of its set's name.

    Args:
        between: called before the passes that run side by side.

    Attributes:
        labels: of all images in the line, [n] on the CPU.
        sizes: how many images each set has.
        answered: how many images have been answered so far.
    """

    def __init__(self, sets: Sequence[ImageSet], *, between: Callable[[], object] = lambda: None) -> None:
        self.sets, self.sizes = tuple(sets), [len(images) for images in sets]
        self.labels = torch.cat([images.labels.cpu() for images in sets])
        self.answered = 0
        self._between = between

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self, bits: Tensor) -> Counts:
        """How many of these bits, one an image, are set, by set."""
        parts = zip(self.sets, bits.split(self.sizes), strict=True)
        return {images.name: int(part.sum()) for images, part in parts}

    @torch.no_grad()
    def ask(self, model: Classifier, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return class index and margin of the images at these places in the line, [m] each on the CPU.

        The margin is the label's logit less the highest other: below 0 where the answer is wrong.

        Raises:
            SceneError: if the model has no head for a set.
            NotFiniteError: if the model answers with NaN or infinity.
        """
        self._between()
        parts, first = [], 0
        for images in self.sets:
            where = ((places >= first) & (places < first + len(images))).nonzero().flatten()
            if len(where):
                parts.append((images, where, places[where] - first))
            first += len(images)
        features = model.features(torch.cat([images.images[at.to(images.images.device)] for images, _, at in parts]))
        self.answered += len(places)
        classes, margins = torch.empty(len(places), dtype=torch.int64), torch.empty(len(places))
        for (images, where, _), part in zip(parts, features.split([len(at) for _, at, _ in parts]), strict=True):
            logits = logits_of(model, part, images).cpu()
            classes[where] = logits.argmax(dim=1)
            margins[where] = _margins(logits, self.labels[places[where]])
        return classes, margins

    def classes(self, model: Classifier) -> list[Tensor]:
        """Return the class index that the model gives each image, [n] int64 on the CPU for each set."""
        found = [self.ask(model, places)[0] for places in torch.arange(len(self)).split(model.at_once) if len(places)]
        return list(torch.cat([*found, torch.empty(0, dtype=torch.int64)]).split(self.sizes))

    def accuracies(self, model: Classifier) -> dict[str, Accuracy]:
        """Return each set's accuracy by its name, counted in full."""
        parts = zip(self.sets, self.classes(model), strict=True)
        return {
            images.name: Accuracy(int((found == images.labels.cpu()).sum()), len(images), images.split)
            for images, found in parts
        }


class MarginForecast:
    """Guess every image's margin at a scale: on a line through the base's margin and the latest one of this choice.

    Images that this choice has not answered yet fall as they did for the choice before, as much faster or slower as the
    answered ones of their set do. The guess only decides in which order images are asked.

    >>> forecast = MarginForecast([3])
    >>> forecast.measure(None, 0.0, torch.arange(3), torch.tensor([3.0, 2.0, 1.0]))
    >>> forecast.measure("a choice", 0.5, torch.tensor([0]), torch.tensor([1.0]))
    >>> forecast.at("a choice", 0.25)
    tensor([2., 1., 0.])
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.base = torch.zeros(sum(sizes))
        self._sizes = list(sizes)
        self._choice: object = None
        self._prior, self._slope = -torch.ones(sum(sizes)), torch.zeros(sum(sizes))
        self._measured = torch.zeros(sum(sizes), dtype=torch.bool)

    def measure(self, choice: object, scale: float, places: Tensor, margins: Tensor) -> None:
        """Take in the margins of the images at these places; no choice, or scale 0, is the base."""
        if choice is None or not scale:
            self.base[places] = margins
            return
        if choice != self._choice:
            self._prior, self._choice = self._slopes(), choice
            self._measured = torch.zeros_like(self._measured)
        self._slope[places], self._measured[places] = (margins - self.base[places]) / scale, True

    def at(self, choice: object, scale: float) -> Tensor:
        """The margins expected of a choice at a scale, [n]."""
        return self.base + scale * self._slopes()

    def complete(self, choice: object) -> bool:
        """Whether every image was answered by this choice at some scale above 0."""
        return choice == self._choice and bool(self._measured.all())

    def _slopes(self) -> Tensor:
        """Change of margin with the scale: as measured, else the former choice's, as much longer as its set's."""
        if not bool(self._measured.any()):
            return self._prior
        whole = self._ratio(self._measured, self._slope, self._prior)
        parts = zip(*(x.split(self._sizes) for x in (self._measured, self._slope, self._prior)), strict=True)
        filled = [prior * (self._ratio(own, slope, prior) if own.any() else whole) for own, slope, prior in parts]
        return torch.where(self._measured, self._slope, torch.cat(filled))

    @staticmethod
    def _ratio(measured: Tensor, slope: Tensor, prior: Tensor) -> float:
        now, before = float(slope[measured].mean()), float(prior[measured].mean())
        return now / before if abs(before) > 1e-6 else 1.0


def chance_of(splits: Splits) -> float:
    """Accuracy on the forget set that guessing among its classes reaches."""
    return 1 / len(splits.forget.classes)


def evaluate(model: Classifier, images: ImageSet) -> Accuracy:
    """Share of images whose highest logit is their label's, under the model's head for that set.

    Raises:
        SceneError: if the model has no head for the set; load the scene that the images belong to.
        NotFiniteError: if the model answers with NaN or infinity; its weights are damaged.

    >>> from negmerge_kit.models.load import load_model
    >>> from negmerge_kit.data.embedded import family_images
    >>> evaluate(load_model("tiny", device="cpu"), family_images("arrows", "val")).n
    240
    """
    return ImageQueue((images,)).accuracies(model)[images.name]


def evaluate_splits(model: Classifier, splits: Splits) -> Scores:
    """Score any model on the forget set and every retain set; retention is pooled over its images."""
    return Scores.of(ImageQueue(tuple(splits)).accuracies(model))


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


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit less the highest other one, [n]; below 0 where the answer is wrong."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return (own - others.max(dim=1, keepdim=True).values).flatten()
