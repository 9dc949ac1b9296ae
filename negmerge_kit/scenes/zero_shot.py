"""Scenes of a model that classifies by class names or class means: forget one data set, keep others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from negmerge_kit.data import DataSource, find_data
from negmerge_kit.errors import SceneError
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.linearized import linearize
from negmerge_kit.models.load import load_model
from negmerge_kit.models.model_spec import CLASSIFIER, TIMM, find_model
from negmerge_kit.safe_json import shortened
from negmerge_kit.scenes.forget_set import Parts
from negmerge_kit.scenes.scene import Scene, arch_of
from negmerge_kit.types import MODES, Json, Weights


@dataclass(frozen=True)
class ZeroShotScene(Scene):
    """A CLIP model or an image tower, one data set to forget and others to keep.

    `forget` and each of `retain` is DATA (see `find_data`).

    Raises:
        SceneError: an unknown mode, a standard classifier, nothing to keep, or two sets of one name.
    """

    own_head = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SceneError(
                f"mode {shortened(self.mode)} of scene {self.name} is not known: choose {' or '.join(MODES)}."
            )
        if not self.retain:
            raise SceneError(f"scene {self.name} names nothing to keep: give at least one retain set.")
        if arch_of(self.model).startswith(CLASSIFIER):
            raise SceneError(
                f"scene {self.name} has the model of a standard classifier, which forgets a part of its training "
                'images: write data = "DATA" and, for example, forget = {share = 0.1}.'
            )
        super().__post_init__()

    @cached_property
    def sources(self) -> tuple[DataSource, ...]:
        """Sources of the images: the forget set's, then the retain sets'."""
        return tuple(find_data(text) for text in (self.forget, *self.retain))

    @property
    def parts(self) -> Parts:
        """Raise SceneError: the model was trained elsewhere, on images that are not here."""
        raise SceneError(
            f"scene {self.name} has no parted training images: this needs a standard classifier's scene, "
            "such as tiny-classifier."
        )

    @property
    def trains_base(self) -> bool:
        """False: a random CLIP is never used."""
        return False

    def needs(self) -> Iterator[tuple[DataSource, tuple[str, ...]]]:
        """Every source with the splits that a pool of this scene uses: what is only kept trains no candidate.

        A model without a text tower builds every head from training images.
        """
        text = not find_model(self.model).arch.startswith(TIMM)
        for number, source in enumerate(self.sources):
            yield source, ("val", "test") if number and text else ("train", "val", "test")

    def load(self, *, device: str = "auto", heads: Weights | None = None) -> Classifier:
        """Load the model with a head for each set, from class names or class means; linear if the scene is.

        Args:
            heads: heads that were built before, as a pool stores them; they take the place of the model's own.

        Raises:
            SceneError: stored heads that are missing, or were built for another model or other classes.
        """
        model = load_model(self.model, device=device)
        if heads is not None:
            self._adopt(model, heads)
        else:
            for source in self.sources:
                if model.classes.get(source.name) == source.classes:
                    continue
                if model.has_text:
                    model.add_head(source.name, source.classes, source.templates)
                else:
                    model.add_prototypes(self._of(source, "train"))
        self._check_size(model)
        return linearize(model) if self.mode == "linear" else model

    def untrained(self, *, device: str = "auto", seed: int = 0) -> Classifier:
        """Raise SceneError: how the model was trained is not known here."""
        raise SceneError(
            f"how {find_model(self.model)} was trained is not known here: train it yourself and give the file."
        )

    def described_further(self) -> Json:
        """Extra values of `describe`: none."""
        return {}

    def _adopt(self, model: Classifier, heads: Weights) -> None:
        width = int(model.features(torch.zeros(1, 3, *model.image_size, dtype=torch.uint8)).shape[1])
        for source in self.sources:
            head = heads.get(source.name)
            found = "missing" if head is None else list(head.shape)
            if found != [len(source.classes), width]:
                raise SceneError(
                    f"the head {source.name!r} is {found}, but {len(source.classes)} classes and {width} features of "
                    f"{model.spec} need [{len(source.classes)}, {width}]: it was built for another model or data set; "
                    "build the pool again."
                )
        model.heads = {name: head.to(model.device) for name, head in heads.items()}
        model.classes |= {source.name: source.classes for source in self.sources}
