"""Scenes: a model, what it should forget and what it should keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from negmerge_kit.data import DataSource, Transform
from negmerge_kit.data.source import check_corrupt
from negmerge_kit.data.transform import check_reading
from negmerge_kit.errors import SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.model_spec import find_model
from negmerge_kit.models.preprocessing import transform_of
from negmerge_kit.scenes.forget_set import Parts
from negmerge_kit.types import Json, Weights

if TYPE_CHECKING:
    import torch

LIVE = 240
"""Images of each side, forget and retain, in the fixed validation subset that sliders score."""

SPLITS = ("train", "val", "test", "live")

READING = {"corrupt": "refuse", "orientation": "stored", "transparency": "stored"}
"""How images are read where a scene does not say; a pool stores only what differs."""


@dataclass(frozen=True, eq=False)
class Splits:
    """One split of a scene: the images to forget and the sets to keep, in the scene's order."""

    forget: ImageSet
    retain: tuple[ImageSet, ...]

    def __iter__(self) -> Iterator[ImageSet]:
        """The forget set, then the retain sets."""
        yield self.forget
        yield from self.retain

    def to(self, device: torch.device | str) -> Splits:
        """The same sets on a device, where they stay resident."""
        return Splits(self.forget.to(device), tuple(images.to(device) for images in self.retain))


@dataclass(frozen=True)
class Scene(ABC):
    """A model, the data to forget and the data to keep, all by name: `ZeroShotScene` or `ClassifierScene`.

    Args:
        name: shown to readers.
        model: a model spec (see `load_model`).
        forget: the data to forget.
        retain: the data to keep, one set or more.
        mode: "standard", or "linear" for tangent models (see `linearize`).
        corrupt: "refuse" or "skip" images that cannot be decoded.
        orientation, transparency: how their pixels are read (see `as_rgb`).

    Attributes:
        own_head: whether the model classifies by its own trained head, or by heads built for each set.

    Raises:
        SceneError: two sets of one name, or a way of reading that does not exist.

    >>> from negmerge_kit.scenes.find import open_scene
    >>> scene = open_scene("tiny:digits")
    >>> scene.forget, scene.retain
    ('digits', ('shapes', 'textures', 'letters', 'symbols', 'arrows', 'colours'))
    >>> live = scene.images("live")
    >>> len(live.forget), [len(images) for images in live.retain]
    (240, [40, 40, 40, 40, 40, 40])
    """

    own_head: ClassVar[bool]

    name: str
    model: str | Json
    forget: str
    retain: tuple[str, ...]
    mode: str = "standard"
    corrupt: str = field(default="refuse", kw_only=True)
    orientation: str = field(default="stored", kw_only=True)
    transparency: str = field(default="stored", kw_only=True)

    def __post_init__(self) -> None:
        check_corrupt(self.corrupt)
        check_reading(self.orientation, self.transparency)
        names = [source.name for source in self.sources]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise SceneError(f"scene {self.name} has two sets called {double!r}: leave one out, or rename its folder.")

    @cached_property
    @abstractmethod
    def sources(self) -> tuple[DataSource, ...]:
        """Sources of the images: the forget set's, then the retain sets'."""

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """The training images of the model, in those to forget and those to keep.

        Raises:
            SceneError: for a scene whose model was trained elsewhere.
        """

    @property
    @abstractmethod
    def trains_base(self) -> bool:
        """Whether the kit trains the model from scratch, because the spec names no weights."""

    @abstractmethod
    def needs(self) -> Iterator[tuple[DataSource, tuple[str, ...]]]:
        """Every source with the splits that a pool of this scene uses."""

    @abstractmethod
    def load(self, *, device: str = "auto", heads: Weights | None = None) -> Classifier:
        """Load the scene's model on a device, with a head for each of its sets.

        Args:
            heads: heads that were built before, as a pool stores them; they take the place of the model's own.

        Raises:
            SceneError: stored heads that are missing, or were built for another model or other classes.
        """

    @abstractmethod
    def untrained(self, *, device: str = "auto", seed: int = 0) -> Classifier:
        """The scene's model as the seed initialises it, whatever weights its spec names.

        Raises:
            SceneError: for a model whose training is not known here.
        """

    @abstractmethod
    def described_further(self) -> Json:
        """Extra values of `describe` for this kind of scene."""

    @cached_property
    def transform(self) -> Transform:
        """Preprocessing of the model, with the way in which pixels are read."""
        return replace(transform_of(self.model), orientation=self.orientation, transparency=self.transparency)

    @property
    def reading(self) -> dict[str, str]:
        """The settings for reading images that differ from the default."""
        return {name: value for name, plain in READING.items() if (value := getattr(self, name)) != plain}

    def images(self, split: str) -> Splits:
        """The images of a split, at the model's size.

        "train" holds what candidates are fine-tuned on and has no retain sets; "val" and "test" hold both sides; "live"
        is the first 240 validation images to forget and as many to keep, from each set in proportion to its size: the
        subset's retention is pooled over the same images as the whole split's.

        Raises:
            SceneError: an unknown split (the message lists the choices), or images that are not prepared.
        """
        if split not in SPLITS:
            raise SceneError(f"split {split!r} of scene {self.name} does not exist: choose one of {', '.join(SPLITS)}.")
        if split == "train":
            return Splits(self._of(self.sources[0], "train"), ())
        if split == "live":
            whole = self.images("val")
            shares = in_proportion([len(images) for images in whole.retain], LIVE)
            kept = (_first(images, share) for images, share in zip(whole.retain, shares, strict=True))
            return Splits(_first(whole.forget, LIVE), tuple(kept))
        forget, *retain = (self._of(source, split) for source in self.sources)
        return Splits(forget, tuple(retain))

    def describe(self) -> Json:
        """Describe the scene for a pool: model, mode, and for every image set its split, seed, n and fingerprint."""
        both = ((source, split) for split in ("val", "test") for source in self.sources)
        wanted = [(self.sources[0], "train"), *both]
        sets = [source.described(split, image_size=self.transform, corrupt=self.corrupt) for source, split in wanted]
        forget, *retain = (source.text for source in self.sources)
        return {
            "name": self.name,
            "model": _findable(self.model),
            "mode": self.mode,
            "forget": forget,
            "retain": retain,
            **self.reading,
            **self.described_further(),
            "sets": sets,
        }

    def require(self, described: Json) -> None:
        """Check that the images here are the very images that a pool was made with.

        Raises:
            SceneError: naming the first difference; make a new pool with this version.
        """
        ours = self.describe()
        if ours == described:
            return
        theirs = {(entry["name"], entry["split"]): entry for entry in described.get("sets", [])}
        changed = [
            f"{entry['name']} ({entry['split']})"
            for entry in ours["sets"]
            if theirs.get((entry["name"], entry["split"])) != entry
        ]
        rest = (
            "its model or its data" if ours.get("training") == described.get("training") else "how its base is trained"
        )
        what = f"the images of {', '.join(changed[:3])}" if changed else rest
        raise SceneError(
            f"scene {self.name} of this pool differs from what this version makes in {what}: "
            "make a new pool, or use the version and the images that made this one."
        )

    def _of(self, source: DataSource, split: str) -> ImageSet:
        return source.images(split, image_size=self.transform, corrupt=self.corrupt)

    def _check_size(self, model: Classifier) -> None:
        if model.image_size != self.transform.size:
            raise SceneError(
                f"{model.spec} takes images of {model.image_size}, but its preprocessing makes "
                f"{self.transform.size}: give another model."
            )


def _findable(model: str | Json) -> str | Json:
    """The model's spec with a weight file by its whole path, so that a pool opens from any folder."""
    spec = find_model(model)
    if spec.pretrained is not None and Path(spec.pretrained).is_file():
        spec = replace(spec, pretrained=str(Path(spec.pretrained).resolve()))
    return spec.as_json()


def arch_of(model: str | Json) -> str:
    """The architecture that a model spec begins with, without a look at its weights.

    >>> arch_of("classifier:tiny"), arch_of({"arch": "ViT-B-32", "pretrained": "openai"})
    ('classifier:tiny', 'ViT-B-32')
    """
    return model if isinstance(model, str) else str(model.get("arch"))


def in_proportion(sizes: Sequence[int], total: int) -> list[int]:
    """`total` shared out in proportion to the sizes, by largest remainders; each gets one at least, none more than it
    has.

    >>> in_proportion([2430, 300], 240), in_proportion([240] * 6, 240), in_proportion([1000, 1], 10)
    ([214, 26], [40, 40, 40, 40, 40, 40], [9, 1])
    """
    whole = sum(sizes)
    if whole <= total:
        return list(sizes)
    shares = [max(1, total * size // whole) for size in sizes]
    rest = sorted(range(len(sizes)), key=lambda at: -(total * sizes[at] % whole))
    for at in rest[: max(0, total - sum(shares))]:
        shares[at] += 1
    return shares


def _first(images: ImageSet, n: int) -> ImageSet:
    return replace(images.take(n), split="live")
