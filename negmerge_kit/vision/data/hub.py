"""Data sets of the Hub: parquet or image folders, read by `datasets` from the local Hub cache.

Only `prepare` fetches anything. Whoever asks for images before is told to prepare them, with their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negmerge_kit.errors import SceneError
from negmerge_kit.types import Json
from negmerge_kit.vision.data.cifar10 import original_numbers
from negmerge_kit.vision.data.columns import HubRows, find_columns, open_repository
from negmerge_kit.vision.data.download import bytes_missing, download, local_files, resolve
from negmerge_kit.vision.data.labels import check_order, class_names, names_source, said
from negmerge_kit.vision.data.pins import COMMIT, Pin, check_pin, read_pin
from negmerge_kit.vision.data.registry import DATASETS
from negmerge_kit.vision.data.rows import VALIDATION_AT_MOST, VALIDATION_SHARE, Rows, draw_all, draw_splits
from negmerge_kit.vision.data.source import PLAIN_TEMPLATES, SPLITS
from negmerge_kit.vision.data.stored import StoredSource

if TYPE_CHECKING:
    from negmerge_kit.vision.data.transform import Transform

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
VALIDATION_NAMES = ("validation", "valid", "val", "dev")


class HubSource(StoredSource):
    """Any image classification data set of the Hub: `hf:OWNER/NAME[/CONFIG][@REVISION]`.

    Class names are those of its label column. A tenth of the training images is drawn for validation unless it has both
    a validation and a test split of its own; a lone validation split is the test.
    """

    def __init__(self, repo: str, config: str = "", revision: str | None = None) -> None:
        self.repo, self.config, self.wanted = repo, config, revision
        self.subset = config
        self.stem = f"hf:{'/'.join(part for part in (repo, config) if part)}"
        self.asked = f"{self.stem}@{revision}" if revision else self.stem
        self.name = repo.rpartition("/")[2]
        self.title = f"{repo} on the Hub"
        self.licence = "as its page on the Hub says"
        self.names_from = "the label column of the data set itself"
        self.homepage = f"https://huggingface.co/datasets/{repo}"
        self.patterns: tuple[str, ...] = ()

    @property
    def text(self) -> str:  # type: ignore[override]
        """What `find_data` reads back: with the commit, once it is known."""
        revision = self.revision
        return f"{self.stem}@{revision}" if revision else self.stem

    @property
    def revision(self) -> str | None:
        """The commit that is used: the one that was prepared, or else the one that is asked for."""
        pin = read_pin(self.repo, self.config)
        if self.wanted is not None and COMMIT.fullmatch(self.wanted):
            check_pin(pin, self.wanted, self.stem)
        return pin.revision if pin else self.wanted

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; those of the data set's own label column, unless it is a named one."""
        return tuple(said(label) for label in self.pin().classes)

    @property
    def templates(self) -> tuple[str, ...]:
        """One plain prompt."""
        return PLAIN_TEMPLATES

    def pin(self) -> Pin:
        """What was noted when the data were prepared.

        Raises:
            SceneError: they were not prepared yet, or at another commit.
        """
        pin = read_pin(self.repo, self.config)
        if pin is None:
            raise SceneError(
                f"{self.stem} is not prepared ({self._size()} to download): run "
                f"`negmerge data prepare {self.asked}` first."
            )
        if self.wanted is not None and COMMIT.fullmatch(self.wanted):
            check_pin(pin, self.wanted, self.stem)
        return pin

    def fetch(self) -> None:
        """Have the files in the local Hub cache, download what is missing, and note commit, classes and columns.

        Raises:
            SceneError: no network, labels in another order, no images or labels, or another commit than before.
        """
        pin = read_pin(self.repo, self.config)
        commit, missing = self.resolved()
        folder = None if missing else local_files(self.repo, commit, self.patterns)
        fresh = self.inspect(folder or download(self.repo, commit, self.patterns))
        if pin is not None and pin != fresh:
            raise SceneError(
                f"{self.text} is no longer what was prepared: its classes, columns or splits changed; "
                "fetch it into the Hub cache again."
            )
        fresh.write()

    def resolved(self) -> tuple[str, int]:
        """The commit that will be used and the bytes to download.

        Asks the Hub, unless all was prepared before and is still here, or there is no network and a whole copy here.

        Raises:
            SceneError: as `fetch`.
        """
        pin = read_pin(self.repo, self.config)
        if self.wanted is not None and COMMIT.fullmatch(self.wanted):
            check_pin(pin, self.wanted, self.stem)
        wanted = pin.revision if pin else self.wanted
        here = local_files(self.repo, wanted, self.patterns)
        if pin is not None and here is not None:
            return pin.revision, 0
        try:
            commit, files = resolve(self.repo, wanted, self.patterns)
        except SceneError:
            if here is None:
                raise
            return here.name, 0
        return commit, bytes_missing(self.repo, commit, files)

    def is_ready(self, splits: Sequence[str], *, image_size: int | tuple[int, int] | Transform) -> bool:
        """Whether the data were prepared and every split lies in the cache, whole."""
        return read_pin(self.repo, self.config) is not None and super().is_ready(splits, image_size=image_size)

    def inspect(self, folder: Path) -> Pin:
        """What a repository's files say of themselves."""
        parts = open_repository(folder, self.subset, self.files(folder))
        first = next(iter(parts.values()))
        image, label, names = find_columns(first.features, self.stem)
        self.check_names(names)
        return Pin(self.repo, self.config, folder.name, tuple(names), image, label, tuple(parts))

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse a label column that cannot be used."""
        if not names:
            raise SceneError(
                f"{self.stem} has no column of class labels with names: choose another data set, or make "
                "a folder with one sub-folder a class and use folder:PATH."
            )

    def files(self, folder: Path) -> dict[str, list[str]]:
        """Split -> files, where a pattern says so; empty where the repository's own layout does."""
        return {}

    def identity(self) -> Json:
        """Repository, configuration and commit."""
        pin = self.pin()
        return {"hub": pin.repo, "config": pin.config, "revision": pin.revision}

    def rows(self, split: str) -> tuple[Rows, Sequence[int]]:
        """The Hub split that a split is taken from, and its rows there."""
        pin = self.pin()
        folder = local_files(self.repo, pin.revision, self.patterns)
        if folder is None:
            raise SceneError(
                f"the files of {self.text} are no longer in the Hub cache ({self._size()} to download): "
                f"run `negmerge data prepare {self.asked}` again."
            )
        there, splits = self.taken_from(split, pin.splits)
        rows = HubRows(folder, self.subset, self.files(folder), there, pin.image, pin.label)
        if rows.labels and not 0 <= min(rows.labels) <= max(rows.labels) < len(self.classes):
            raise SceneError(
                f"the {there} split of {self.text} has labels from {min(rows.labels)} to "
                f"{max(rows.labels)} for {len(self.classes)} classes: it is not labelled, or not the data "
                "set that was expected."
            )
        if splits == (split,):
            return rows, draw_all(len(rows.labels))
        return rows, draw_splits(len(rows.labels), splits[1:], name=self.name)[split]

    @property
    def drawn(self) -> tuple[str, ...]:
        """What the Hub has no split of its own for."""
        return self.taken_from("train", self.pin().splits)[1][1:]

    def taken_from(self, split: str, there: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """The Hub split that a split is taken from, and all splits that are taken from that one."""
        train = next((name for name in TRAIN_NAMES if name in there), None)
        if train is None:
            raise SceneError(
                f"{self.text} has no split called train (it has {', '.join(there)}): use another data "
                "set, or make a folder of its images and use folder:PATH."
            )
        own_test = next((name for name in TEST_NAMES if name in there), None)
        own_val = next((name for name in VALIDATION_NAMES if name in there), None)
        if own_test is None:
            own_test, own_val = own_val, None
        given = {name: found for name, found in (("val", own_val), ("test", own_test)) if found is not None}
        if found := given.get(split):
            return found, (split,)
        return train, tuple(name for name in SPLITS if name not in given)

    def _size(self) -> str:
        return f"about {self.bytes / 1e9:.1f} GB" if self.bytes else "of unknown size"


class NamedSource(HubSource):
    """A data set of the registry."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.entry = DATASETS[name]
        super().__init__(self.entry.repo, "", revision or self.entry.revision)
        self.stem = self.name = name
        self.asked = f"{name}@{revision}" if revision else name
        # Two names may use one repository: each notes its own commit.
        self.config, self.subset = name, ""
        self.title, self.licence, self.homepage = self.entry.title, self.entry.licence, self.entry.homepage
        self.bytes, self.flips = self.entry.bytes, self.entry.flips
        self.names_from = names_source(self.entry.classes or name)
        self.splits = ("val", "test") if self.entry.control else SPLITS
        self.patterns = tuple(pattern for pattern in (self.entry.train, self.entry.test) if pattern)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the registry, in label order."""
        return class_names(self.entry.classes or self.name).classes

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts of the registry."""
        return class_names(self.entry.classes or self.name).templates

    def numbers(self, labels: Sequence[int]) -> Sequence[int]:
        """Rows of the Hub's files; of CIFAR-10 the original's numbers."""
        return original_numbers(labels) if self.name == "cifar10" else super().numbers(labels)

    def count(self, splits: Sequence[str]) -> int:
        """By the registry's numbers and the authors' validation rule."""
        train, test = self.entry.images
        held = min(int((train or test) * VALIDATION_SHARE), VALIDATION_AT_MOST)
        sizes = {"train": train - held, "val": held, "test": test if self.entry.train else held}
        return sum(sizes[split] for split in splits)

    def files(self, folder: Path) -> dict[str, list[str]]:
        """The parquet files of each split; other files of the repository are left alone."""
        patterns = {"train": self.entry.train, "test": self.entry.test}
        return {
            split: found
            for split, pattern in patterns.items()
            if pattern and (found := sorted(str(path) for path in folder.glob(pattern) if path.suffix == ".parquet"))
        }

    def inspect(self, folder: Path) -> Pin:
        """What the files say of themselves, held against the registry: columns, and labels in the same order."""
        parts = open_repository(folder, self.subset, self.files(folder))
        features: Any = next(iter(parts.values())).features
        if absent := {self.entry.image, self.entry.label} - set(features):
            raise SceneError(
                f"{self.stem} ({self.repo}) has no column {' or '.join(sorted(absent))}: it has "
                f"{', '.join(features)}; it is another version of the data set."
            )
        found = getattr(features[self.entry.label], "names", None)
        if found:
            check_order(class_names(self.entry.classes or self.name), found, f"{self.stem} ({self.repo})")
        return Pin(
            self.repo, self.config, folder.name, tuple(found or ()), self.entry.image, self.entry.label, tuple(parts)
        )

    def check_names(self, names: Sequence[str]) -> None:
        """Names come from the registry."""

    def taken_from(self, split: str, there: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Validation is drawn from train; a small control's from its test files."""
        test = next((name for name in (*TEST_NAMES, *VALIDATION_NAMES) if name in there), None)
        if test is None or (self.entry.train and "train" not in there):
            raise SceneError(
                f"{self.text} has the splits {', '.join(there)}, but train and test were expected: it is "
                "another version of the data set."
            )
        if not self.entry.train:
            return test, SPLITS
        return (test, ("test",)) if split == "test" else ("train", ("train", "val"))
