"""One open_clip model with its frozen heads on one device: what every verb, page and notebook classifies with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.devices import pick_device
from negmerge_kit.errors import CheckpointError, DeviceError, MismatchError, SceneError
from negmerge_kit.merging.cpu_threads import side_by_side
from negmerge_kit.types import Items
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.lanes import lanes_of
from negmerge_kit.vision.model_spec import ModelSpec, find_model
from negmerge_kit.vision.prompts import build_head, build_prototypes
from negmerge_kit.vision.towers import OPENAI_MEAN, OPENAI_STD, Built, build_model, build_untrained

BATCH = {"cpu": 60, "cuda": 480, "mps": 480}
"""Images per forward pass, always: the last pass is filled up with copies, because matrix kernels round differently for
different shapes. So a feature never depends on how a caller groups its images."""


def normalise(images: Tensor, mean: Sequence[float] = OPENAI_MEAN, std: Sequence[float] = OPENAI_STD) -> Tensor:
    """(images / 255 - mean) / std of uint8 images [n, 3, H, W], where they are: float32."""
    centre = torch.tensor(mean, device=images.device).view(1, 3, 1, 1) * 255
    spread = torch.tensor(std, device=images.device).view(1, 3, 1, 1) * 255
    return (images.float() - centre) / spread


class Classifier:
    """An image tower in eval mode and its frozen heads: an open_clip model, or a timm tower without a text tower.

    Args:
        clip: the model, already on its device; `clip.visual` is its image tower.
        spec: which architecture and weights it is.
        tokenizer: turns prompts into token ids; used by `add_head`. None where there is no text tower.
        mean, std: per-channel statistics of pixels in [0, 1] that the model was trained with.
        image_size: height and width of the images it takes.

    Attributes:
        heads: head name to class weights, float32 [C, D], scaled so that `features @ W.T` are logits.
        classes: head name to class names.
        batch: images per forward pass; less than BATCH once the device has run out of memory.
        mode: "standard", or "linear" where features are linear in the weights (see `linearize`).
    """

    mode = "standard"

    def __init__(
        self,
        clip: Any,
        spec: ModelSpec,
        tokenizer: Callable[..., Tensor] | None,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: tuple[int, int],
    ) -> None:
        self.clip = clip.eval()
        self.spec = spec
        self.heads: dict[str, Tensor] = {}
        self.classes: dict[str, tuple[str, ...]] = {}
        self.image_size = image_size
        self.tokenizer = tokenizer
        self.mean, self.std = tuple(mean), tuple(std)
        self.batch = BATCH[self.device.type]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.clip.logit_scale.device
        return device

    @property
    def lanes(self) -> int:
        """Forward passes that run side by side: several on a CPU if the network is small."""
        # A tangent model's pass sets modes of the whole process, so no two of them may run at a time.
        return lanes_of(self.clip.visual) if self.device.type == "cpu" and self.mode == "standard" else 1

    @property
    def at_once(self) -> int:
        """Images that are best asked for together: as many as its passes side by side take."""
        return BATCH[self.device.type] * self.lanes

    def pixels(self, images: Tensor) -> Tensor:
        """Normalise uint8 images [n, 3, H, W] on the model's device: float32, ready for `clip.encode_image`."""
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[-2:]) != self.image_size:
            raise SceneError(
                f"images are {images.dtype} {list(images.shape)}, but {self.spec} takes uint8 [n, 3, "
                f"{self.image_size[0]}, {self.image_size[1]}]: resize them first."
            )
        return normalise(images.to(self.device, non_blocking=True), self.mean, self.std)

    def encode(self, pixels: Tensor) -> Tensor:
        """Unit-length image features [n, D] of normalised pixels in one pass, with gradients where they are on."""
        features: Tensor = self.clip.encode_image(pixels, normalize=True)
        return features

    def features(self, images: Tensor) -> Tensor:
        """Unit-length image features, float32 [n, D] on the model's device, in forward passes of BATCH images.

        Where such a pass runs out of memory, `batch` is halved from then on.

        Raises:
            DeviceError: if not even one image fits.
        """
        if not len(images):
            return self.features(images.new_zeros(1, 3, *self.image_size))[:0]
        while True:
            try:
                return self._in_passes(images, self.batch)
            except torch.OutOfMemoryError:
                pass
            # Here the error is gone, and with it the activations of the pass that failed.
            if self.batch == 1:
                raise DeviceError(
                    f"not even one image fits on {self.device} beside the model: free its memory, or "
                    "choose --device cpu."
                )
            self.batch //= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _in_passes(self, images: Tensor, size: int) -> Tensor:
        @torch.no_grad()
        def answer(batch: Tensor) -> Tensor:
            whole = torch.cat([batch, batch[-1:].expand(size - len(batch), -1, -1, -1)])
            return self.encode(self.pixels(whole)).float()[: len(batch)]

        return torch.cat(list(side_by_side(answer, torch.split(images, size), self.lanes)))

    def logits(self, images: Tensor, head: str) -> Tensor:
        """CLIP logits of uint8 images under one head: float32 [n, C].

        Raises:
            SceneError: no head of that name; the message lists the heads.
        """
        return self.features(images) @ self.head(head).T

    def head(self, name: str) -> Tensor:
        """The weights of one head, [C, D]."""
        if name not in self.heads:
            raise SceneError(f"head {name!r} does not exist: choose one of {', '.join(self.heads) or 'none yet'}.")
        return self.heads[name]

    def add_head(self, name: str, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Build a head from class names and prompt templates with the text tower as it is now, and keep it frozen.

        Raises:
            SceneError: the model has no text tower, or its tokenizer cannot be had.
        """
        if self.tokenizer is None:
            raise SceneError(
                f"{self.spec} has no text tower, so class names give no head: build one from labelled "
                "training images with add_prototypes()."
            )
        self.heads[name] = build_head(self.clip, self.tokenizer, classes, templates)
        self.classes[name] = tuple(classes)
        return self.heads[name]

    def add_prototypes(self, images: ImageSet) -> Tensor:
        """Build the head `images.name` from labelled images with the image tower as it is now, and keep it frozen.

        A class's row is the mean of its images' features; what a tower without a text tower classifies by.

        Raises:
            SceneError: a class without an image.
        """
        self.heads[images.name] = build_prototypes(self.features(images.images), images, self.clip.logit_scale)
        self.classes[images.name] = images.classes
        return self.heads[images.name]

    @property
    def has_text(self) -> bool:
        """Whether class names can become a head."""
        return self.tokenizer is not None

    def anchor(self) -> None:
        """Take the present weights as the base that the model was fine-tuned from; only a linear model needs it."""

    @torch.no_grad()
    def load(self, items: Items, *, partial: bool = False) -> None:
        """Copy a stream of named tensors into the weights, in place; heads stay as they are.

        Args:
            items: (name, tensor) pairs, e.g. what `unlearn` yields, or `weights.items()`.
            partial: allow tensors to be left out; they keep their values.

        Raises:
            MismatchError: a name or shape that the model does not have, or tensors left out.
        """
        targets = self.clip.state_dict()
        waiting = set(targets)
        for name, tensor in items:
            if name not in targets:
                raise MismatchError(f"tensor {name!r} is not part of {self.spec}: give weights of this architecture.")
            if targets[name].shape != tensor.shape:
                raise MismatchError(
                    f"tensor {name!r} is {list(tensor.shape)}, but {self.spec} has "
                    f"{list(targets[name].shape)}: give weights of this architecture."
                )
            targets[name].copy_(tensor)
            waiting.discard(name)
        if waiting and not partial:
            raise MismatchError(
                f"{len(waiting)} tensors of {self.spec} were left out, {min(waiting)!r} first: "
                "give the whole state dict."
            )

    def weights(self, device: str | torch.device | None = None) -> dict[str, Tensor]:
        """A copy of the whole state dict, on `device` (default: where the model is)."""
        return {
            name: tensor.detach().to(device or tensor.device, copy=True)
            for name, tensor in self.clip.state_dict().items()
        }


def load_model(spec: str | Path | dict[str, str | None], *, device: str = "auto") -> Classifier:
    """Build a model with its weights and, for the embedded one, its heads.

    Args:
        spec: "tiny"; "ARCH/TAG" or "ARCH/FILE" as open_clip names them; "timm:NAME/TAG" or "timm:NAME/FILE" for an
            image tower alone; "classifier:NAME/FILE" (see `load_classifier`); a weight file of the embedded model (or
            of a model that its metadata names as "arch");
            or {"arch": ..., "pretrained": TAG or FILE}.
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
        from negmerge_kit.vision.classifiers import load_classifier

        return load_classifier(found, device=device)
    classifier = _classifier(found, build_model(found, pick_device(device)))
    _check_that_it_looks(classifier)
    for name, (classes, templates) in found.heads():
        classifier.add_head(name, classes, templates)
    return classifier


def untrained(arch: str, *, device: str = "auto") -> Classifier:
    """An open_clip architecture with random weights and no heads: for measuring speed, and for nothing else.

    >>> untrained("negmerge-tiny", device="cpu").spec
    ModelSpec(arch='negmerge-tiny', pretrained='random')
    """
    return _classifier(ModelSpec(arch, "random"), build_untrained(arch, pick_device(device)))


def _classifier(found: ModelSpec, built: Built) -> Classifier:
    return Classifier(built.clip, found, built.tokenizer, mean=built.mean, std=built.std, image_size=built.image_size)


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
