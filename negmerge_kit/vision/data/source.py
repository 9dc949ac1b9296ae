"""What every set of labelled images answers, wherever its images come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from negmerge_kit.errors import ParameterError, SceneError
from negmerge_kit.types import Json
from negmerge_kit.vision.data.numbering import Numbering

if TYPE_CHECKING:
    from negmerge_kit.vision.data.transform import Transform
    from negmerge_kit.vision.images import ImageSet

SPLITS = ("train", "val", "test")
"""Candidates learn from `train`, scales are chosen on `val`, results are told on `test`."""

CORRUPT = ("refuse", "skip")
"""What to do with an image that cannot be decoded: refuse the data set, or count, name and leave it out."""

PLAIN_TEMPLATES = ("a photo of a {}.",)
"""The prompt for classes of which nothing is known but their names (CLIP's own first template)."""


OnSplit = Callable[[str, int, int], None]
"""Told while images are decoded: the split, how many are done, of how many."""


class DataSource(ABC):
    """A named set of labelled images in three splits.

    Attributes:
        text: what `find_data` reads back, with the revision if there is one.
        name: its short name, which the head that classifies it has too.
        title, licence, homepage: what people want to know before they use it.
        names_from: where the class names come from.
        bytes: about how much has to be fetched; None if nobody has said.
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
    @abstractmethod
    def templates(self) -> tuple[str, ...]:
        """Prompt templates with one `{}` each."""

    @abstractmethod
    def images(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> ImageSet:
        """The images of a split at a size: uint8, memory-mapped where they are many.

        Args:
            split: "train", "val" or "test".
            image_size: CLIP's preprocessing to that size, or a model's own Transform.
            corrupt: "refuse" or "skip" images that cannot be decoded.

        Raises:
            SceneError: a split that does not exist, images that are not there or cannot be read.
        """

    def numbering(self, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> Numbering:
        """By which numbers people know the training images: their places, where nothing else is known."""
        count = len(self.images("train", image_size=image_size, corrupt=corrupt))
        return Numbering(self.name, count, {"train": range(count)})

    @abstractmethod
    def described(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> Json:
        """What a pool stores of a split: name, split, seed, n, fingerprint, and where it came from."""

    def noticed(
        self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse"
    ) -> dict[str, int]:
        """How many images of a split have what is left out unless it is asked for (see `Noticed`); none where drawn."""
        return {}

    def prepare(
        self,
        splits: Sequence[str],
        *,
        image_size: int | tuple[int, int] | Transform,
        corrupt: str = "refuse",
        on_images: OnSplit = lambda split, done, total: None,
    ) -> None:
        """Fetch what is not here and decode what is not decoded, so that `images` only opens; drawn data need neither.

        Raises:
            SceneError: as `images`; and no network, where something has to be fetched.
        """
        for split in splits:
            self.check_split(split)

    def is_ready(self, splits: Sequence[str], *, image_size: int | tuple[int, int] | Transform) -> bool:
        """Whether `images` of these splits has nothing left to fetch or decode."""
        return True

    def count(self, splits: Sequence[str]) -> int | None:
        """About how many images these splits hold; None if nobody has said."""
        return None

    def check_split(self, split: str) -> None:
        """Refuse a split that this source does not have.

        Raises:
            SceneError: naming the splits that there are.
        """
        if split not in self.splits:
            why = "it is a control and only kept, never forgotten" if split == "train" else "it has no such split"
            raise SceneError(f"{self.name} has no split {split!r} ({why}): choose one of {', '.join(self.splits)}.")


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
