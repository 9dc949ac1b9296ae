"""The raw material of a data set: labelled, encoded images in a fixed order, and which of them make which split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from negmerge_kit.errors import SceneError

VALIDATION_SHARE = 0.1
VALIDATION_AT_MOST = 5000
SEED = 0


class Rows(Protocol):
    """Labelled images in a fixed order; `labels` knows them all, `read` gives encoded bytes one after another."""

    @property
    def labels(self) -> Sequence[int]:
        """The class number of every image."""
        ...

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """For row numbers in ascending order: a name that a user can find the image by, and how to get its bytes."""
        ...


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
