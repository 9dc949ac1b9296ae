"""The three sets of a classifier's scene as data: `forgotten`, `remaining`, `unseen`."""

from __future__ import annotations

from collections.abc import Sequence

from negmerge_kit.data.decoded_cache import OnImages
from negmerge_kit.data.source import SPLITS, DataSource
from negmerge_kit.data.transform import Transform, as_transform
from negmerge_kit.image_set import ImageSet
from negmerge_kit.scenes.forget_set import SOURCE, Forgetting
from negmerge_kit.types import Json

PARTS = {
    "forgotten": "training images to forget; one half of them in val, the other in test",
    "remaining": "training images that are kept; one half of them in val, the other in test",
    "unseen": "images that nothing is trained on",
}
"""The sets of a partitioned scene, the one to forget first."""


class PartedSource(DataSource):
    """One of the PARTS of a forgetting.

    >>> part = PartedSource("unseen", Forgetting("scans", of_class="7"))
    >>> part.splits, len(part.images("test", image_size=8))
    (('val', 'test'), 322)
    """

    def __init__(self, name: str, forgetting: Forgetting) -> None:
        self.text = self.name = name
        self.forgetting, self.whole = forgetting, forgetting.source
        self.title = f"{PARTS[name]} ({self.whole.title}; {forgetting.label})"
        self.licence, self.homepage, self.flips = self.whole.licence, self.whole.homepage, self.whole.flips
        self.names_from, self.bytes = self.whole.names_from, self.whole.bytes
        self.splits = ("val", "test") if name == "unseen" else SPLITS

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the whole."""
        return self.whole.classes

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts of the whole."""
        return self.whole.templates

    def images(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> ImageSet:
        """The part's images, labelled by the split that they are asked for."""
        self.check_split(split)
        parts = self.forgetting.parts(as_transform(image_size), corrupt)
        if self.name == "unseen":
            return parts.validation if split == "val" else parts.test
        return parts.on(self.name, split)

    def described(self, split: str, *, image_size: int | tuple[int, int] | Transform, corrupt: str = "refuse") -> Json:
        """Name, split, seed, n and fingerprint; of what candidates are trained on, the indices too.

        They are the source's numbers where `numbering` says so, else places in the kit's order of the training images.
        """
        images = self.images(split, image_size=image_size, corrupt=corrupt)
        record: Json = {
            "name": self.name,
            "split": split,
            "seed": self.forgetting.seed,
            "n": len(images),
            "fingerprint": images.fingerprint(),
        }
        if split == "train":
            indices = self.forgetting.parts(as_transform(image_size), corrupt).indices
            record["indices"] = " ".join(map(str, indices))
            if self.forgetting.numbered:
                record["numbering"] = SOURCE
        return record

    def prepare(
        self,
        splits: Sequence[str],
        *,
        image_size: int | tuple[int, int] | Transform,
        corrupt: str = "refuse",
        on_images: OnImages = lambda done, total: None,
    ) -> None:
        """Prepare the whole: every part is taken from it."""
        self.whole.prepare(SPLITS, image_size=image_size, corrupt=corrupt, on_images=on_images)

    def is_ready(self, splits: Sequence[str], *, image_size: int | tuple[int, int] | Transform) -> bool:
        """Whether the whole is ready."""
        return self.whole.is_ready(SPLITS, image_size=image_size)
