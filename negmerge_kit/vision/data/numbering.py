"""The numbers that people know training images by: rows of the source's files, whatever split each fell into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from negmerge_kit.errors import SceneError

FEW = 10
"""So many numbers a message lists."""

HELD_FOR = {"val": "validation, where every scale is chosen", "test": "the test"}


@dataclass(frozen=True)
class Numbering:
    """The source's number of every image of a split.

    Args:
        name: of the data, for messages.
        total: how many images the source numbers, from 0.
        splits: the numbers of the images in "train", in their order there, and in every split that is drawn from the
            same files; a split that has files of its own is not among them.

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
                told = f"{', '.join(map(str, held[:FEW]))}{' …' if len(held) > FEW else ''}"
                raise SceneError(
                    f"{len(held)} of the {len(numbers)} images to forget are held out for {purpose} "
                    f"(indices {told}): remove them from the list."
                )
        if lost := [number for number in numbers if number not in place]:
            raise SceneError(
                f"index {lost[0]} of {self.name} is an image that cannot be decoded: remove it from the "
                "list, or mend the image."
            )
        return [place[number] for number in numbers]
