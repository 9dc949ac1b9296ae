"""Conversion of a picture of any mode to a model's uint8 pixels: 8-bit RGB, then resized and cropped.

mode                     as RGB
1 L P RGB                as they are; a palette by its colours
LA PA RGBA, tRNS         the stored colours without the transparency, or onto white or black
CMYK YCbCr               Pillow's own conversion, no ICC profile applied
LAB                      to sRGB by littleCMS
I;16 (grey, 16 bits)     the high byte, as Pillow reads 16-bit RGB; TIFF's 12 bits by their own range
I (grey, signed)         PGM: 16 bits; else 0 to 255 as they are, and refused beyond
F (grey, float)          0 to 1 as black to white, up to 255 as they are, refused beyond
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from negmerge_kit.errors import SceneError
from negmerge_kit.types import Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from negmerge_kit.image_set import ImageSet

RESIZES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

ORIENTATIONS = ("stored", "exif")
"""Rows as the file stores them, as torchvision's ImageFolder, open_clip and timm; or turned as its EXIF tag says, as
Hugging Face's datasets since 2.19."""

TRANSPARENCY = ("stored", "white", "black")
"""The stored colours of transparent pixels, as torchvision, open_clip and timm; or the picture laid onto a colour."""

ORIENTATION_TAG = 0x0112
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""EXIF orientation -> what makes the picture upright, by Pillow's name."""

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0

ImageSize: TypeAlias = "int | tuple[int, int] | Transform"
"""CLIP's preprocessing to a size, square or (height, width), or a model's own transform."""


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
        reading = ("orientation", "transparency")
        return {name: value for name, value in asdict(self).items() if name not in reading or value != "stored"}

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


def as_transform(image_size: ImageSize) -> Transform:
    """CLIP's preprocessing to a size, or the transform itself.

    >>> as_transform(224).size
    (224, 224)
    """
    if isinstance(image_size, Transform):
        return image_size
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Transform(height, width)


@lru_cache(maxsize=16)
def resized(images: ImageSet, transform: Transform) -> ImageSet:
    """Images that are in memory, as a model takes them; the last few are kept."""
    import numpy as np
    import torch
    from PIL import Image

    pictures = (Image.fromarray(image) for image in images.images.permute(0, 2, 3, 1).numpy())
    return replace(images, images=torch.from_numpy(np.stack([transform(picture) for picture in pictures])), known=None)


class UnclearRangeError(SceneError):
    """Samples that do not say which value is white: half a sentence that follows the picture's name."""


class Noticed(NamedTuple):
    """Content of a picture that is ignored by default."""

    turned: bool
    transparent: bool


def as_rgb(image: Image, *, orientation: str = "stored", transparency: str = "stored") -> Image:
    """The picture in mode RGB, as the module's table says; of an animation or a stack the first.

    Args:
        image: as `Image.open` gives it.
        orientation: one of ORIENTATIONS. Pillow itself turns TIFF files, whatever is asked for.
        transparency: one of TRANSPARENCY.

    Raises:
        UnclearRangeError: 32-bit or float samples whose range says neither black nor white; save 8 or 16 bits.

    >>> from PIL import Image
    >>> as_rgb(Image.new("I;16", (1, 1), 0x8001)).getpixel((0, 0))
    (128, 128, 128)
    >>> as_rgb(Image.new("RGBA", (1, 1), (9, 9, 9, 0)), transparency="white").getpixel((0, 0))
    (255, 255, 255)
    """
    from PIL import Image as pil

    image.load()
    picture = image if transparency == "stored" or not image.has_transparency_data else _laid_onto(transparency, image)
    rgb = picture if picture.mode == "RGB" else _opaque(picture)
    turn = TURNS.get(_orientation(image)) if orientation == "exif" else None
    return rgb.transpose(pil.Transpose[turn]) if turn else rgb


def notice(image: Image) -> Noticed:
    """Whether EXIF asks for a turn, and whether any pixel lets something through.

    >>> from PIL import Image
    >>> notice(Image.new("RGBA", (1, 1), (9, 9, 9, 0)))
    Noticed(turned=False, transparent=True)
    """
    image.load()
    return Noticed(
        _orientation(image) in TURNS,
        image.has_transparency_data and _with_alpha(image).getchannel("A").getextrema()[0] != 255,
    )


def left_out(noticed: Mapping[str, int], orientation: str, transparency: str) -> list[str]:
    """What of the pictures was noticed and not made use of, a sentence each, with the option that does.

    >>> left_out({"turned": 2, "transparent": 1}, "stored", "white")
    ['2 images carry an EXIF turn that is not applied (as in torchvision): orientation = "exif" turns them upright.']
    """
    turned, transparent = noticed.get("turned", 0), noticed.get("transparent", 0)
    sentences = []
    if turned and orientation == "stored":
        sentences.append(
            f"{_images(turned, 'carries', 'carry')} an EXIF turn that is not applied (as in torchvision): "
            'orientation = "exif" turns them upright.'
        )
    if transparent and transparency == "stored":
        sentences.append(
            f"{_images(transparent, 'has', 'have')} transparent pixels, whose stored colours are used (as in "
            'torchvision): transparency = "white" or "black" lays them onto that colour.'
        )
    return sentences


def _images(n: int, one: str, several: str) -> str:
    return f"{n:,} image {one}" if n == 1 else f"{n:,} images {several}"


def check_reading(orientation: str, transparency: str) -> None:
    """Check the words for orientation and transparency.

    Raises:
        SceneError: naming the choices.
    """
    asked = (("orientation", orientation, ORIENTATIONS), ("transparency", transparency, TRANSPARENCY))
    for name, value, known in asked:
        if value not in known:
            raise SceneError(f"{name} is {value!r}: choose {' or '.join(known)}.")


def _orientation(image: Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block raises whatever its parser meets, and the pixels are whole
        return 1


def _laid_onto(colour: str, image: Image) -> Image:
    from PIL import Image as pil

    picture = _with_alpha(image)
    return pil.alpha_composite(pil.new("RGBA", picture.size, colour), picture)


def _with_alpha(image: Image) -> Image:
    from PIL import Image as pil

    if not image.mode.startswith("I"):
        return image.convert("RGBA")
    # A 16-bit grey PNG names one of its 65,536 greys as transparent.
    import numpy as np

    opaque = np.asarray(image) != image.info["transparency"]
    picture = _opaque(image).convert("RGBA")
    picture.putalpha(pil.fromarray(opaque.astype(np.uint8) * 255))
    return picture


def _opaque(image: Image) -> Image:
    """In mode RGB, whatever shows through."""
    if image.mode.startswith("I;16"):
        return _grey(image, _bits(image))
    if image.mode == "I":
        return _grey(image, 16) if image.format in ("PPM", "PNG") else _unscaled(image)
    if image.mode == "F":
        return _unscaled(image)
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        made = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert made is not None  # only None in place
        return made
    return image.convert("RGB")


def _grey(image: Image, bits: int) -> Image:
    """Integers of 0 to 2^bits - 1, by their highest eight bits; in TIFF zero may mean white."""
    import numpy as np
    from PIL import Image as pil

    grey = (np.asarray(image).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    return pil.fromarray(grey).convert("RGB")


def _bits(image: Image) -> int:
    """Bits of a sample of which 16 are stored: TIFF says how many of them count."""
    (bits, *_) = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
    return bits if 8 <= bits <= 16 else 16


def _unscaled(image: Image) -> Image:
    """Samples that do not say what is white: by the two conventions in use, and refused beyond them."""
    import numpy as np
    from PIL import Image as pil

    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # NaN, too
        kind = "float" if image.mode == "F" else "signed or 32-bit"
        raise UnclearRangeError(
            f"its {kind} samples run from {low:g} to {high:g}, and nothing says what is white: "
            "save it with 8 or 16 bits, or as floats from 0 to 1"
        )
    scaled = values * 255 if image.mode == "F" and high <= 1 else values
    return pil.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
