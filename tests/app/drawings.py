"""Simple drawings of three patterns as files, as a visitor would send them."""

import io
import random
import zipfile

from PIL import Image, ImageDraw

CLASSES = ("diagonal_stripes", "horizontal_stripes", "vertical_stripes")


def drawing(pattern, seed):
    """Stripes of some width and colours, as PNG bytes."""
    lot = random.Random(f"{pattern}{seed}")
    picture = Image.new("RGB", (64, 64), tuple(lot.randint(170, 255) for _ in range(3)))
    ink = tuple(lot.randint(0, 110) for _ in range(3))
    pen, step = ImageDraw.Draw(picture), lot.randint(10, 18)
    for start in range(lot.randint(-64, -64 + step), 128, step):
        ends = {
            "horizontal_stripes": (0, start, 64, start),
            "vertical_stripes": (start, 0, start, 64),
            "diagonal_stripes": (start, 0, start - 64, 64),
        }[pattern]
        pen.line(ends, fill=ink, width=step // 2)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def drawings(each=20):
    """{CLASS/NUMBER.png: bytes} of three classes."""
    return {f"{name}/{number:02d}.png": drawing(name, number) for name in CLASSES for number in range(each)}


def zipped(path, members, **options):
    """A zip of members, deflated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
