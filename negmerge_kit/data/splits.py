"""Rows of each split, and the source's numbers of the training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from negmerge_kit.errors import SceneError

VALIDATION_SHARE = 0.1
VALIDATION_AT_MOST = 5000
SEED = 0

FEW = 10
"""Numbers that a message lists at most."""
HELD_FOR = {"val": "validation, where every scale is chosen", "test": "the test"}

CIFAR10_BATCHES = (
    "69941127834772999326",
    "16688346060366548326",
    "85069283627469007372",
    "06027212415663135581",
    "18515743827201596208",
)
"""The first twenty labels of CIFAR-10's `data_batch_1` to `data_batch_5`."""


def draw_splits(n: int, held: Sequence[str] = ("val",), *, name: str) -> dict[str, list[int]]:
    """The authors' validation rule: a tenth of the training images, at most 5,000, by torch's generator from seed 0.

    `random_split(range(n), [n - size, size], generator=Generator().manual_seed(0))`: the same images as their `XVal`
    sets (src/datasets/registry.py of task_vectors). Where a data set has no test images, as many again are held out for
    them, before those for validation.

    Args:
        n: how many training images there are.
        held: the splits to hold out, "val" first.
        name: of the data, for messages.

    Raises:
        SceneError: fewer than ten images, of which a tenth would be none.

    >>> {split: rows[:3] for split, rows in draw_splits(60000, name="mnist").items()}
    {'train': [36044, 10678, 57327], 'val': [30102, 43764, 35133]}
    """
    size = min(int(n * VALIDATION_SHARE), VALIDATION_AT_MOST)
    if size < 1:
        raise SceneError(
            f"{name} has {n} images, of which a tenth cannot be held out for validation: give at least "
            "10, or sub-folders train, val and test."
        )
    order = draw_all(n)
    ends = {split: n - size * number for number, split in enumerate(held)}
    return {"train": order[: n - size * len(held)], **{split: order[end - size : end] for split, end in ends.items()}}


def draw_all(n: int) -> list[int]:
    """All rows in the order that torch's generator draws from seed 0: any leading part holds all classes alike."""
    import torch

    order: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(SEED)).tolist()
    return order


@dataclass(frozen=True)
class Numbering:
    """The source's number of every image of a split.

    Args:
        name: of the data, for messages.
        total: how many images the source numbers, from 0.
        splits: the numbers of the images in "train", in their order there, and in every split that is drawn from the
            same files; a split that has separate files is not among them.

    >>> Numbering("pets", 6, {"train": (4, 0, 5, 1), "val": (2,)}).places([5, 4])
    [2, 0]
    """

    name: str
    total: int
    splits: Mapping[str, Sequence[int]]

    def places(self, numbers: Sequence[int]) -> list[int]:
        """Where in "train" the images of these numbers are.

        Raises:
            SceneError: a number that the source does not have, that is held out, or whose image was left out.
        """
        if wrong := [number for number in numbers if not 0 <= number < self.total]:
            raise SceneError(
                f"index {wrong[0]} is not among the {self.total} images of {self.name}: number them from "
                f"0 to {self.total - 1}, in the order of the training files."
            )
        place = {number: place for place, number in enumerate(self.splits["train"])}
        for split, purpose in HELD_FOR.items():
            there = set(self.splits.get(split, ()))
            if held := [number for number in numbers if number in there]:
                listed = f"{', '.join(map(str, held[:FEW]))}{' …' if len(held) > FEW else ''}"
                raise SceneError(
                    f"{len(held)} of the {len(numbers)} images to forget are held out for {purpose} "
                    f"(indices {listed}): remove them from the list."
                )
        if lost := [number for number in numbers if number not in place]:
            raise SceneError(
                f"index {lost[0]} of {self.name} is an image that cannot be decoded: remove it from the "
                "list, or mend the image."
            )
        return [place[number] for number in numbers]


def original_numbers(labels: Sequence[int]) -> list[int]:
    """The place of every row of CIFAR-10 as its authors, torchvision and the unlearning literature number it.

    They count through its training batches from 1 to 5. The Hub's file holds them in the order of
    `cifar-10-python.tar.gz`: 4, 3, 2, 5, 1. Which one begins where is read from the labels, whatever the order.

    Args:
        labels: of all training rows; -1 for an image that was left out.

    Raises:
        SceneError: rows that do not consist of the five batches.

    >>> rows = [int(label) for number in (4, 3, 2, 5, 1) for label in CIFAR10_BATCHES[number - 1]]
    >>> original_numbers(rows)[:3], original_numbers(rows)[-1]
    ([60, 61, 62], 19)
    """
    size, rest = divmod(len(labels), len(CIFAR10_BATCHES))
    starts = range(0, len(labels) - rest, max(size, 1))
    batches = [_cifar10_batch(labels[start : start + len(CIFAR10_BATCHES[0])]) for start in starts]
    if sorted(batches) != list(range(len(CIFAR10_BATCHES))) or rest:
        raise SceneError(
            "the training rows of cifar10 are not its five batches, so the numbers of its images are not known: "
            "use hf:uoft-cs/cifar10, of which the rows of the Hub's file are counted."
        )
    return [batch * size + row for batch in batches for row in range(size)]


def _cifar10_batch(begins: Sequence[int]) -> int:
    """Which batch has these first labels; -1 if none has, or more than one might."""
    fits = [
        number
        for number, batch in enumerate(CIFAR10_BATCHES)
        if len(begins) == len(batch)
        and all(label in (-1, int(known)) for label, known in zip(begins, batch, strict=True))
    ]
    return fits[0] if len(fits) == 1 else -1
