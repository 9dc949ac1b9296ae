"""Simple drawings of three shapes as files, as a visitor would send them."""

import io
import random
import zipfile

from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle")


def drawing(shape, seed):
    """A filled shape somewhere on a plain ground, as PNG bytes."""
    lot = random.Random(f"{shape}{seed}")
    ground = tuple(lot.randint(170, 255) for _ in range(3))
    ink = tuple(lot.randint(0, 110) for _ in range(3))
    picture = Image.new("RGB", (64, 64), ground)
    side = lot.randint(26, 44)
    x, y = lot.randint(4, 58 - side), lot.randint(4, 58 - side)
    pen, box = ImageDraw.Draw(picture), (x, y, x + side, y + side)
    if shape == "circle":
        pen.ellipse(box, fill=ink)
    elif shape == "square":
        pen.rectangle(box, fill=ink)
    else:
        pen.polygon([(x, y + side), (x + side, y + side), (x + side // 2, y)], fill=ink)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def drawings(each=20):
    """{CLASS/NUMBER.png: bytes} of three classes."""
    return {f"{shape}/{number:02d}.png": drawing(shape, number) for shape in CLASSES for number in range(each)}


def zipped(path, members, **options):
    """A zip of members, deflated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
