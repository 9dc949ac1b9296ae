"""Any picture that Pillow opens as 8-bit RGB: the one place that decides on modes, ranges, turning and transparency.

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
from typing import TYPE_CHECKING, NamedTuple

from negmerge_kit.errors import SceneError

if TYPE_CHECKING:
    from PIL.Image import Image

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


class UnclearRangeError(SceneError):
    """Samples that do not say which value is white: half a sentence that follows the picture's name."""


class Noticed(NamedTuple):
    """What of a picture is left out unless it is asked for."""

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
    told = []
    if turned and orientation == "stored":
        told.append(
            f"{_images(turned, 'carries', 'carry')} an EXIF turn that is not applied (as in torchvision): "
            'orientation = "exif" turns them upright.'
        )
    if transparent and transparency == "stored":
        told.append(
            f"{_images(transparent, 'has', 'have')} transparent pixels, whose stored colours are used (as in "
            'torchvision): transparency = "white" or "black" lays them onto that colour.'
        )
    return told


def _images(n: int, one: str, several: str) -> str:
    return f"{n:,} image {one}" if n == 1 else f"{n:,} images {several}"


def check_reading(orientation: str, transparency: str) -> None:
    """Refuse words that say neither.

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
    told = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
    return told[0] if 8 <= told[0] <= 16 else 16


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
