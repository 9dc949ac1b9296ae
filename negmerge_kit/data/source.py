"""Base classes of labelled image sets, held in memory or decoded once into the cache."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from negmerge_kit.data.decoded_cache import DecodedSplit, EncodedRows, OnImages, Record
from negmerge_kit.data.splits import SEED, Numbering, draw_all, draw_splits
from negmerge_kit.data.transform import ImageSize, as_transform, resized
from negmerge_kit.errors import ParameterError, SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.types import Json

SPLITS = ("train", "val", "test")
"""Candidates learn from `train`, scales are chosen on `val`, results come from `test`."""

CORRUPT = ("refuse", "skip")
"""What to do with an image that cannot be decoded: refuse the data set, or count, name and leave it out."""

PLAIN_TEMPLATES = ("a photo of a {}.",)
"""The prompt for classes of which nothing is known but their names (CLIP's own first template)."""


class DataSource(ABC):
    """A named set of labelled images in three splits.

    Attributes:
        text: what `find_data` reads back, with the revision if there is one.
        name: its short name, which the head that classifies it has too.
        title, licence, homepage: shown before it is used.
        names_from: where the class names come from.
        bytes: about how much has to be fetched; None if unknown.
        flips: whether a mirrored image still shows its class; not so for digits and signs.
        splits: the splits that it has; a control that is only kept has no "train".
    """

    text: str
    name: str
    title: str
    licence: str = "your own"
    names_from: str = "this package"
    homepage: str = ""
    bytes: int | None = None
    flips: bool = True
    splits: tuple[str, ...] = SPLITS

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, as prompts say them."""

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompt templates with one `{}` each."""
        return PLAIN_TEMPLATES

    @abstractmethod
    def images(self, split: str, *, image_size: ImageSize, corrupt: str = "refuse") -> ImageSet:
        """The images of a split at a size: uint8, memory-mapped where they are many.

        Args:
            split: "train", "val" or "test".
            image_size: CLIP's preprocessing to that size, or a model's own Transform.
            corrupt: "refuse" or "skip" images that cannot be decoded.

        Raises:
            SceneError: a split that does not exist, images that are not there or cannot be read.
        """

    def numbering(self, *, image_size: ImageSize, corrupt: str = "refuse") -> Numbering:
        """The source's numbers of the training images: their places, where nothing else is known."""
        count = len(self.images("train", image_size=image_size, corrupt=corrupt))
        return Numbering(self.name, count, {"train": range(count)})

    def described(self, split: str, *, image_size: ImageSize, corrupt: str = "refuse") -> Json:
        """Describe a split for a pool: name, split, seed, n, fingerprint, and where it came from."""
        images = self.images(split, image_size=image_size, corrupt=corrupt)
        seed, fingerprint = self.seed(split), images.fingerprint()
        return {"name": self.name, "split": split, "seed": seed, "n": len(images), "fingerprint": fingerprint}

    def seed(self, split: str) -> int:
        """The seed that a split is drawn by."""
        return SEED

    def noticed(self, split: str, *, image_size: ImageSize, corrupt: str = "refuse") -> dict[str, int]:
        """Number of images of a split with content that is ignored by default (see `Noticed`); none where drawn."""
        return {}

    def prepare(
        self,
        splits: Sequence[str],
        *,
        image_size: ImageSize,
        corrupt: str = "refuse",
        on_images: OnImages = lambda done, total: None,
    ) -> None:
        """Fetch what is not here and decode what is not decoded, so that `images` only opens; drawn data need neither.

        Raises:
            SceneError: as `images`; and no network, where something has to be fetched.
        """
        for split in splits:
            self.check_split(split)

    def is_ready(self, splits: Sequence[str], *, image_size: ImageSize) -> bool:
        """Whether `images` of these splits has nothing left to fetch or decode."""
        return True

    def count(self, splits: Sequence[str]) -> int | None:
        """About how many images these splits hold; None if unknown."""
        return None

    def check_split(self, split: str) -> None:
        """Refuse a split that this source does not have.

        Raises:
            SceneError: naming the splits that there are.
        """
        if split not in self.splits:
            why = "it is a control and only kept, never forgotten" if split == "train" else "it has no such split"
            raise SceneError(f"{self.name} has no split {split!r} ({why}): choose one of {', '.join(self.splits)}.")


class InMemorySource(DataSource):
    """Images that come with the package or one of its libraries: nothing is stored, every machine has the same pixels.

    Attributes:
        size: height and width of the images as they are.
    """

    size: tuple[int, int]
    bytes = 0

    @abstractmethod
    def originals(self, split: str) -> ImageSet:
        """The images of a split as they are, the same object every time."""

    def images(self, split: str, *, image_size: ImageSize, corrupt: str = "refuse") -> ImageSet:
        """The images of a split, resized if they are wanted at another size."""
        self.check_split(split)
        check_corrupt(corrupt)
        transform = as_transform(image_size)
        images = self.originals(split)
        return images if transform.size == self.size else resized(images, transform)


class EncodedSource(DataSource):
    """Encoded images that are decoded once into the cache: what folders and Hub repositories have in common."""

    @property
    @abstractmethod
    def identity(self) -> Json:
        """Plain values that change when the images do.

        Raises:
            SceneError: if there are no images.
        """

    @property
    @abstractmethod
    def layout(self) -> Mapping[str, tuple[str, ...]]:
        """Folder, or split of the Hub -> the splits that are taken from it; the training images' first."""

    @abstractmethod
    def encoded(self, place: str) -> EncodedRows:
        """The images of one folder, or split of the Hub."""

    def rows(self, split: str) -> tuple[EncodedRows, Sequence[int]]:
        """The raw images that a split is taken from, and the split's row numbers in their order."""
        place, splits = next(taken for taken in self.layout.items() if split in taken[1])
        rows = self.encoded(place)
        if splits == (split,):
            return rows, draw_all(len(rows.labels))
        return rows, draw_splits(len(rows.labels), splits[1:], name=self.name)[split]

    def fetch(self) -> None:
        """Download the encoded images that are missing."""

    def cached(self, split: str, image_size: ImageSize) -> DecodedSplit:
        """Cache entry of a split's images, decoded or not."""
        transform = as_transform(image_size)
        return DecodedSplit(self.name, self.text, split, self.identity, transform, self.classes)

    def prepare(
        self,
        splits: Sequence[str],
        *,
        image_size: ImageSize,
        corrupt: str = "refuse",
        on_images: OnImages = lambda done, total: None,
    ) -> None:
        """Fetch what is not here and decode what is not decoded; goes on where an earlier run stopped."""
        super().prepare(splits, image_size=image_size)
        if not self.is_ready(splits, image_size=image_size):
            self.fetch()
        for split in splits:
            self.decode(split, image_size=image_size, corrupt=corrupt, on_images=on_images)

    def is_ready(self, splits: Sequence[str], *, image_size: ImageSize) -> bool:
        """Whether every split is in the cache, whole."""
        return all(self.cached(split, image_size).record() for split in splits)

    def decode(
        self,
        split: str,
        *,
        image_size: ImageSize,
        corrupt: str = "refuse",
        on_images: OnImages = lambda done, total: None,
    ) -> Record:
        """The cache's record of a split, which is decoded first if it is not there (see `DecodedSplit.build`)."""
        self.check_split(split)
        check_corrupt(corrupt)
        return self.cached(split, image_size).build(lambda: self.rows(split), corrupt=corrupt, on_images=on_images)

    def images(self, split: str, *, image_size: ImageSize, corrupt: str = "refuse") -> ImageSet:
        """The split's images, mapped from the cache."""
        record = self.decode(split, image_size=image_size, corrupt=corrupt)
        return self.cached(split, image_size).open(record)

    def numbers(self, labels: Sequence[int]) -> Sequence[int]:
        """The number of every row of the training files: its place, from 0.

        Args:
            labels: of all rows; -1 for an image that was left out.
        """
        return range(len(labels))

    def numbering(self, *, image_size: ImageSize, corrupt: str = "refuse") -> Numbering:
        """Row n of the training files is number n, whatever the order and the split in which the kit has it."""
        first = next(iter(self.layout.values()))
        records = {split: self.decode(split, image_size=image_size, corrupt=corrupt) for split in first}
        labels = [-1] * records["train"].rows
        for record in records.values():
            for row, label in zip(record.indices, record.labels, strict=True):
                labels[row] = label
        numbers = self.numbers(labels)
        numbered = {split: [numbers[row] for row in record.indices] for split, record in records.items()}
        return Numbering(self.name, len(labels), numbered)

    def described(self, split: str, *, image_size: ImageSize, corrupt: str = "refuse") -> Json:
        """Name, split, seed, n, fingerprint, and how to find the very images again.

        The rows of a split that was drawn are listed for `val` and `test` and named by their SHA-256 for `train`, which
        is the rest.
        """
        record = self.decode(split, image_size=image_size, corrupt=corrupt)
        indices = " ".join(map(str, record.indices))
        return {
            "name": self.name,
            "split": split,
            "seed": SEED,
            "n": len(record.labels),
            "fingerprint": record.fingerprint,
            "data": record.identity,
            "transform": record.transform,
            "rows": record.rows,
            "indices_sha256": hashlib.sha256(indices.encode()).hexdigest(),
            **({"indices": indices} if split != "train" else {}),
            "corrupt": list(record.corrupt),
        }

    def noticed(self, split: str, *, image_size: ImageSize, corrupt: str = "refuse") -> dict[str, int]:
        """As the cache's record counts them."""
        return self.decode(split, image_size=image_size, corrupt=corrupt).noticed

    def verify(self, *, image_size: ImageSize) -> dict[str, str | None]:
        """For every split that is decoded at this size: what is wrong with it, or None. Reads every pixel."""
        splits = {split: self.cached(split, image_size) for split in self.splits}
        return {split: cached.problem() for split, cached in splits.items() if cached.file("u8").exists()}


def check_corrupt(policy: str) -> str:
    """The policy for corrupt images, checked.

    Raises:
        ParameterError: for any other word.

    >>> check_corrupt("skip")
    'skip'
    """
    if policy not in CORRUPT:
        raise ParameterError(f"corrupt is {policy!r}: choose {' or '.join(CORRUPT)}.")
    return policy
