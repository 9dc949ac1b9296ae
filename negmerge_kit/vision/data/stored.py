"""Data that lie somewhere as encoded images: what folders and Hub repositories have in common."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from negmerge_kit.types import Json
from negmerge_kit.vision.data.cache import Record, open_images, problem, read_record, split_folder
from negmerge_kit.vision.data.decoding import OnImages, Request, decode_split
from negmerge_kit.vision.data.numbering import Numbering
from negmerge_kit.vision.data.rows import SEED, Rows
from negmerge_kit.vision.data.source import DataSource, OnSplit, check_corrupt
from negmerge_kit.vision.data.transform import Transform, as_transform

if TYPE_CHECKING:
    from negmerge_kit.vision.images import ImageSet


class StoredSource(DataSource):
    """Encoded images that are decoded once into the cache."""

    @abstractmethod
    def identity(self) -> Json:
        """Plain values that change when the images do.

        Raises:
            SceneError: if there are no images.
        """

    @abstractmethod
    def rows(self, split: str) -> tuple[Rows, Sequence[int]]:
        """The raw images that a split is taken from, and the split's row numbers in their order."""

    def request(self, split: str, transform: Transform) -> Request:
        """What to decode for a split, and where it goes."""
        identity = self.identity()
        folder = split_folder(self.name, identity, transform)
        return Request(folder, self.text, split, identity, transform, self.classes)

    def fetch(self) -> None:
        """Have the encoded images here."""

    def prepare(
        self,
        splits: Sequence[str],
        *,
        image_size: int | tuple[int, int] | Transform,
        corrupt: str = "refuse",
        on_images: OnSplit = lambda split, done, total: None,
    ) -> None:
        """Fetch what is not here and decode what is not decoded; goes on where an earlier run stopped."""
        super().prepare(splits, image_size=image_size)
        if not self.is_ready(splits, image_size=image_size):
            self.fetch()
        for split in splits:
            self.decode(split, image_size=image_size, corrupt=corrupt, on_images=partial(on_images, split))

    def is_ready(self, splits: Sequence[str], *, image_size: int | tuple[int, int] | Transform) -> bool:
        """Whether every split lies in the cache, whole."""
        transform = as_transform(image_size)
        return all(read_record(self.request(split, transform).folder, split) for split in splits)

    def decode(
        self,
        split: str,
        *,
        image_size: int | tuple[int, int] | Transform,
        corrupt: str = "refuse",
        on_images: OnImages = lambda done, total: None,
    ) -> Record:
        """The cache's record of a split, which is decoded first if it is not there (see `decode_split`)."""
        self.check_split(split)
        check_corrupt(corrupt)
        request = self.request(split, as_transform(image_size))
        return decode_split(request, lambda: self.rows(split), corrupt=corrupt, on_images=on_images)

    def images(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> ImageSet:
        """The split's images, mapped from the cache."""
        record = self.decode(split, image_size=image_size, corrupt=corrupt)
        return open_images(self.request(split, as_transform(image_size)).folder, record, self.name)

    @property
    @abstractmethod
    def drawn(self) -> tuple[str, ...]:
        """The splits that are drawn from the same files as "train"."""

    def numbers(self, labels: Sequence[int]) -> Sequence[int]:
        """The number of every row of the training files: its place, from 0.

        Args:
            labels: of all rows; -1 for an image that was left out.
        """
        return range(len(labels))

    def numbering(self, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> Numbering:
        """Row n of the training files is number n, whatever the order and the split in which the kit has it."""
        records = {
            split: self.decode(split, image_size=image_size, corrupt=corrupt) for split in ("train", *self.drawn)
        }
        labels = [-1] * records["train"].rows
        for record in records.values():
            for row, label in zip(record.indices, record.labels, strict=True):
                labels[row] = label
        numbers = self.numbers(labels)
        return Numbering(
            self.name,
            len(labels),
            {split: [numbers[row] for row in record.indices] for split, record in records.items()},
        )

    def described(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> Json:
        """Name, split, seed, n, fingerprint, and how to find the very images again.

        The rows of a split that was drawn are told in full for `val` and `test` and by their SHA-256 for `train`, which
        is the rest.
        """
        record = self.decode(split, image_size=image_size, corrupt=corrupt)
        told = " ".join(map(str, record.indices))
        rows = {"indices": told} if split != "train" else {}
        return {
            "name": self.name,
            "split": split,
            "seed": SEED,
            "n": len(record.labels),
            "fingerprint": record.fingerprint,
            "data": record.identity,
            "transform": record.transform,
            "rows": record.rows,
            "indices_sha256": hashlib.sha256(told.encode()).hexdigest(),
            **rows,
            "corrupt": list(record.corrupt),
        }

    def noticed(
        self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse"
    ) -> dict[str, int]:
        """As the cache's record counts them."""
        return self.decode(split, image_size=image_size, corrupt=corrupt).noticed

    def verify(self, *, image_size: int | tuple[int, int] | Transform) -> dict[str, str | None]:
        """For every split that is decoded at this size: what is wrong with it, or None. Reads every pixel."""
        transform = as_transform(image_size)
        requests = {split: self.request(split, transform) for split in self.splits}
        return {split: problem(request.folder, split) for split, request in requests.items() if request.pixels.exists()}
