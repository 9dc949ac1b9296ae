"""Context of an audit: the models, the images that they are probed with, and how a probe's numbers become an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from negmerge_kit.audits.probe import LOWER, Measurement, Probe, judge
from negmerge_kit.errors import NotFiniteError, SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json, Weights

PER_CLASS = 100
"""Training images of each class that feature probes learn from, at most."""


class SharedModel:
    """The one model on the device, and the `ProbedModel` whose weights it holds."""

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.shown: ProbedModel | None = None


class ProbedModel:
    """One model under audit: its weights, its heads, and the image features that they give, computed once.

    Args:
        name: base, unlearned, retrained or shuffled.
        weights: the whole key set.
        heads: class weights by set, [C, D].
        shared: where the weights are put when features are asked for.
        around: whose weights a linear model is linearised around, if not its own.
    """

    def __init__(
        self,
        name: str,
        weights: Weights,
        heads: Mapping[str, Tensor],
        shared: SharedModel,
        *,
        around: ProbedModel | None = None,
    ) -> None:
        self.name = name
        self.weights = weights
        self.heads = {head: weight.cpu() for head, weight in heads.items()}
        self._shared = shared
        self._around = around
        self._features: dict[ImageSet, Tensor] = {}

    def shown(self) -> Classifier:
        """The resident model with these weights and heads; call `disturbed` after training it."""
        if self._shared.shown is not self:
            self._shared.shown = None  # half loaded until all of it is
            if self._around is not None:
                self._shared.model.load(self._around.weights.items())
                self._shared.model.anchor()
            self._shared.model.load(self.weights.items())
            if self._around is None:
                self._shared.model.anchor()
            device = self._shared.model.device
            self._shared.model.heads = {name: head.to(device) for name, head in self.heads.items()}
            self._shared.shown = self
        return self._shared.model

    def with_weights(self, name: str, weights: Weights) -> ProbedModel:
        """The same model, heads and all, with other weights; a linear one stays linearised around what it was."""
        return ProbedModel(name, weights, self.heads, self._shared, around=self._around or self)

    def disturbed(self) -> None:
        """Mark the resident model's weights as changed."""
        self._shared.shown = None

    def features(self, images: ImageSet) -> Tensor:
        """Unit-length image features on the CPU, float32 [n, D].

        Raises:
            NotFiniteError: if they hold NaN or infinity.
        """
        if images not in self._features:
            found = self.shown().features(images.images).cpu()
            if not bool(torch.isfinite(found).all()):
                raise NotFiniteError(
                    f"the {self.name} model answers with NaN or infinity: its weights are damaged, or the scale is far "
                    "too large."
                )
            self._features[images] = found
        return self._features[images]

    def logits(self, images: ImageSet, *heads: str) -> Tensor:
        """Logits under the set's own head, or under several heads side by side: [n, C]."""
        weights = torch.cat([self.heads[name] for name in heads or (images.name,)])
        return self.features(images) @ weights.T

    def hits(self, images: ImageSet) -> Tensor:
        """Which images the model names right under the set's own head: bool [n]."""
        return torch.eq(self.logits(images).argmax(1), images.labels.cpu())


Hits = Callable[[ProbedModel], Tensor]


@dataclass(frozen=True)
class Members:
    """Images whose part in pretraining is known: kept ones that were seen, ones never seen, forget ones that were."""

    seen: tuple[ImageSet, ...]
    unseen: tuple[ImageSet, ...]
    forget: ImageSet


@dataclass(frozen=True)
class AuditContext:
    """Input of every probe.

    Attributes:
        models: base and unlearned, retrained where there is one, and `shuffled`, the floor of feature probes.
        train: forget images that a probe may learn from; `fit`: at most PER_CLASS of each class, by the seed.
        val, test: both sides; a probe that chooses does so on val, every number is of test.
        templates: prompt templates of each set, for heads that are built again.
        recipe: how relearning trains.
        members: pretraining images, or None where they are unknown.
    """

    models: Mapping[str, ProbedModel]
    train: ImageSet
    val: Splits
    test: Splits
    templates: Mapping[str, tuple[str, ...]]
    recipe: Recipe
    members: Members | None = None
    seed: int = 0
    steps: int = 60
    asked: Mapping[str, ProbedModel] = field(init=False)
    fit: ImageSet = field(init=False)

    def __post_init__(self) -> None:
        """Separate the audited models from the floor, and check that every class has images."""
        if len(self.train.classes) < 2:
            raise SceneError(
                f"{self.train.name} has one class: a probe needs two to tell apart; split it, or add some."
            )
        asked = {name: probed for name, probed in self.models.items() if name != "shuffled"}
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
        models = self.models if floor else self.asked
        found = {who: hits(probed) for who, probed in models.items()}
        measurements = {who: Measurement.share(right, self.forget.split) for who, right in found.items()}
        return Probe(
            name,
            asks,
            measurements,
            self.chance,
            judge(found, self.chance),
            details=details or {},
            good=LOWER,
            floor=self.floor(measurements),
        )

    def floor(self, measurements: Mapping[str, Measurement]) -> tuple[str, float]:
        """The reference without knowledge: the retrained model if measured, else shuffled weights, else chance."""
        who = next((who for who in ("retrained", "shuffled") if who in measurements), None)
        return (who, measurements[who].value) if who else ("chance", self.chance)


def few_of_each(images: ImageSet, per_class: int, *, seed: int) -> ImageSet:
    """`per_class` images of every class (fewer where there are fewer), drawn by the seed.

    >>> from negmerge_kit.data.embedded import family_images
    >>> len(few_of_each(family_images("digits", "train"), 5, seed=0))
    50
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = images.labels.cpu()[order]
    rows = torch.cat([order[labels == label][:per_class] for label in range(len(images.classes))])
    rows = rows.to(images.labels.device)
    return ImageSet(images.name, images.images[rows], images.labels[rows], images.classes, images.split)


def shuffled(weights: Weights, *, tower: str = "visual.", seed: int = 0) -> dict[str, Tensor]:
    """The same numbers in the image tower, in another order: what the architecture shows that has learnt nothing.

    Every tensor whose name starts with `tower` keeps its values and loses their places (a randomisation control in the
    manner of Adebayo et al. 2018, https://arxiv.org/abs/1810.03292); the rest stays.

    >>> found = shuffled({"visual.w": torch.arange(4.0), "scale": torch.tensor(2.0)})
    >>> sorted(found["visual.w"].tolist()), found["scale"].item()
    ([0.0, 1.0, 2.0, 3.0], 2.0)
    """
    random = torch.Generator().manual_seed(seed)

    def mixed(tensor: Tensor) -> Tensor:
        flat = tensor.cpu().reshape(-1)
        return flat[torch.randperm(len(flat), generator=random)].reshape(tensor.shape)

    return {name: mixed(tensor) if name.startswith(tower) else tensor for name, tensor in weights.items()}
