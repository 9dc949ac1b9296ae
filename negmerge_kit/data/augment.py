"""Augmentation of decoded images: RandAugment by timm's own draws and operations, and CIFAR's crop and mirror.

One seed draws for a whole batch, in timm's own order, and threads then apply what was drawn. `DataLoader` workers would
need a seed for each image, which draws other pictures than those that the candidates of today's pools were trained on.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from negmerge_kit.data.decoded_cache import cores
from negmerge_kit.errors import ParameterError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

NONE = "none"
CROP_SHARE = (0.08, 1.0)
"""Share of the image that a random crop keeps: timm's default, and what the authors train with."""

CROP = re.compile(r"crop-([1-9]\d*)")
"""How a recipe writes `crop_at_random`: `crop-4` pads by four pixels."""

_SPEC = re.compile(r"rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?)+")
_MOVES = ("Rotate", "Shear", "Translate")
_GLOBAL = threading.Lock()
Step = Callable[["Image"], "Image"]


def check_augment(spec: str) -> str:
    """The specification, checked.

    Raises:
        ParameterError: neither "none", timm's "rand-m{m}-n{n}-mstd0.5" nor "crop-K" (see `crop_at_random`).

    >>> check_augment("rand-m2-n1-mstd0.5")
    'rand-m2-n1-mstd0.5'
    """
    if spec != NONE and not _SPEC.fullmatch(spec) and not CROP.fullmatch(spec):
        raise ParameterError(
            f"augment is {spec!r}: give none, timm's rand-m{{m}}-n{{n}}-mstd0.5 (the paper: m 1 to "
            "10, n 1 to 3), or crop-4."
        )
    return spec


def augment(images: Tensor, spec: str, *, seed: int, flips: bool = False, crop: bool = True) -> Tensor:
    """Augmented copies of images, repeatable from the seed however many threads make them.

    What `timm.data.transforms_imagenet_train` does before it normalises, and so the paper: a random resized crop (8 to
    100 % of the image, random filter), a mirror in half of the cases, RandAugment with magnitude m, n operations, each
    applied with probability 0.5 at a magnitude drawn around m (https://arxiv.org/abs/1909.13719). The crop is taken
    from the image as it is given, which is the model's centre crop where the published code crops the whole picture
    (see docs/fidelity.md).

    Args:
        images: uint8 [n, 3, H, W] on the CPU.
        spec: "none" (only mirrors, if they are on), timm's "rand-m{m}-n{n}-mstd0.5", or "crop-K" (`crop_at_random`).
        seed: of all draws; another seed for every batch of an epoch.
        flips: mirror half of the images; wrong for digits and signs, which the published recipe mirrors all the same.
        crop: whether "rand-…" crops at random first, as published.

    Returns:
        uint8 of the same shape.

    Raises:
        ParameterError: an unknown specification, or images that are not uint8 [n, 3, H, W] on the CPU.

    >>> import torch
    >>> images = torch.arange(2 * 3 * 16 * 16).view(2, 3, 16, 16).to(torch.uint8)
    >>> first, again = (augment(images, "rand-m1-n3-mstd0.5", seed=7) for _ in range(2))
    >>> first.shape == images.shape, torch.equal(first, again), torch.equal(augment(images, "none", seed=7), images)
    (True, True, True)
    """
    import numpy as np
    import torch

    check_augment(spec)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or images.device.type != "cpu":
        raise ParameterError(
            f"images to augment are {images.dtype} {list(images.shape)} on {images.device}: give "
            "uint8 [n, 3, H, W] on the CPU."
        )
    if cropped := CROP.fullmatch(spec):
        return crop_at_random(images, int(cropped[1]), seed=seed, flips=flips)
    if not len(images) or (spec == NONE and not flips):
        return images
    pictures = images.permute(0, 2, 3, 1).numpy()
    with _drawing(seed):
        plans = list(_plans(len(images), spec, (images.shape[2], images.shape[3]), flips, crop))
    with ThreadPoolExecutor(cores()) as pool:
        done = list(pool.map(_apply, pictures, plans))
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2).contiguous()


def crop_at_random(images: Tensor, padding: int, *, seed: int, flips: bool = False) -> Tensor:
    """Every image padded with black, cropped to its size at a random place and, with `flips`, mirrored half the time.

    What torchvision's RandomCrop(size, padding) and RandomHorizontalFlip do to one image, in one gather for all. The
    places are drawn on the CPU, so that every device gives the same pixels; only these few numbers travel.

    Args:
        images: uint8 [n, 3, H, W] on any device.
        padding: pixels on each side.
        seed: of all draws; another one for every step.
        flips: mirror half of the images.

    Returns:
        uint8 [n, 3, H, W], laid out by channels last.

    >>> import torch
    >>> images = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).to(torch.uint8)
    >>> first, again = (crop_at_random(images, 2, seed=1) for _ in range(2))
    >>> first.shape == images.shape, torch.equal(first, again), torch.equal(first, images)
    (True, True, False)
    """
    import torch

    count, _, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5 if flips else torch.zeros(count, dtype=torch.bool)
    columns = torch.arange(width).repeat(count, 1)
    columns[mirrored] = columns[mirrored].flip(1)
    rows, columns = places[0][:, None] + torch.arange(height), places[1][:, None] + columns
    chosen = (rows, columns, torch.arange(count))
    rows, columns, which = (index.to(images.device, non_blocking=True) for index in chosen)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    # Indexing puts the channels last, which is what convolutions on a GPU like best.
    return padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _plans(n: int, spec: str, size: tuple[int, int], flips: bool, crop: bool) -> Iterator[list[Step]]:
    """Steps of every image's augmentation, with all random numbers drawn."""
    from PIL import Image
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision.transforms import functional

    height, width = size
    blank = Image.new("RGB", (width, height))
    cropper = RandomResizedCropAndInterpolation(size, scale=CROP_SHARE, interpolation="random")
    planned: list[Step] = []
    randaugment = None if spec == NONE else _recording(spec, size, planned)
    for _ in range(n):
        planned.clear()
        if randaugment is not None and crop:
            top, left, tall, wide = cropper.get_params(blank, cropper.scale, cropper.ratio)
            planned.append(
                partial(
                    functional.resized_crop,
                    top=top,
                    left=left,
                    height=tall,
                    width=wide,
                    size=[height, width],
                    interpolation=random.choice(cropper.interpolation),
                )
            )
        if flips and random.random() < 0.5:
            planned.append(functional.hflip)
        if randaugment is not None:
            randaugment(blank)
        yield list(planned)


def _recording(spec: str, size: tuple[int, int], planned: list[Step]) -> Any:
    """Make timm's RandAugment record its operations instead of applying them.

    timm draws from Python's and NumPy's global generators while it works, which threads would share in any order; so
    the draws are made first, in one thread, by timm's own code.
    """
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.constants import OPENAI_CLIP_MEAN

    hparams = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": tuple(min(255, round(255 * mean)) for mean in OPENAI_CLIP_MEAN),
    }
    transform = rand_augment_transform(spec, hparams)
    for operation in transform.ops:
        operation.aug_fn = partial(_record, planned, operation.aug_fn, operation.name.startswith(_MOVES))
    return transform


def _record(
    planned: list[Step], function: Callable[..., Image], moves: bool, image: Image, *levels: Any, **settings: Any
) -> Image:
    resample = settings.get("resample")
    if isinstance(resample, tuple) and moves:
        settings["resample"] = random.choice(resample)
    if function.__name__ == "posterize" and levels[0] < 1:
        # At small magnitudes timm asks for 0 bits: black, until Pillow 13 made it an error.
        planned.append(_black)
    else:
        planned.append(lambda picture: function(picture, *levels, **settings))
    return image


def _black(image: Image) -> Image:
    from PIL import Image as pil

    return pil.new("RGB", image.size)


def _apply(pixels: NDArray[np.uint8], steps: list[Step]) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    for step in steps:
        image = step(image)
    return np.asarray(image, dtype=np.uint8)


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Seed the global generators for the block, and restore them afterwards."""
    import numpy as np

    with _GLOBAL:
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
