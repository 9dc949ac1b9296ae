"""What a model wants its images to look like: resized, cropped, RGB, uint8."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negmerge_kit.errors import SceneError
from negmerge_kit.types import Json
from negmerge_kit.vision.data.rgb import as_rgb, check_reading
from negmerge_kit.vision.model_spec import CLASSIFIER, TIMM, ModelSpec, find_model
from negmerge_kit.vision.tiny import TINY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from negmerge_kit.vision.images import ImageSet

RESIZES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Transform:
    """How an image becomes [3, height, width] uint8; the defaults are CLIP's own preprocessing before normalisation.

    Args:
        height, width: of the result.
        interpolation: a filter of PIL, always antialiased.
        resize: "shortest" brings the shorter side to size and crops the centre, "longest" the longer side and pads
            with `fill`, "squash" both.
        crop: share of the resized image that the centre crop keeps; timm's `crop_pct`.
        fill: grey level of padding.
        orientation: "stored", or "exif" to turn what a camera held sideways.
        transparency: "stored", or "white" or "black" to lay transparent pixels onto (see `as_rgb` for both).

    Raises:
        SceneError: for a size, filter, resize, orientation or transparency that does not exist.

    >>> Transform(32, 32).json()
    {'height': 32, 'width': 32, 'interpolation': 'bicubic', 'resize': 'shortest', 'crop': 1.0, 'fill': 0}
    """

    height: int
    width: int
    interpolation: str = "bicubic"
    resize: str = "shortest"
    crop: float = 1.0
    fill: int = 0
    orientation: str = "stored"
    transparency: str = "stored"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or not 0 < self.crop <= 1:
            raise SceneError(
                f"images of {self.height} x {self.width} with a crop of {self.crop} cannot be made: "
                "give positive sizes and a crop of more than 0, at most 1."
            )
        if self.resize not in RESIZES or self.interpolation not in INTERPOLATIONS:
            raise SceneError(
                f"resizing by {self.resize}, {self.interpolation} is not known: choose among "
                f"{', '.join(RESIZES)} and {', '.join(INTERPOLATIONS)}."
            )
        check_reading(self.orientation, self.transparency)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def nbytes(self) -> int:
        """Bytes of one image."""
        return 3 * self.height * self.width

    def json(self) -> Json:
        """Plain values that name the transform; how a picture is read only where that is not as stored."""
        reading = {"orientation": self.orientation, "transparency": self.transparency}
        return {
            "height": self.height,
            "width": self.width,
            "interpolation": self.interpolation,
            "resize": self.resize,
            "crop": self.crop,
            "fill": self.fill,
            **{name: value for name, value in reading.items() if value != "stored"},
        }

    def __call__(self, image: Image) -> NDArray[np.uint8]:
        """The image as uint8 [3, height, width], converted to RGB (see `as_rgb`) before it is resized.

        As torchvision's Resize and CenterCrop on PIL images, which open_clip and timm use.

        Raises:
            UnclearRangeError: as `as_rgb`.
        """
        import numpy as np
        from PIL import Image as pil

        picture = as_rgb(image, orientation=self.orientation, transparency=self.transparency)
        filter = pil.Resampling[self.interpolation.upper()]
        wide, high = picture.size
        inner_high, inner_wide = round(self.height / self.crop), round(self.width / self.crop)
        if self.resize == "squash":
            to = (inner_wide, inner_high)
        elif self.resize == "shortest" and inner_high == inner_wide:
            # The longer side is truncated, as torchvision does.
            to = (
                (inner_wide, int(inner_wide * high / wide))
                if wide <= high
                else (int(inner_high * wide / high), inner_high)
            )
        else:
            ratios = wide / inner_wide, high / inner_high
            ratio = max(ratios) if self.resize == "longest" else min(ratios)
            to = (round(wide / ratio), round(high / ratio))
        if to != picture.size:
            picture = picture.resize(to, filter)
        if picture.size != (self.width, self.height):
            left, top = _offset(to[0], self.width), _offset(to[1], self.height)
            if min(left, top) < 0:
                canvas = pil.new("RGB", (self.width, self.height), (self.fill,) * 3)
                canvas.paste(picture, (-left, -top))
                picture = canvas
            else:
                picture = picture.crop((left, top, left + self.width, top + self.height))
        return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))


def _offset(side: int, wanted: int) -> int:
    """Where a centre crop begins, rounded as torchvision rounds; negative where padding is needed."""
    return round((side - wanted) / 2.0) if side >= wanted else -((wanted - side) // 2)


def as_transform(image_size: int | tuple[int, int] | Transform) -> Transform:
    """CLIP's preprocessing to a size, or the transform itself.

    >>> as_transform(224).size
    (224, 224)
    """
    if isinstance(image_size, Transform):
        return image_size
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Transform(height, width)


def resized(images: ImageSet, transform: Transform) -> ImageSet:
    """Images that are in memory, as a model wants them."""
    import numpy as np
    import torch
    from PIL import Image

    pictures = (Image.fromarray(image) for image in images.images.permute(0, 2, 3, 1).numpy())
    return replace(images, images=torch.from_numpy(np.stack([transform(picture) for picture in pictures])), known=None)


@lru_cache(maxsize=64)
def _resolved(arch: str, pretrained: str | None) -> Transform:
    if arch.startswith(CLASSIFIER):
        name = arch.removeprefix(CLASSIFIER)
        if name.startswith("timm/"):
            return _timm(f"{TIMM}{name.removeprefix('timm/')}", pretrained)
        return Transform(8, 8) if name == "tiny" else Transform(32, 32)
    if arch.startswith(TIMM):
        return _timm(arch, pretrained)
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    from negmerge_kit.vision.tiny import register

    register()
    config: dict[str, Any] = open_clip.get_model_config(arch) or {}
    vision = config.get("vision_cfg", {})
    tag: dict[str, Any] = get_pretrained_cfg(arch, pretrained) if pretrained else {}
    size = vision.get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return Transform(
        height,
        width,
        tag.get("interpolation", "bicubic"),
        tag.get("resize_mode", "shortest"),
        fill=int(tag.get("fill_color", 0)),
    )


def _timm(arch: str, pretrained: str | None) -> Transform:
    import timm
    from timm.data.config import resolve_data_config

    name = arch.removeprefix(TIMM)
    tagged = name if pretrained is None or Path(pretrained).is_file() else f"{name}.{pretrained}"
    config = timm.get_pretrained_cfg(tagged)
    wanted = resolve_data_config(pretrained_cfg=config.to_dict() if config else {})
    _, height, width = wanted["input_size"]
    resize = {"squash": "squash", "border": "longest"}.get(wanted.get("crop_mode", "center"), "shortest")
    return Transform(height, width, wanted["interpolation"], resize, float(wanted["crop_pct"]))


def transform_of(spec: str | ModelSpec | dict[str, str | None]) -> Transform:
    """The preprocessing of a model, without loading its weights.

    Raises:
        CheckpointError: an unknown model spec.

    >>> transform_of("tiny").size
    (32, 32)
    """
    found = find_model(spec)
    if found.arch == TINY:
        return Transform(32, 32)
    return _resolved(found.arch, found.pretrained)
