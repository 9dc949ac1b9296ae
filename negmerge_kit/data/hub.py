"""Data sets of the Hub: parquet or image folders, fetched into the Hub's own cache and read there by `datasets`.

Only `prepare` fetches anything; images that were not prepared are refused, with their size. The files are fetched by
`huggingface_hub` and streamed from where it puts them, because `load_dataset(repo)` asks the network even where all is
in the local Hub cache, and keeps a second copy of everything as Arrow files.

    CACHE/hub/OWNER--NAME[--CONFIG].json        {"repo", "config", "revision", "classes", ...}

A data set that changes on the Hub must not change a result in silence. So the commit that `main` was at when the data
were first prepared is noted and used from then on; asking for another one is refused, until the note is deleted.

The file is long because a source, its files, its columns and its commit are one idea.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.data.decoded_cache import EncodedRows, cache_folder
from negmerge_kit.data.labels import ClassNames, check_order, class_names, display_name, names_source
from negmerge_kit.data.registry import DATASETS
from negmerge_kit.data.source import SPLITS, EncodedSource
from negmerge_kit.data.splits import VALIDATION_AT_MOST, VALIDATION_SHARE, original_numbers
from negmerge_kit.data.transform import ImageSize
from negmerge_kit.errors import SceneError
from negmerge_kit.types import Json

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
VALIDATION_NAMES = ("validation", "valid", "val", "dev")

COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT = 5.0
"""Timeout of a request to the Hub, in seconds."""

Patterns = dict[str, str]
"""Split -> pattern of its files; none where the repository's own layout says."""

_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})(\..*)")


class HubSource(EncodedSource):
    """Any image classification data set of the Hub: `hf:OWNER/NAME[/CONFIG][@REVISION]`.

    Class names are those of its label column. A tenth of the training images is drawn for validation unless it has both
    a validation and a test split; a lone validation split is the test.
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
        self.patterns: Patterns = {}

    @property
    def text(self) -> str:  # type: ignore[override]
        """What `find_data` reads back: with the commit, once it is known."""
        revision = self.revision
        return f"{self.stem}@{revision}" if revision else self.stem

    @property
    def revision(self) -> str | None:
        """The commit that is used: the one that was prepared, or else the one that is asked for."""
        pin = self.noted()
        return pin.revision if pin else self.wanted

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, of the data set's label column."""
        return tuple(display_name(label) for label in self.pin().classes)

    def noted(self) -> Pin | None:
        """The pin noted when the data were prepared, or None.

        Raises:
            SceneError: they were prepared at another commit than is asked for.
        """
        pin = read_pin(self.repo, self.config)
        if pin and self.wanted and COMMIT.fullmatch(self.wanted) and pin.revision != self.wanted:
            raise SceneError(
                f"{self.stem} was prepared at commit {pin.revision[:12]}, but {self.wanted[:12]} is asked for: results "
                f"of the two cannot be compared; delete {pin_file(pin.repo, pin.config)} to change it on "
                "purpose."
            )
        return pin

    def pin(self) -> Pin:
        """The pin noted when the data were prepared.

        Raises:
            SceneError: they were not prepared yet, or at another commit.
        """
        pin = self.noted()
        if pin is None:
            raise SceneError(
                f"{self.stem} is not prepared ({self._size()} to download): run "
                f"`negmerge data prepare {self.asked}` first."
            )
        return pin

    def fetch(self) -> None:
        """Have the files in the local Hub cache, download what is missing, and note commit, classes and columns.

        Raises:
            SceneError: no network, labels in another order, no images or labels, or another commit than before.
        """
        pin = self.noted()
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
        pin = self.noted()
        wanted = pin.revision if pin else self.wanted
        here = local_files(self.repo, wanted, self.patterns)
        if pin is not None and here is not None:
            return pin.revision, 0
        try:
            return ask_hub(self.repo, wanted, self.patterns)
        except SceneError:
            if here is None:
                raise
            return here.name, 0

    def local_folder(self) -> Path:
        """Folder of the prepared files.

        Raises:
            SceneError: they are there no longer.
        """
        folder = local_files(self.repo, self.pin().revision, self.patterns)
        if folder is None:
            raise SceneError(
                f"the files of {self.text} are no longer in the Hub cache ({self._size()} to download): "
                f"run `negmerge data prepare {self.asked}` again."
            )
        return folder

    def is_ready(self, splits: Sequence[str], *, image_size: ImageSize) -> bool:
        """Whether the data were prepared and every split is in the cache, whole."""
        return self.noted() is not None and super().is_ready(splits, image_size=image_size)

    def inspect(self, folder: Path) -> Pin:
        """Read classes and columns from a repository's files."""
        parts = open_repository(folder, self.subset, self.patterns)
        image, label, names = self.columns(next(iter(parts.values())).features or {})
        return Pin(self.repo, self.config, folder.name, names, image, label, tuple(parts))

    def columns(self, features: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
        """The image column, the label column and its class names: the first of their kind.

        Raises:
            SceneError: there are none.
        """
        from datasets import ClassLabel, Image

        # A parquet file that another library wrote does not say that such a column holds images.
        images = (
            name
            for name, kind in features.items()
            if isinstance(kind, Image) or (isinstance(kind, dict) and {"bytes", "path"} <= set(kind))
        )
        image = next(images, None)
        label = next((name for name, kind in features.items() if isinstance(kind, ClassLabel)), None)
        if image is None:
            raise SceneError(
                f"{self.stem} has no column of images (it has {', '.join(features) or 'none'}): choose an image "
                "classification data set."
            )
        if label is None or not features[label].names:
            raise SceneError(
                f"{self.stem} has no column of class labels with names: choose another data set, or make "
                "a folder with one sub-folder a class and use folder:PATH."
            )
        return image, label, tuple(features[label].names)

    @property
    def identity(self) -> Json:
        """Repository, configuration and commit."""
        pin = self.pin()
        return {"hub": pin.repo, "config": pin.config, "revision": pin.revision}

    @property
    def layout(self) -> dict[str, tuple[str, ...]]:
        """By the names of the Hub's splits; a lone validation split is the test."""
        there = self.pin().splits
        train, test, val = (
            next((name for name in names if name in there), None)
            for names in (TRAIN_NAMES, TEST_NAMES, VALIDATION_NAMES)
        )
        if train is None:
            raise SceneError(
                f"{self.text} has no split called train (it has {', '.join(there)}): use another data "
                "set, or make a folder of its images and use folder:PATH."
            )
        given = {"val": val, "test": test} if test else {"test": val}
        drawn = tuple(split for split in SPLITS if not given.get(split))
        return {train: drawn, **{place: (split,) for split, place in given.items() if place}}

    def encoded(self, place: str) -> EncodedRows:
        """The rows of one of the Hub's splits; its files are opened when they are read."""
        return HubRows(self, place)

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
        given = {"train": self.entry.train, "test": self.entry.test}
        self.patterns = {split: f"{pattern}.parquet" for split, pattern in given.items() if pattern}

    @property
    def known(self) -> ClassNames:
        """Class names and prompts of the registry."""
        return class_names(self.entry.classes or self.name)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the registry, in label order."""
        return self.known.classes

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts of the registry."""
        return self.known.templates

    def numbers(self, labels: Sequence[int]) -> Sequence[int]:
        """Rows of the Hub's files; of CIFAR-10 the original's numbers."""
        return original_numbers(labels) if self.name == "cifar10" else super().numbers(labels)

    def count(self, splits: Sequence[str]) -> int:
        """By the registry's numbers and the authors' validation rule."""
        train, test = self.entry.images
        held = min(int((train or test) * VALIDATION_SHARE), VALIDATION_AT_MOST)
        sizes = {"train": max(0, train - held), "val": held, "test": test if self.entry.train else held}
        return sum(sizes[split] for split in splits)

    def columns(self, features: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
        """The registry's columns, once they are there and their labels have the same order."""
        image, label = self.entry.image, self.entry.label
        if absent := {image, label} - set(features):
            raise SceneError(
                f"{self.stem} ({self.repo}) has no column {' or '.join(sorted(absent))}: it has "
                f"{', '.join(features)}; it is another version of the data set."
            )
        names = tuple(getattr(features[label], "names", None) or ())
        if names:
            check_order(self.known, names, f"{self.stem} ({self.repo})")
        return image, label, names

    @property
    def layout(self) -> dict[str, tuple[str, ...]]:
        """As for any set; a small control takes all from its test images."""
        return super().layout if self.entry.train else {"test": SPLITS}


@dataclass(frozen=True)
class HubRows:
    """The rows of one Hub split, in the order of its files."""

    source: HubSource
    split: str

    @cached_property
    def labels(self) -> list[int]:
        """The label of every row; of parquet files only that column is read.

        Raises:
            SceneError: files that are gone or damaged, or labels that are not those of the classes.
        """
        label, count = self.source.pin().label, len(self.source.classes)
        with self._opened([label]) as part:
            found = [
                int(value) for batch in part.select_columns([label]).iter(batch_size=4096) for value in batch[label]
            ]
        if found and not 0 <= min(found) <= max(found) < count:
            raise SceneError(
                f"the {self.split} split of {self.source.text} has labels from {min(found)} to {max(found)} for "
                f"{count} classes: it is not labelled, or not the data set that was expected."
            )
        return found

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Encoded images of rows in ascending order; all rows before and between are passed over."""
        if not wanted:
            return
        image, chosen = self.source.pin().image, set(wanted)
        with self._opened() as part:
            for row, value in enumerate(part.select_columns([image]).skip(wanted[0]), wanted[0]):
                if row in chosen:
                    yield _encoded(value[image], f"row {row} of {self.split}")
                if row == wanted[-1]:
                    return

    @contextmanager
    def _opened(self, columns: Sequence[str] = ()) -> Iterator[Any]:
        """The split as a stream of encoded images; a damaged file is one sentence."""
        import pyarrow
        from datasets import Image

        pin, folder = self.source.pin(), self.source.local_folder()
        part = open_repository(folder, self.source.subset, self.source.patterns, columns)[self.split]
        try:
            yield part.cast_column(pin.image, Image(decode=False)) if pin.image in part.features else part
        except pyarrow.ArrowException as error:
            raise SceneError(
                f"a file in {folder} is damaged ({_first_line(error)}): delete it and prepare the data again."
            ) from error


def _encoded(value: Any, row: str) -> tuple[str, Callable[[], bytes]]:
    """A name for the image and what gives its bytes: parquet holds them, image folders name a file."""
    held, path = (value or {}).get("bytes"), (value or {}).get("path")
    name = f"{row} ({path})" if path else row
    if held is not None:
        return name, lambda: bytes(held)
    return name, lambda: _read(path)


def _read(path: str | None) -> bytes:
    import fsspec

    if path is None:
        return b""  # no image is a corrupt image
    with fsspec.open(path, "rb") as file:
        return bytes(file.read())


# --- files ----------------------------------------------------------------------------------------


def open_repository(folder: Path, subset: str, patterns: Patterns, columns: Sequence[str] = ()) -> dict[str, Any]:
    """The splits of a repository as streams; nothing is copied, no image is decoded.

    Args:
        folder: its files, in the layout of the Hub.
        subset: a configuration's name, or "".
        patterns: of the parquet files of each split; empty to go by the repository's own layout.
        columns: read only these, where the files are parquet.

    Raises:
        SceneError: files that `datasets` cannot read as a data set.
    """
    import datasets

    only: dict[str, Any] = {"columns": list(columns)} if columns and any(folder.rglob("*.parquet")) else {}
    if patterns:
        only["data_files"] = {split: str(folder / pattern) for split, pattern in patterns.items()}
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        where = "parquet" if patterns else str(folder)
        return dict(datasets.load_dataset(where, name=subset or None, streaming=True, **only))
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise SceneError(
            f"the files in {folder} cannot be read as images with labels ({_first_line(error)}): give parquet files or "
            "one folder a class, as the Hub lays them out."
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def ask_hub(repo: str, revision: str | None, patterns: Patterns) -> tuple[str, int]:
    """The commit that a revision means now, and the bytes of matching files that are not in the local Hub cache.

    Raises:
        SceneError: no network, no such repository or revision, or one that wants a login.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    with _hub_errors_as_sentences(repo, revision):
        found = HfApi().dataset_info(repo, revision=revision, timeout=TIMEOUT, files_metadata=True)
    commit = str(found.sha)
    missing = (
        file.size or 0
        for file in found.siblings or ()
        if not patterns or any(fnmatch(file.rfilename, pattern) for pattern in patterns.values())
        if not isinstance(try_to_load_from_cache(repo, file.rfilename, repo_type="dataset", revision=commit), str)
    )
    return commit, sum(missing)


def local_files(repo: str, revision: str | None, patterns: Patterns) -> Path | None:
    """The folder of a repository's files in the local Hub cache, if all that is wanted is there.

    Its name is the commit. The Hub's client knows what belongs to a snapshot that it fetched; of one that was copied, a
    missing shard of a numbered series, or a file that is not whole, counts as not there.
    """
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = _snapshot(repo, revision, patterns, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    numbered = (shard.groups() for shard in map(_SHARD.fullmatch, files) if shard)
    series = {
        f"{before}-{number:05}-of-{count}{after}" for before, count, after in numbered for number in range(int(count))
    }
    matched = all(any(fnmatch(file, pattern) for file in files) for pattern in patterns.values())
    cut = any((folder.parents[1] / "blobs").glob("*.incomplete"))
    return folder if files and matched and series <= files and not cut else None


def download(repo: str, revision: str, patterns: Patterns) -> Path:
    """Download what matches into the Hub's cache, going on where an earlier download stopped.

    Raises:
        SceneError: as `ask_hub`.
    """
    with _hub_errors_as_sentences(repo, revision):
        return _snapshot(repo, revision, patterns, etag_timeout=TIMEOUT)


def _snapshot(repo: str, revision: str | None, patterns: Patterns, **how: Any) -> Path:
    from huggingface_hub import snapshot_download

    only = list(patterns.values()) or None
    return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=only, **how))


# --- commits --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pin:
    """One repository at one commit, with what was learnt of it: class names, columns and splits."""

    repo: str
    config: str
    revision: str
    classes: tuple[str, ...]
    image: str
    label: str
    splits: tuple[str, ...]

    def write(self) -> None:
        """Write the pin atomically."""
        path = pin_file(self.repo, self.config)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(asdict(self), indent=1).encode())


def pin_file(repo: str, config: str = "") -> Path:
    """File with the pin of a repository.

    >>> pin_file("owner/name").name
    'owner--name.json'
    """
    return cache_folder() / "hub" / f"{'--'.join(part for part in (*repo.split('/'), config) if part)}.json"


def read_pin(repo: str, config: str = "") -> Pin | None:
    """Read the pin of a repository, or None if there is none.

    Raises:
        SceneError: a note that cannot be read.
    """
    path = pin_file(repo, config)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Pin(**{**values, "classes": tuple(values["classes"]), "splits": tuple(values["splits"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SceneError(f"{path} cannot be read ({error}): delete it and prepare the data again.") from error


# --- errors ---------------------------------------------------------------------------------------


@contextmanager
def _hub_errors_as_sentences(repo: str, revision: str | None) -> Iterator[None]:
    """Turn whatever goes wrong between here and the Hub into one sentence with its remedy."""
    from huggingface_hub import errors

    at = f"{repo}@{revision}" if revision else repo
    network: tuple[type[Exception], ...] = (OSError, getattr(errors, "HTTPError", OSError))
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise SceneError(
            f"{at} is not (wholly) in the local Hub cache and HF_HUB_OFFLINE is set: unset it and prepare "
            "the data once with a network, or copy the Hub cache of a machine that has them."
        ) from error
    except errors.GatedRepoError as error:
        raise SceneError(
            f"{at} wants a login: accept its terms on the Hub, then run `hf auth login` or set "
            "HF_TOKEN; or name a local copy, e.g. imagenet:/data/imagenet."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SceneError(f"{repo} has no revision {revision}: give a commit or a branch of it.") from error
    except errors.RepositoryNotFoundError as error:
        raise SceneError(
            f"there is no data set {repo} on the Hub, or it is private: check its name, or run `hf auth login`."
        ) from error
    except errors.HFValidationError as error:
        raise SceneError(f"{repo!r} is not a name on the Hub: give hf:OWNER/NAME[/CONFIG][@REVISION].") from error
    except network as error:
        raise SceneError(
            f"the Hub cannot be reached for {at} ({_first_line(error)}): check the network, or prepare "
            "the data from a local copy (NAME:PATH or folder:PATH)."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
