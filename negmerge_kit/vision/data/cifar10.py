"""CIFAR-10's own order: people count through its training batches from 1 to 5; the Hub's file need not hold them so.

The script that made the Hub's file reads the batches as they lie in `cifar-10-python.tar.gz`: 4, 3, 2, 5, 1. Which one
begins where is read from the labels here, so that the numbers are torchvision's however the batches lie.
"""

from __future__ import annotations

from collections.abc import Sequence

from negmerge_kit.errors import SceneError

BATCHES = (
    "69941127834772999326",
    "16688346060366548326",
    "85069283627469007372",
    "06027212415663135581",
    "18515743827201596208",
)
"""The first twenty labels of `data_batch_1` to `data_batch_5`."""


def original_numbers(labels: Sequence[int]) -> list[int]:
    """The place of every row in the data set as its authors, torchvision and the unlearning literature number it.

    Args:
        labels: of all training rows; -1 for an image that was left out.

    Raises:
        SceneError: rows that do not consist of the five batches.

    >>> rows = [int(label) for number in (4, 3, 2, 5, 1) for label in BATCHES[number - 1]]
    >>> original_numbers(rows)[:3], original_numbers(rows)[-1]
    ([60, 61, 62], 19)
    """
    size = len(labels) // len(BATCHES)
    found = [_batch(labels[start : start + len(BATCHES[0])]) for start in range(0, size * len(BATCHES), max(size, 1))]
    if sorted(found) != list(range(len(BATCHES))) or len(labels) != size * len(BATCHES):
        raise SceneError(
            "the training rows of cifar10 are not its five batches, so its images cannot be told by their "
            "numbers: use hf:uoft-cs/cifar10, of which the rows of the Hub's file are counted."
        )
    return [batch * size + row for batch in found for row in range(size)]


def _batch(begins: Sequence[int]) -> int:
    """Which batch has these first labels; -1 if none has."""
    fits = [
        number
        for number, batch in enumerate(BATCHES)
        if len(begins) == len(batch)
        and all(label in (-1, int(known)) for label, known in zip(begins, batch, strict=True))
    ]
    return fits[0] if len(fits) == 1 else -1
