"""Execution options of a training run, such as micro-batches; none changes a candidate's id."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from negmerge_kit.errors import ParameterError
from negmerge_kit.models.networks import has_batch_norm
from negmerge_kit.training.recipe import Recipe

if TYPE_CHECKING:
    from negmerge_kit.image_set import ImageSet
    from negmerge_kit.models.classifier import Classifier


@dataclass(frozen=True)
class Execution:
    """Options for memory and speed; the gradient of every step is the recipe's whatever they are.

    But for what a network draws itself, such as dropout: it comes from the recipe's seed, and differs between sizes of
    micro-batches.

    Attributes:
        micro_batch: images in one forward and backward pass; gradients are added up to the whole batch's. None: all.
        compile: run the image tower through torch.compile (needs a C++ compiler; the first step takes a minute).
        ahead: batches that a background thread gathers and augments in advance.
        channels_last: lay convolutions out by channels last, which half precision on a GPU is fastest in. None: on
            CUDA. Sums may round differently.
        save_seconds: least time between two saves of the state that a killed run resumes from, which is longer where
            saving takes long; 0 saves after every step.

    Raises:
        ParameterError: for a value out of range.

    >>> Execution(micro_batch=16).micro_batch
    16
    """

    micro_batch: int | None = None
    compile: bool = False
    ahead: int = 2
    save_seconds: float = 60.0
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        """Validate the values; the message names every fault at once."""
        rules = {
            "micro_batch": self.micro_batch is None or self.micro_batch >= 1,
            "ahead": self.ahead >= 1,
            "save_seconds": self.save_seconds >= 0,
        }
        if wrong := [
            f"{item.name} = {getattr(self, item.name)}" for item in fields(self) if not rules.get(item.name, True)
        ]:
            raise ParameterError(f"training cannot be run so: {', '.join(wrong)} is out of range.")

    def check(self, model: Classifier, recipe: Recipe) -> None:
        """Check that the model, the device and the recipe allow these options.

        Raises:
            ParameterError: half precision without CUDA, a compiled linear model, or parts of a batch under batch
                normalisation, whose statistics would be another batch's.
        """
        if recipe.precision == "float16" and model.device.type != "cuda":
            raise ParameterError(
                f"precision float16 needs a CUDA device, and this is {model.device.type}: use bfloat16 or float32."
            )
        if self.compile and model.mode == "linear":
            raise ParameterError("a linear model cannot be compiled: leave compile out.")
        parts = (self.micro_batch or recipe.batch_size) < recipe.batch_size
        if parts and model.mode == "standard" and has_batch_norm(model.tower):
            raise ParameterError(
                "this image tower has batch normalisation, which sees parts of a batch as other "
                "batches: leave micro_batch out."
            )

    def memory_format(self, model: Classifier) -> torch.memory_format:
        """How the tower's weights lie in memory while it trains."""
        wanted = model.device.type == "cuda" if self.channels_last is None else self.channels_last
        # One convolution alone cuts a transformer's image into patches.
        convolutions = sum(isinstance(layer, torch.nn.Conv2d) for layer in model.tower.modules())
        return torch.channels_last if wanted and convolutions > 1 else torch.contiguous_format

    def least_batch(self, model: Classifier, recipe: Recipe, images: ImageSet) -> int:
        """The fewest images that a training batch may hold: two under batch normalisation, else one.

        Raises:
            ParameterError: if every batch would hold one image.
        """
        if model.mode != "standard" or not has_batch_norm(model.tower):
            return 1
        if min(recipe.batch_size, len(images)) < 2:
            one = f"{images.name} has one image" if len(images) < 2 else "the recipe's batch_size is 1"
            raise ParameterError(f"{one}, and batch normalisation cannot normalise a batch of one: give at least two.")
        return 2
