"""Checks of uploaded images: named by their content, decoded whole within limits, and no other kind of file."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib

from negmerge_kit.data.transform import Noticed, UnclearRangeError, as_rgb, notice
from negmerge_kit.errors import SceneError

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "BMP": ".bmp", "PPM": ".ppm", "TIFF": ".tiff", "WEBP": ".webp"}
"""What is accepted, by Pillow's name, and the ending that such a file gets."""

LARGEST_IMAGE = 64 << 20
"""Bytes of one image file."""

MOST_PIXELS = 50_000_000
"""Pixels of one image: a camera's, and 200 MB once decoded."""

FOREIGN = (b"<html", b"<script", b"<?php", b"<svg", b"%pdf-", b"#!/bin/")
"""Bytes that no image holds but a file that is also a page, a script or a document does."""

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def checked_image(name: str, data: bytes) -> tuple[str, Noticed]:
    """The ending that fits the image's content, once it has been decoded whole, and what of it needs a decision.

    Args:
        name: how messages call it.
        data: the file's bytes.

    Raises:
        SceneError: for what is no image of an accepted format, is damaged, larger than the limits, also a file of
            another kind (a zip, a page, a script), or has no 8-bit RGB (see `as_rgb`).

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 4)).save(file, "PNG")
    >>> checked_image("a.txt", file.getvalue())
    ('.png', Noticed(turned=False, transparent=False))
    """
    from PIL import Image, UnidentifiedImageError

    if len(data) > LARGEST_IMAGE:
        raise SceneError(
            f"{name} has {len(data) / 2**20:.0f} MB, and an image may have {LARGEST_IMAGE >> 20}: make it smaller."
        )
    _check_single(name, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF is common and harmless; sizes are checked here
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
                wide, high = image.size
                if wide * high > MOST_PIXELS:
                    raise SceneError(
                        f"{name} has {wide:,} x {high:,} pixels, and an image may have {MOST_PIXELS:,}: "
                        "make it smaller."
                    )
                kind = str(image.format)
                noticed = notice(image)
                as_rgb(image)
    except UnclearRangeError as error:
        raise SceneError(f"{name} cannot be used: {error}.") from None
    except UnidentifiedImageError:
        raise SceneError(
            f"{name} is no image of {', '.join(FORMATS)}: save it as one of these, a phone's HEIC as "
            "JPEG, or leave it out."
        ) from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        OverflowError,
        MemoryError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise SceneError(
            f"{name} cannot be decoded ({str(error)[:120] or type(error).__name__}): mend it or leave it out."
        ) from None
    return FORMATS.get(kind, ".jpg"), noticed  # MPO, a camera's JPEG with a second picture


def _check_single(name: str, data: bytes) -> None:
    """Refuse a file that is another kind of file as well."""
    lower = data.lower()
    end = data.rfind(_PNG_END) + len(_PNG_END)
    if data.startswith(b"\x89PNG") and len(_PNG_END) <= end < len(data):
        found = "bytes behind its end"
    elif zipfile.is_zipfile(io.BytesIO(data)):
        found = "a zip"
    elif foreign := next((mark for mark in FOREIGN if mark in lower), None):
        found = repr(foreign.decode())
    else:
        return
    raise SceneError(f"{name} holds more than an image ({found}): save it again in an image program, or leave it out.")
