"""Small files of exactly the real formats: pictures, folder trees, and a local Hub cache."""

import io

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "eel")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def encoded(number, size=(40, 30), kind="PNG", mode="RGB"):
    """A picture that differs for every number, as bytes of an image file."""
    pixels = np.random.RandomState(number).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def write_folder(root, counts, classes=CLASSES, start=0):
    """root/CLASS/0.png … with `counts` pictures a class; every third is a JPEG."""
    number = start
    for name, count in zip(classes, counts, strict=True):
        (root / name).mkdir(parents=True)
        for index in range(count):
            kind = "JPEG" if index % 3 == 2 else "PNG"
            (root / name / f"{index}.{'jpg' if kind == 'JPEG' else 'png'}").write_bytes(encoded(number, kind=kind))
            number += 1
    return root


def write_parquet(path, count, names=CLASSES, image="image", label="label", start=0, broken=(), size=(40, 30)):
    """A parquet file as `datasets` pushes it: encoded bytes, class names in the schema; labels take turns."""
    import datasets

    labels = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    total = len(names) if names else 3
    rows = {
        image: [
            {"bytes": b"not an image" if i in broken else encoded(start + i, size), "path": f"{i}.png"}
            for i in range(count)
        ],
        label: [i % total for i in range(count)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({image: datasets.Image(), label: labels})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def hub_repository(cache, repo, fill, commit=COMMIT):
    """A repository in the Hub's cache, as a download leaves it: blobs, links to them, and what main is."""
    import hashlib

    root = cache / f"datasets--{repo.replace('/', '--')}"
    snapshot, blobs = root / "snapshots" / commit, root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    fill(snapshot)
    for path in [path for path in snapshot.rglob("*") if path.is_file()]:
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        path.replace(blob)
        path.symlink_to(blob)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    return snapshot
