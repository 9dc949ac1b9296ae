"""A set of labelled images in memory: uint8 pixels, class names, and a fingerprint of both."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from negmerge_kit.errors import SceneError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one name and split, held as uint8.

    Args:
        name: the family or data set, e.g. "digits"; also the name of the head that classifies it.
        images: uint8 [n, 3, H, W].
        labels: int64 [n], indices into `classes`.
        classes: class names in label order.
        split: "train", "val", "test" or another name that says what the images may be used for.
        known: the fingerprint, where it was stored with the images; `negmerge data verify` checks it.

    Raises:
        SceneError: images that are not uint8 [n, 3, H, W], or labels that do not fit them or the classes.

    >>> import torch
    >>> pair = ImageSet("toy", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"), "val")
    >>> len(pair), len(pair.take(1)), pair.fingerprint()[:12]
    (2, 1, 'e67bf579ba7d')
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    split: str
    known: str | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] != 3 or str(self.images.dtype) != "torch.uint8":
            raise SceneError(f"images of {self.name!r} are {self.images.dtype} {list(shape)}: give uint8 [n, 3, H, W].")
        if tuple(self.labels.shape) != shape[:1] or str(self.labels.dtype) != "torch.int64":
            raise SceneError(
                f"labels of {self.name!r} are {self.labels.dtype} {list(self.labels.shape)} "
                f"for {shape[0]} images: give one int64 label per image."
            )
        if shape[0] and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise SceneError(
                f"labels of {self.name!r} run from {int(self.labels.min())} to {int(self.labels.max())} "
                f"but there are {len(self.classes)} classes: number them from 0."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, n: int) -> ImageSet:
        """The first `n` images (all of them if there are fewer)."""
        return self if n >= len(self) else replace(self, images=self.images[:n], labels=self.labels[:n], known=None)

    def at(self, places: Sequence[int] | Tensor) -> ImageSet:
        """The images at these places, in this order."""
        return replace(self, images=self.images[places], labels=self.labels[places], known=None)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images and labels on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def fingerprint(self) -> str:
        """SHA-256 over the labels (int64, little-endian) and then the pixels: 64 hex digits."""
        if self.known is not None:
            return self.known
        digest = hashlib.sha256(self.labels.cpu().numpy().astype("<i8").tobytes())
        digest.update(self.images.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
