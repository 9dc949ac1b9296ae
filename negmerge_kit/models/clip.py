"""An open_clip model, or a timm tower alone, with frozen heads of class names or of class means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from negmerge_kit.errors import SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.builders import Built
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.model_spec import ModelSpec
from negmerge_kit.models.prompts import build_head, build_prototypes


class ClipClassifier(Classifier):
    """A model whose heads are built once from the base and then frozen: from prompts or, without text, from images.

    Args:
        built: the model on its device, with `encode_image`, `visual` and `logit_scale` as open_clip has them, its
            tokenizer (None where there is no text tower) and what its images look like.
        spec: which architecture and weights it is.
    """

    def __init__(self, built: Built, spec: ModelSpec) -> None:
        self.clip: Any = built.clip
        super().__init__(self.clip, self.clip.visual, spec, mean=built.mean, std=built.std, image_size=built.image_size)
        self.built, self.has_text = built, built.tokenizer is not None

    def encode(self, pixels: Tensor) -> Tensor:
        """Unit-length image features [n, D] of normalised pixels in one pass, with gradients where they are on."""
        features: Tensor = self.clip.encode_image(pixels, normalize=True)
        return features

    def add_head(self, name: str, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Build a head from class names and prompt templates with the text tower as it is now, and keep it frozen.

        Raises:
            SceneError: the model has no text tower, or its tokenizer cannot be had.
        """
        if self.built.tokenizer is None:
            raise SceneError(
                f"{self.spec} has no text tower, so class names give no head: build one from labelled "
                "training images with add_prototypes()."
            )
        self.heads[name] = build_head(self.clip, self.built.tokenizer, classes, templates)
        self.classes[name] = tuple(classes)
        return self.heads[name]

    def add_prototypes(self, images: ImageSet) -> Tensor:
        """Build the head `images.name` from labelled images with the image tower as it is now, and keep it frozen.

        A class's row is the mean of its images' features; image towers without a text tower classify by it.

        Raises:
            SceneError: a class without an image.
        """
        self.heads[images.name] = build_prototypes(self.features(images.images), images, self.clip.logit_scale)
        self.classes[images.name] = images.classes
        return self.heads[images.name]
