"""Sets in their first authors' files: the pixels and labels that were written come back, and what is wrong is named."""

import gzip
import struct

import numpy as np
import pytest

from negmerge_kit.data import find_data
from negmerge_kit.errors import SceneError

COUNTS = {"train": 30, "t10k": 10}


def write_idx(folder, *, ending="", dot="-", labels=None, height=28):
    """Four idx files of random images; returns pixels and labels by their start."""
    folder.mkdir(parents=True, exist_ok=True)
    opened, drawn = (gzip.open if ending else open), {}
    for seed, (start, count) in enumerate(COUNTS.items()):
        random = np.random.RandomState(seed)
        pixels = random.randint(0, 256, (count, height, 28)).astype(np.uint8)
        numbers = (np.arange(count) % 10 if labels is None else np.full(count, labels)).astype(np.uint8)
        with opened(folder / f"{start}-images{dot}idx3-ubyte{ending}", "wb") as file:
            file.write(bytes((0, 0, 8, 3)) + struct.pack(">3I", *pixels.shape) + pixels.tobytes())
        with opened(folder / f"{start}-labels{dot}idx1-ubyte{ending}", "wb") as file:
            file.write(bytes((0, 0, 8, 1)) + struct.pack(">I", count) + numbers.tobytes())
        drawn[start] = pixels, numbers
    return drawn


def write_batches(folder, name, count=20):
    """CIFAR's binary files; returns pixels and labels by file."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["train", "test"] if name == "cifar100" else [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    drawn = {}
    for seed, file in enumerate(names):
        random = np.random.RandomState(seed)
        pixels = random.randint(0, 256, (count, 3, 32, 32)).astype(np.uint8)
        numbers = random.randint(0, 100 if name == "cifar100" else 10, count).astype(np.uint8)
        front = [random.randint(0, 20, count).astype(np.uint8)] if name == "cifar100" else []
        rows = np.column_stack([*front, numbers, pixels.reshape(count, -1)])
        (folder / f"{file}.bin").write_bytes(rows.astype(np.uint8).tobytes())
        drawn[file] = pixels, numbers
    return drawn


def pairs(images):
    """(pixels, label) of every image, in an order of their own: splits are drawn."""
    return sorted(
        (image.numpy().tobytes(), int(label)) for image, label in zip(images.images, images.labels, strict=True)
    )


def written(pixels, labels):
    """The same of what was written; grey is the same in three channels."""
    coloured = pixels if pixels.ndim == 4 else np.repeat(pixels[:, None], 3, axis=1)
    return sorted((image.tobytes(), int(label)) for image, label in zip(coloured, labels, strict=True))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "below", "ending", "dot"),
    [
        ("mnist", "", "", "-"),
        ("mnist", "MNIST/raw", ".gz", "-"),
        ("fashion-mnist", "", ".gz", "-"),
        ("fashion-mnist", "FashionMNIST/raw", "", "-"),
        ("mnist", "raw", "", "."),
    ],
)
def test_idx_files_give_the_pixels_that_were_written(tmp_path, name, below, ending, dot):
    drawn = write_idx(tmp_path / "set" / below, ending=ending, dot=dot)
    source = find_data(f"{name}:{tmp_path / 'set'}")
    test, *parts = (source.images(split, image_size=28) for split in ("test", "train", "val"))
    assert pairs(test) == written(*drawn["t10k"]) and test.classes == source.classes
    assert [len(part) for part in parts] == [27, 3]
    assert sorted(pairs(parts[0]) + pairs(parts[1])) == written(*drawn["train"])
    assert source.count(("train", "test")) == 40


@pytest.mark.parametrize(("name", "below"), [("cifar10", ""), ("cifar10", "cifar-10-batches-bin"), ("cifar100", "")])
def test_cifars_binary_batches_give_the_pixels_that_were_written(tmp_path, name, below):
    drawn = write_batches(tmp_path / "set" / below, name)
    test = find_data(f"{name}:{tmp_path / 'set'}").images("test", image_size=32)
    assert pairs(test) == written(*list(drawn.values())[-1])


def test_other_pixels_under_the_same_names_are_other_data(tmp_path):
    write_idx(tmp_path / "set")
    before = find_data(f"mnist:{tmp_path / 'set'}").images("test", image_size=28)
    path = tmp_path / "set" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    after = find_data(f"mnist:{tmp_path / 'set'}").images("test", image_size=28)
    assert len(set(pairs(after)) - set(pairs(before))) == 1 and after.fingerprint() != before.fingerprint()


def cut(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])


def longer(folder):
    with (folder / "t10k-labels-idx1-ubyte").open("ab") as file:
        file.write(b"x")


def boastful(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3)) + struct.pack(">3I", 1 << 30, 1 << 30, 9))


def swapped(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes((folder / "t10k-labels-idx1-ubyte").read_bytes())


def floats(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(bytes((0, 0, 13, 3)) + bytes(12))


def missing(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()


def no_gzip(folder):
    (folder / "train-labels-idx1-ubyte").rename(folder / "train-labels-idx1-ubyte.gz")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut, "is cut: fetch it again"),
        (longer, "is longer than it says"),
        (boastful, "says that it holds"),
        (swapped, "30 images, and .* 10 labels: they are of two sets"),
        (floats, "no idx file of bytes in 3 dimensions"),
        (missing, "has no t10k-labels-idx1-ubyte"),
        (no_gzip, "cannot be read"),
    ],
)
def test_what_is_wrong_with_idx_files_is_one_sentence(tmp_path, harm, says):
    write_idx(tmp_path / "set")
    harm(tmp_path / "set")
    with pytest.raises(SceneError, match=says):
        find_data(f"mnist:{tmp_path / 'set'}").images("train", image_size=28)


def test_labels_beyond_the_classes_are_another_set(tmp_path):
    write_idx(tmp_path / "set", labels=12)
    with pytest.raises(SceneError, match="has the train label 12, and mnist has 10 classes"):
        find_data(f"mnist:{tmp_path / 'set'}").images("test", image_size=28)


def test_a_cut_batch_is_named(tmp_path):
    write_batches(tmp_path / "set", "cifar10")
    path = tmp_path / "set" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SceneError, match=r"data_batch_3\.bin is cut"):
        find_data(f"cifar10:{tmp_path / 'set'}").images("test", image_size=32)


def test_pickled_batches_archives_and_nameless_files_say_what_to_give(tmp_path):
    (tmp_path / "set" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "set" / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x02.")
    with pytest.raises(SceneError, match=r"nothing here is ever unpickled: take cifar-10-binary\.tar\.gz"):
        find_data(f"cifar10:{tmp_path / 'set'}").images("test", image_size=32)
    (tmp_path / "cars.tar.gz").write_bytes(b"")
    for name in ("folder", "cars"):
        with pytest.raises(SceneError, match=r"cars\.tar\.gz is an archive: unpack it \(`tar -xf cars\.tar\.gz`\)"):
            find_data(f"{name}:{tmp_path / 'cars.tar.gz'}").images("test", image_size=32)
    write_idx(tmp_path / "own")
    with pytest.raises(SceneError, match="holds a set's own files: name the set, as mnist:PATH"):
        find_data(f"folder:{tmp_path / 'own'}").images("test", image_size=28)
