"""Images loaded as the authors' CLIP code does, by the libraries that it uses: the baseline of our loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from negmerge_kit.image_set import ImageSet


def published_loader(
    folder: Path,
    size: tuple[int, int],
    *,
    augment: str,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    workers: int,
) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Epochs of (normalised images [n, 3, H, W], labels [n]) of a folder with one subfolder a class.

    JPEG files decoded by Pillow and augmented by timm in worker processes at every sight: random crop of 8-100 %,
    mirrored every other time, RandAugment, as `create_transform(224, is_training=True, auto_augment=…)` makes it.
    """
    from timm.data.transforms_factory import create_transform
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    transform = create_transform((3, *size), is_training=True, auto_augment=augment, mean=tuple(mean), std=tuple(std))
    files = ImageFolder(folder, transform)
    # Processes that never ran torch: forking one that has threads can hang.
    how: dict[str, Any] = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loader = DataLoader(
        files, batch_size, shuffle=True, num_workers=workers, pin_memory=torch.cuda.is_available(), **how
    )
    while True:
        yield iter(loader)


class Cropped(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images in memory, cropped and mirrored by torchvision one at a time, as its CIFAR-10 gives them."""

    def __init__(self, images: ImageSet, padding: int) -> None:
        from torchvision import transforms

        self.pixels, self.labels = images.images.permute(0, 2, 3, 1).contiguous().numpy(), images.labels.tolist()
        crop = transforms.RandomCrop(self.pixels.shape[1:3], padding)
        self.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        pixels: Tensor = self.transform(Image.fromarray(self.pixels[index]))
        return pixels, self.labels[index]


def plain_loader(
    images: ImageSet, *, padding: int, batch_size: int, workers: int
) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Epochs of (pixels in [0, 1], labels) as a plain training loop on CIFAR loads them."""
    from torch.utils.data import DataLoader

    how: dict[str, Any] = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loader = DataLoader(
        Cropped(images, padding),
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        **how,
    )
    while True:
        yield iter(loader)


def write_jpegs(folder: Path, count: int, side: int, *, classes: int) -> None:
    """Soft random pictures as JPEG files, one subfolder a class, about as many bytes as photographs of that size."""
    from PIL import Image

    noise = np.random.default_rng(0)
    for k in range(count):
        coarse = Image.fromarray(noise.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        home = folder / f"class{k % classes}"
        home.mkdir(exist_ok=True)
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(home / f"{k:05}.jpg", quality=90)


def decode_once(folder: Path, size: tuple[int, int]) -> ImageSet:
    """All files of such a folder, decoded and resized to [height, width], in memory."""
    from PIL import Image

    files = sorted(folder.glob("*/*.jpg"))
    names = sorted({file.parent.name for file in files})
    pixels = [
        np.asarray(Image.open(file).convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)) for file in files
    ]
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return ImageSet("bench", images, labels, tuple(names), "train")


def published_validation(
    folder: Path, size: tuple[int, int], *, mean: Sequence[float], std: Sequence[float], batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(normalised images [n, 3, H, W], labels [n]) of such a folder, found, decoded and resized at every call.

    CLIP's own preprocessing by torchvision: shorter side to size, centre crop, normalised on the CPU.
    """
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.Resize(min(size), transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize(tuple(mean), tuple(std)),
    ]
    files = ImageFolder(folder, transforms.Compose(steps), allow_empty=True)
    yield from DataLoader(files, batch_size, num_workers=workers, pin_memory=torch.cuda.is_available())


def write_set(folder: Path, images: ImageSet, *, quality: int = 90) -> None:
    """A set's images as JPEG files, one subfolder a class, in label order."""
    from PIL import Image

    homes = [folder / f"{label:04}" for label in range(len(images.classes))]
    for home in homes:
        home.mkdir(parents=True)
    for k, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(homes[label] / f"{k:06}.jpg", quality=quality)


def read_set(folder: Path, like: ImageSet, transform: Callable[[Any], Any], *, threads: int) -> ImageSet:
    """The files that `write_set` wrote, decoded once by several threads, as a set of the same name and classes."""
    from PIL import Image

    def read(file: Path) -> Any:
        with Image.open(file) as picture:
            return transform(picture)

    files = sorted(folder.glob("*/*.jpg"))
    with ThreadPoolExecutor(threads) as pool:
        pixels = torch.from_numpy(np.stack(list(pool.map(read, files))))
    labels = torch.tensor([int(file.parent.name) for file in files])
    return ImageSet(like.name, pixels, labels, like.classes, like.split)
