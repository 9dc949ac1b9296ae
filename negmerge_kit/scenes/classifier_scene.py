"""Scenes of a standard classifier: forget a part of the images that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from negmerge_kit.data import DataSource
from negmerge_kit.data.source import SPLITS
from negmerge_kit.errors import SceneError
from negmerge_kit.models.model_spec import CLASSIFIER, ModelSpec, find_model
from negmerge_kit.models.standard_classifier import StandardClassifier, load_classifier
from negmerge_kit.scenes.forget_set import Forgetting, Parts
from negmerge_kit.scenes.partition import PARTS, PartedSource
from negmerge_kit.scenes.scene import Scene, arch_of
from negmerge_kit.types import Json, Weights

PUBLISHED = " (split as published)"
"""Ends the name of a scene, and so every result, that repeats the published split with its mismatch."""


@dataclass(frozen=True)
class ClassifierScene(Scene):
    """A network with its own trained head, and which of its training images it should forget.

    Args:
        forgetting: the partition of its training images; the sets are the PARTS.
        training: how its base is trained, as a recipe's plain values, where not as by default.

    Raises:
        SceneError: a model that is no standard classifier.

    >>> ClassifierScene("random", "classifier:tiny", Forgetting("scans", seed=2, as_published=True)).name
    'random (split as published)'
    """

    own_head = True

    forget: str = field(default=next(iter(PARTS)), init=False)
    retain: tuple[str, ...] = field(default=tuple(PARTS)[1:], init=False)
    mode: str = field(default="standard", init=False)
    forgetting: Forgetting
    training: Json | None = None

    def __post_init__(self) -> None:
        if not arch_of(self.model).startswith(CLASSIFIER):
            raise SceneError(
                f"scene {self.name} forgets a part of its model's training images, which needs a standard classifier: "
                'give a model "classifier:NAME", or name what to keep with retain.'
            )
        if self.forgetting.as_published and not self.name.endswith(PUBLISHED):
            object.__setattr__(self, "name", self.name + PUBLISHED)
        super().__post_init__()

    @cached_property
    def sources(self) -> tuple[DataSource, ...]:
        """The images to forget, those that remain and those that nothing is trained on."""
        return tuple(PartedSource(name, self.forgetting) for name in PARTS)

    @property
    def parts(self) -> Parts:
        """The training images, in those to forget and those to keep, at the model's size."""
        return self.forgetting.parts(self.transform, self.corrupt)

    @property
    def trains_base(self) -> bool:
        """Whether the spec names no weights."""
        return find_model(self.model).pretrained is None

    def needs(self) -> Iterator[tuple[DataSource, tuple[str, ...]]]:
        """The one data set that is partitioned, with all its splits."""
        yield self.forgetting.source, SPLITS

    def load(self, *, device: str = "auto", heads: Weights | None = None) -> StandardClassifier:
        """Load the network with its own head, untrained unless its spec names weights.

        Raises:
            SceneError: a head of another number of classes than the data have.
        """
        return self._build(find_model(self.model), device)

    def untrained(self, *, device: str = "auto", seed: int = 0) -> StandardClassifier:
        """The network as the seed initialises it, whatever weights its spec names."""
        return self._build(replace(find_model(self.model), pretrained=None), device, seed)

    def described_further(self) -> Json:
        """Extra values of `describe`: the forgetting, and the recipe of the base."""
        training = {} if self.training is None else {"training": self.training}
        return {"forgetting": self.forgetting.json(), **training}

    def require(self, described: Json) -> None:
        """Check that the images here are the very images that a pool was made with.

        Raises:
            SceneError: naming the first difference; make a new pool with this version.
        """
        ours: ClassifierScene = self
        if not described.get("forgetting", {}).get("halved"):
            ours = replace(self, forgetting=replace(self.forgetting, halved=False))  # as version 0.1 made pools
        super(ClassifierScene, ours).require(described)

    def _build(self, spec: ModelSpec, device: str, seed: int = 0) -> StandardClassifier:
        model = load_classifier(spec, classes=len(self.sources[0].classes), device=device, seed=seed)
        self._check_size(model)
        for source in self.sources:
            model.add_head(source.name, source.classes, source.templates)
        return model
