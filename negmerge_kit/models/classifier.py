"""Base class of all models: features of images, logits under a head, weights in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from negmerge_kit.errors import DeviceError, MismatchError, SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.cpu_threads import lanes_of, side_by_side
from negmerge_kit.models.model_spec import ModelSpec
from negmerge_kit.types import Items

BATCH = {"cpu": 60, "cuda": 480, "mps": 480}
"""Images per forward pass, always: the last pass is filled up with copies, because matrix kernels round differently for
different shapes. So a feature never depends on how a caller groups its images."""


OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Statistics of CLIP's training images, which the embedded model uses too."""


def normalise(images: Tensor, mean: Sequence[float] = OPENAI_MEAN, std: Sequence[float] = OPENAI_STD) -> Tensor:
    """(images / 255 - mean) / std of uint8 images [n, 3, H, W], where they are: float32."""
    centre = torch.tensor(mean, device=images.device).view(1, 3, 1, 1) * 255
    spread = torch.tensor(std, device=images.device).view(1, 3, 1, 1) * 255
    return (images.float() - centre) / spread


class Classifier(ABC):
    """Image tower in eval mode that classifies by heads: the model interface of verbs, pages and notebooks.

    Args:
        network: the model on its device; its state dict is what a checkpoint holds.
        tower: the part of it that sees the images and is fine-tuned, or all of it.
        spec: which architecture and weights it is.
        mean, std: per-channel statistics of pixels in [0, 1] that the model was trained with.
        image_size: height and width of the images it takes.

    Attributes:
        heads: head name to class weights, float32 [C, D], scaled so that `features @ W.T` are logits.
        classes: head name to class names.
        batch: images per forward pass; less than BATCH once the device has run out of memory.
        mode: "standard", or "linear" where features are linear in the weights (see `linearize`).
        has_text: whether class names can become a head.
    """

    mode = "standard"
    has_text = False

    def __init__(
        self,
        network: nn.Module,
        tower: nn.Module,
        spec: ModelSpec,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: tuple[int, int],
    ) -> None:
        self.network, self.tower = network.eval(), tower
        self.spec = spec
        self.heads: dict[str, Tensor] = {}
        self.classes: dict[str, tuple[str, ...]] = {}
        self.image_size = image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.batch = BATCH[self.device.type]

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Image features [n, D] of normalised pixels in one pass, with gradients where they are on."""

    @abstractmethod
    def add_head(self, name: str, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Build the head `name` from class names and keep it frozen, or name the classes of a trained one.

        Raises:
            SceneError: the model cannot have such a head.
        """

    @abstractmethod
    def add_prototypes(self, images: ImageSet) -> Tensor:
        """Build the head `images.name` from labelled images and keep it frozen, or name the classes of a trained one.

        Raises:
            SceneError: the model cannot have such a head.
        """

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    @property
    def lanes(self) -> int:
        """Number of forward passes that run in parallel: several on a CPU if the network is small."""
        # A tangent model's pass sets modes of the whole process, so no two of them may run at a time.
        return lanes_of(self.tower) if self.device.type == "cpu" and self.mode == "standard" else 1

    @property
    def at_once(self) -> int:
        """Best number of images per call: as many as the parallel passes take together."""
        return BATCH[self.device.type] * self.lanes

    def pixels(self, images: Tensor) -> Tensor:
        """Normalise uint8 images [n, 3, H, W] on the model's device: float32, ready for `encode`."""
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[-2:]) != self.image_size:
            raise SceneError(
                f"images are {images.dtype} {list(images.shape)}, but {self.spec} takes uint8 [n, 3, "
                f"{self.image_size[0]}, {self.image_size[1]}]: resize them first."
            )
        return normalise(images.to(self.device, non_blocking=True), self.mean, self.std)

    def features(self, images: Tensor) -> Tensor:
        """Image features, float32 [n, D] on the model's device, in forward passes of BATCH images.

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
                    f"not even one image fits on {self.device} with the model: free its memory, or choose --device cpu."
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

    def anchor(self) -> None:  # noqa: B027 (a hook, and for all but linear models there is nothing to do)
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
        targets = self.network.state_dict()
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
            for name, tensor in self.network.state_dict().items()
        }
