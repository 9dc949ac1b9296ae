"""Partition of a classifier's training images into forget and retain sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch

from negmerge_kit.data.find import find_data
from negmerge_kit.data.source import DataSource
from negmerge_kit.data.splits import Numbering
from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.scenes.published_split import published_split
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "source"
"""Stored with indices that are the source's numbers; without it they count the training images in the kit's order."""

SHARE = 0.1
"""Share of the training images that is forgotten where nothing else is said, as in the field's tables."""


@dataclass(frozen=True)
class Forgetting:
    """Which training images of a data set are to be forgotten: a random share, a class, or a list of indices.

    Indices are the source's own numbers (see `DataSource.numbering`): n is row n of its training files, from 0, before
    any is held out; of a folder the n-th file, classes by name and then files by path; of CIFAR-10 the original's n.

    Args:
        data: DATA whose `train` images the base is trained on; `val` and `test` are never trained on.
        share: of the training images, drawn at random from the seed.
        of_class: all training images of the class of this name; `unseen` then holds no image of it either.
        indices: the very images, by the source's numbers.
        seed: of the draw.
        as_published: repeat the split mismatch of the published protocol (see `published_split`), drawn in the order of
            the source's numbers: of CIFAR-10 the reference code's own indices. Its tables report on the images that
            choose, so nothing is halved.
        halved: whether one half of the forgotten and of the remaining images, drawn from the seed, chooses scales and
            rates and the other half reports, as validation and test images do; not so in pools of version 0.1.

    Raises:
        SceneError: not exactly one way, a share that is not between 0 and 1, an index twice, or `as_published` with
            anything but a share.

    >>> parts = Forgetting("scans").parts(Transform(8, 8))
    >>> [len(images) for images in (parts.seen, parts.forgotten, parts.remaining, parts.validation, parts.test)]
    [1200, 120, 1080, 240, 357]
    """

    data: str
    share: float | None = None
    of_class: str | None = None
    indices: tuple[int, ...] | None = None
    seed: int = 0
    as_published: bool = False
    halved: bool = True

    def __post_init__(self) -> None:
        if self.as_published:
            object.__setattr__(self, "halved", False)
        ways = [way for way in (self.share, self.of_class, self.indices) if way is not None]
        if not ways:
            object.__setattr__(self, "share", SHARE)
        if len(ways) > 1:
            raise SceneError("what to forget is given in more than one way: give one of a share, a class or indices.")
        if self.share is not None and not 0 < self.share < 1:
            raise SceneError(
                f"a share of {self.share} forgets {'nothing' if self.share <= 0 else 'everything'}: give "
                "more than 0 and less than 1, such as 0.1."
            )
        if self.indices is not None and not self.indices:
            raise SceneError("the list of images to forget is empty: give at least one index.")
        if self.indices is not None and (twice := [index for index, k in Counter(self.indices).items() if k > 1]):
            raise SceneError(f"index {twice[0]} is in the list of images to forget twice: name each image once.")
        if self.as_published and self.share is None:
            raise SceneError("the published protocol forgets a random share: give a share, or leave as_published out.")
        if self.seed < self.as_published:
            raise SceneError(
                f"seed {self.seed} cannot be drawn from: give {int(self.as_published)} or more; 2 is the published one."
            )

    @property
    def source(self) -> DataSource:
        """The data that are partitioned."""
        return find_data(self.data)

    @property
    def numbered(self) -> bool:
        """Whether what is forgotten is given by the source's numbers."""
        return self.indices is not None or self.as_published

    @property
    def label(self) -> str:
        """What is forgotten, in a few words.

        >>> Forgetting("cifar10", of_class="cat").label, Forgetting("cifar10", seed=2).label
        ("class 'cat'", 'random 10 % from seed 2')
        """
        if self.of_class is not None:
            return f"class {self.of_class!r}"
        if self.indices is not None:
            return f"{len(self.indices)} chosen images"
        published = ", split as published" if self.as_published else ""
        return f"random {100 * (self.share or 0):g} % from seed {self.seed}{published}"

    def json(self) -> Json:
        """What `from_json` reads back, the data by their commit where they have one; defaults are left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None and value is not False}
        if self.indices is not None:
            values["indices"] = " ".join(map(str, self.indices))
        if self.numbered:
            values["numbering"] = SOURCE
        return {**values, "data": self.source.text}

    @classmethod
    def from_json(cls, values: Json) -> Forgetting:
        """Rebuild a forgetting from the values of `json`.

        >>> Forgetting.from_json(Forgetting("scans", indices=(3, 1)).json()).indices
        (3, 1)
        """
        values = {"halved": False, **values}  # version 0.1 did not say
        indices, numbering = values.pop("indices", None), values.pop("numbering", None)
        try:
            read = cls(**values, indices=None if indices is None else tuple(map(int, str(indices).split())))
        except (TypeError, ValueError) as error:
            raise SceneError(f"what is forgotten cannot be read ({error}): build the pool again.") from error
        if read.numbered and numbering != SOURCE:
            raise SceneError(
                "what this pool forgets is numbered in the kit's own order, as earlier versions did it: "
                "number the images as their source does and build the pool again."
            )
        return read

    def parts(self, transform: Transform, corrupt: str = "refuse") -> Parts:
        """Partition the images, at a model's size; read once per process.

        Raises:
            SceneError: a class or an index that the training images do not have, or nothing or everything to forget.
        """
        return _parts(self, transform, corrupt)


class Parts:
    """The five image sets of a forgetting; each is gathered when it is first asked for, and no other with it.

    Attributes:
        places: of the forgotten images in the partitioned set.
        indices: of the forgotten images, as a pool stores them: the source's numbers where the forgetting is
            `numbered`, else their places.
        never_seen: how many images to forget the base was never shown; 0 but for the split as published.
    """

    def __init__(self, forgetting: Forgetting, transform: Transform, corrupt: str) -> None:
        def images(split: str) -> ImageSet:
            return forgetting.source.images(split, image_size=transform, corrupt=corrupt)

        self._known, held, self._of_class = images("train"), None, None
        count = len(self._known)
        numbering = (
            forgetting.source.numbering(image_size=transform, corrupt=corrupt)
            if forgetting.numbered
            else Numbering(forgetting.data, count, {"train": range(count)})
        )
        numbers = torch.tensor(numbering.splits["train"])
        if forgetting.as_published:
            # The protocol draws its own validation images from all, in the source's order: the kit's go back first.
            if "val" in numbering.splits:
                self._known = _joined(self._known, images("val"))
                numbers = torch.cat([numbers, torch.tensor(numbering.splits["val"])])
            numbers, order = numbers.sort()
            self._known, count = self._known.at(order), len(order)
            split = published_split(self._known.labels, share=forgetting.share or SHARE, seed=forgetting.seed)
            self._seen, self.places, self._remaining, held = split
        else:
            if forgetting.of_class is not None:
                self._of_class = _class_number(forgetting.of_class, self._known.classes)
            self._seen = torch.arange(count)
            self.places = _forgotten(forgetting, self._known.labels, self._of_class, numbering)
            left = torch.ones(count, dtype=torch.bool)
            left[self.places] = False
            self._remaining = left.nonzero().flatten()
        if not len(self.places) or not len(self._remaining):
            what = "nothing" if not len(self.places) else "everything"
            raise SceneError(f"{forgetting.label} of {count} training images is {what}: choose some, but not all.")
        self.indices: list[int] = numbers[self.places].sort().values.tolist()
        self.never_seen = int((~torch.isin(self.places, self._seen)).sum())
        self._held, self._images = held, images
        self._forgetting, self._halves = forgetting, dict[tuple[str, str], ImageSet]()

    def half(self, name: str, split: str) -> Tensor | None:
        """Places of the `forgotten` or `remaining` images that a split asks about, of all of these, ascending.

        One half, drawn from the seed, on `val`, where scales and rates are chosen, and the rest on `test`. None where
        all are asked: on `train`, where the forgetting is not `halved`, and where one image cannot be halved.
        """
        n = len(self.places if name == "forgotten" else self._remaining)
        if split == "train" or not self._forgetting.halved or n < 2:
            return None
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self._forgetting.seed))
        return (order[: n // 2] if split == "val" else order[n // 2 :]).sort().values

    def on(self, name: str, split: str) -> ImageSet:
        """The `forgotten` or `remaining` images that a split asks about, labelled by it (see `half`)."""
        if (name, split) not in self._halves:
            whole, half = getattr(self, name), self.half(name, split)
            chosen = whole if half is None else whole.at(half)
            self._halves[name, split] = replace(chosen, split=split, known=chosen.fingerprint())
        return self._halves[name, split]

    @cached_property
    def seen(self) -> ImageSet:
        """What the base is trained on."""
        return self._taken("seen", self._seen)

    @cached_property
    def forgotten(self) -> ImageSet:
        """D_f: what is to be forgotten."""
        return self._taken("forgotten", self.places)

    @cached_property
    def remaining(self) -> ImageSet:
        """D_r: the training images that are kept."""
        return self._taken("remaining", self._remaining)

    @cached_property
    def validation(self) -> ImageSet:
        """Images that nothing is trained on, for choosing."""
        if self._held is not None:
            return self._taken("unseen", self._held, "val")
        return self._unseen("val")

    @cached_property
    def test(self) -> ImageSet:
        """Images that nothing is trained on and nothing is chosen by."""
        return self._unseen("test")

    def _taken(self, name: str, places: Tensor, split: str = "train") -> ImageSet:
        known = self._known
        taken = ImageSet(name, known.images[places], known.labels[places], known.classes, split)
        return replace(taken, known=taken.fingerprint())

    def _unseen(self, split: str) -> ImageSet:
        """A held-out split, without the forgotten class: to know it would be no merit."""
        images = replace(self._images(split), name="unseen")
        if self._of_class is None:
            return images
        others = (images.labels != self._of_class).nonzero().flatten()
        return images.at(others)


@lru_cache(maxsize=4)
def _parts(forgetting: Forgetting, transform: Transform, corrupt: str) -> Parts:
    return Parts(forgetting, transform, corrupt)


def _forgotten(forgetting: Forgetting, labels: Tensor, of_class: int | None, numbering: Numbering) -> Tensor:
    """Places of the images to forget, ascending."""
    if of_class is not None:
        return (labels == of_class).nonzero().flatten()
    if forgetting.indices is not None:
        return torch.tensor(sorted(numbering.places(forgetting.indices)), dtype=torch.int64)
    count, generator = len(labels), torch.Generator().manual_seed(forgetting.seed)
    return torch.randperm(count, generator=generator)[: round((forgetting.share or SHARE) * count)].sort().values


def _class_number(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise SceneError(
            f"class {name!r} is not among the data's: choose one of {', '.join(classes[:20])}"
            f"{' …' if len(classes) > 20 else ''}."
        )
    return classes.index(name)


def _joined(first: ImageSet, second: ImageSet) -> ImageSet:
    return replace(
        first,
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels]),
        known=None,
    )
