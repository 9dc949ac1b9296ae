"""Images in a folder, one sub-folder a class: your own, or a local copy of a named data set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from negmerge_kit.data.arrays import ArrayRows, holds_arrays, open_arrays
from negmerge_kit.data.labels import check_order, class_names, display_name
from negmerge_kit.data.registry import DATASETS
from negmerge_kit.data.source import SPLITS, EncodedSource
from negmerge_kit.errors import SceneError
from negmerge_kit.safe_json import UNSPEAKABLE, shortened
from negmerge_kit.types import Json

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"})
"""torchvision's ImageFolder's own, and GIF."""

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")

TEST_FOLDERS = ("test", "val_in_folder", "val", "validation")
"""Where a local copy of a named data set has its test images: ImageNet, DTD and SUN397 come with `val` only."""


@dataclass(frozen=True)
class FolderRows:
    """Image files by class name, then by path: torchvision's ImageFolder's order, unless classes have sub-folders."""

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Paths, and what reads them: by the thread that decodes."""
        for row in wanted:
            path = self.root / self.files[row]
            yield str(path), path.read_bytes


class FolderSource(EncodedSource):
    """Your own images: PATH/CLASS/image, or PATH/train/CLASS/image with val and test next to train.

    What is not given apart is drawn (see `draw_splits`). Class names are the folders', underscores shown as spaces.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()
        self.text = f"folder:{self.path}"
        self.name = self.path.name or "images"
        self.title = f"images in {self.path}"
        self.names_from = "the folders' names"

    @property
    def classes(self) -> tuple[str, ...]:
        """The folders' names, sorted, as prompts say them."""
        return tuple(display_name(label) for label in self._labels)

    @cached_property
    def identity(self) -> Json:
        """A digest of every file's path, size and time: an image that is changed makes another state of the data."""
        sha, total = hashlib.sha256(), 0
        for folder, rows in self._rows.items():
            for file in rows.files:
                try:
                    state = (rows.root / file).stat()
                except OSError as error:
                    raise SceneError(
                        f"{rows.root / file} cannot be read ({error.strerror}): put it back, or remove it and "
                        "start again."
                    ) from error
                total += state.st_size
                sha.update(f"{folder}/{file}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
        self.bytes = total
        return {"folder": self.name, "files": sha.hexdigest()}

    def encoded(self, place: str) -> FolderRows | ArrayRows:
        """The images of a folder."""
        return self._rows[place]

    def count(self, splits: Sequence[str]) -> int:
        """All the files that these splits, and what is drawn from the same folders, are taken from."""
        return sum(
            len(self.encoded(folder).labels) for folder, taken in self.layout.items() if set(taken) & set(splits)
        )

    @cached_property
    def _rows(self) -> dict[str, FolderRows]:
        return {
            folder: list_images(self.path / folder, self._labels, complete=splits != ("val",))
            for folder, splits in self.layout.items()
        }

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        return _class_folders(self.path / next(iter(self.layout)))

    @cached_property
    def layout(self) -> dict[str, tuple[str, ...]]:
        """As the folders' names say; without any, all splits are taken from the folder itself."""
        check_folder(self.path)
        given = [split for split in SPLITS if (self.path / split).is_dir()]
        if not given:
            return {".": SPLITS}
        if "train" not in given:
            raise SceneError(
                f"{self.path} has {', '.join(given)} but no train: add a folder train, or put the classes "
                "straight into the folder and let the splits be drawn."
            )
        drawn = tuple(split for split in SPLITS if split == "train" or split not in given)
        return {split: drawn if split == "train" else (split,) for split in given}


class LocalSource(FolderSource):
    """A local copy of a named data set, e.g. `imagenet:/data/imagenet`: its splits, names and prompts are the set's."""

    def __init__(self, name: str, path: str | Path) -> None:
        super().__init__(path)
        self._entry = entry = DATASETS[name]
        self._known = class_names(entry.classes or name)
        self.text, self.name, self.title = f"{name}:{self.path}", name, entry.title
        self.licence, self.homepage, self.flips = entry.licence, entry.homepage, entry.flips
        self.splits = ("val", "test") if entry.control else SPLITS
        self.names_from = self._known.source

    @property
    def classes(self) -> tuple[str, ...]:
        """The set's class names; the folders must have their order."""
        return self._known.classes

    @property
    def templates(self) -> tuple[str, ...]:
        """The set's prompts."""
        return self._known.templates

    @cached_property
    def identity(self) -> Json:
        """Files by path: such sets do not change, and a million are not asked for their size. Arrays by content."""
        sha = hashlib.sha256()
        for folder in self.layout:
            rows = self.encoded(folder)
            sha.update(f"{folder}\0{len(rows.files)}\0".encode() + "\0".join(rows.files).encode())
            if isinstance(rows, ArrayRows):
                sha.update(bytes(rows.labels) + rows.pixels.tobytes())
        return {"local": self.name, "files": sha.hexdigest()}

    @cached_property
    def _arrays(self) -> dict[str, ArrayRows] | None:
        return open_arrays(self.name, self.path, len(self.classes))

    def encoded(self, place: str) -> FolderRows | ArrayRows:
        """The images of a folder, or of the set's own files."""
        return self._arrays[place] if self._arrays else super().encoded(place)

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        found = _class_folders(self.path / next(iter(self.layout)))
        check_order(self._known, found, str(self.path))
        return found

    @cached_property
    def layout(self) -> dict[str, tuple[str, ...]]:
        """Validation is drawn from train; a small control takes all from its test images."""
        check_folder(self.path)
        if self._arrays:
            return {"train": ("train", "val"), "test": ("test",)}
        test = next((name for name in TEST_FOLDERS if (self.path / name).is_dir()), None)
        if test is None or (self._entry.train and not (self.path / "train").is_dir()):
            raise SceneError(
                f"{self.path} is not a copy of {self.title}: give a folder with train and test (or val), "
                "and in each a sub-folder of images for each class."
            )
        return {"train": ("train", "val"), test: ("test",)} if self._entry.train else {test: SPLITS}


def check_folder(path: Path) -> None:
    """Refuse what is no folder, and say how to unpack an archive.

    Raises:
        SceneError: naming what is there instead.
    """
    if path.is_file() and path.name.endswith(ARCHIVES):
        how = f"unzip {path.name}" if path.suffix == ".zip" else f"tar -xf {path.name}"
        raise SceneError(f"{path} is an archive: unpack it (`{how}`) and give the folder.")
    if not path.is_dir():
        raise SceneError(f"{path} is not a folder: give one with a sub-folder of images for each class.")


def list_images(root: Path, labels: Sequence[str], *, complete: bool) -> FolderRows:
    """The image files below `root`, for class folders in the order of `labels`.

    Raises:
        SceneError: a class folder that is not among the labels, no image, or, if `complete`, a class without one.
    """
    if strange := sorted(set(_class_folders(root)) - set(labels)):
        raise SceneError(
            f"{root} has a class {strange[0]!r} that the training images do not have: rename the folder, "
            f"or use {', '.join(labels[:5])}{' …' if len(labels) > 5 else ''}."
        )
    files: list[str] = []
    numbers: list[int] = []
    for number, label in enumerate(labels):
        found = sorted(_files(root / label, label))
        files += found
        numbers += [number] * len(found)
    counts = Counter(numbers)
    if not files:
        raise SceneError(
            f"{root} has no images: put {', '.join(sorted(EXTENSIONS)[:4])} … files into a sub-folder for each class."
        )
    if complete and (empty := next((label for number, label in enumerate(labels) if not counts[number]), None)):
        raise SceneError(f"class {empty!r} in {root} has no image: add some, or remove the class from every folder.")
    return FolderRows(root, tuple(files), tuple(numbers))


def _class_folders(root: Path) -> tuple[str, ...]:
    found = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")))
    if not found and holds_arrays(root):
        raise SceneError(
            f"{root} holds a set's own files: name the set, as mnist:PATH, fashion-mnist:PATH, cifar10:PATH or "
            "cifar100:PATH."
        )
    if not found:
        raise SceneError(f"{root} has no sub-folders: put the images of each class into a folder of its name.")
    return found


def _files(folder: Path, below: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Image files under a folder; links that lead back up, pipes and devices are passed over."""
    if not folder.is_dir() or (place := os.path.realpath(folder)) in above:
        return
    for entry in os.scandir(folder):
        if UNSPEAKABLE.search(entry.name):
            raise SceneError(f"{shortened(entry.path)} has a name that is not UTF-8: rename it.")
        if entry.is_dir():
            yield from _files(Path(entry.path), f"{below}/{entry.name}", (*above, place))
        elif Path(entry.name).suffix.lower() in EXTENSIONS and not entry.name.startswith("."):
            if Path(entry.path).exists() and not entry.is_file():  # a link to nothing is named when it is read
                continue
            yield f"{below}/{entry.name}"
