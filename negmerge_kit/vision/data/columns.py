"""What `datasets` reads of a repository's files: its splits, its columns, its rows as encoded bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from negmerge_kit.errors import SceneError


def open_repository(
    folder: Path, subset: str, files: dict[str, list[str]], columns: Sequence[str] | None = None
) -> dict[str, Any]:
    """The splits of a repository as streams; nothing is copied, no image is decoded.

    Args:
        folder: its files, in the layout of the Hub.
        subset: a configuration's name, or "".
        files: split -> parquet files; empty to go by the repository's own layout.
        columns: read only these, where the files are parquet.

    Raises:
        SceneError: files that `datasets` cannot read as a data set.
    """
    import datasets

    only: dict[str, Any] = {"columns": list(columns)} if columns and any(folder.rglob("*.parquet")) else {}
    try:
        with quiet():
            if files:
                parts = datasets.load_dataset("parquet", data_files=files, streaming=True, **only)
            else:
                parts = datasets.load_dataset(str(folder), name=subset or None, streaming=True, **only)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
        raise SceneError(
            f"the files in {folder} cannot be read as images with labels ({first}): give parquet files or "
            "one folder a class, as the Hub lays them out."
        ) from error
    return dict(parts)


def find_columns(features: Any, where: str) -> tuple[str, str, tuple[str, ...]]:
    """The image column, the label column and the class names: the first of their kind.

    Raises:
        SceneError: no image column; the message lists the columns.
    """
    from datasets import ClassLabel, Image

    columns = dict(features or {})
    # A parquet file that another library wrote does not say that such a column holds images.
    image = next(
        (
            name
            for name, kind in columns.items()
            if isinstance(kind, Image) or (isinstance(kind, dict) and {"bytes", "path"} <= set(kind))
        ),
        None,
    )
    label = next((name for name, kind in columns.items() if isinstance(kind, ClassLabel)), None)
    if image is None:
        raise SceneError(
            f"{where} has no column of images (it has {', '.join(columns) or 'none'}): choose an image "
            "classification data set."
        )
    return image, label or "", tuple(columns[label].names) if label else ()


@dataclass(frozen=True)
class HubRows:
    """The rows of one Hub split, in the order of its files."""

    folder: Path
    subset: str
    files: dict[str, list[str]]
    split: str
    image: str
    label: str

    @cached_property
    def labels(self) -> list[int]:
        """The label of every row; of parquet files only that column is read."""
        part = self._part([self.label])
        if self.image in part.features:
            part = self._undecoded(part)
        with _reading(self.folder):
            return [
                int(label)
                for batch in part.select_columns([self.label]).iter(batch_size=4096)
                for label in batch[self.label]
            ]

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Encoded images of rows in ascending order; all rows before and between are passed over."""
        if not wanted:
            return
        left, row = iter(wanted), wanted[0]
        next_one: int | None = next(left)
        with _reading(self.folder):
            for value in self._undecoded(self._part()).select_columns([self.image]).skip(row):
                if row == next_one:
                    yield _encoded(value[self.image], f"row {row} of {self.split}")
                    next_one = next(left, None)
                    if next_one is None:
                        return
                row += 1

    def _part(self, columns: Sequence[str] | None = None) -> Any:
        return open_repository(self.folder, self.subset, self.files, columns)[self.split]

    def _undecoded(self, part: Any) -> Any:
        from datasets import Image

        return part.cast_column(self.image, Image(decode=False))


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


class quiet:
    """`datasets` without its progress bars, for the length of a block."""

    def __enter__(self) -> None:
        import datasets

        self._shown = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        import datasets

        if self._shown:
            datasets.enable_progress_bars()


class _reading:
    """A damaged file is one sentence."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException):
            raise SceneError(
                f"a file in {self._folder} is damaged ({str(error).splitlines()[0]}): delete it and "
                "prepare the data again."
            ) from error
