"""Scenes: a model, what it should forget and what it should keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negmerge_kit.checkpoints.pool import RECORD, open_pool
from negmerge_kit.errors import SceneError
from negmerge_kit.outside import is_plain_file, shortened
from negmerge_kit.types import MODES, Json, Weights
from negmerge_kit.vision.clip import Classifier
from negmerge_kit.vision.data import DataSource, Transform, find_data
from negmerge_kit.vision.data.scans import SCANS
from negmerge_kit.vision.data.source import SPLITS as SPLITS_OF_DATA
from negmerge_kit.vision.data.source import check_corrupt
from negmerge_kit.vision.data.transform import check_reading
from negmerge_kit.vision.families import FAMILIES, find_family
from negmerge_kit.vision.forgetting import Forgetting
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.model_spec import CLASSIFIER, TIMM, find_model
from negmerge_kit.vision.parted import PARTS, PartedSource
from negmerge_kit.vision.preprocessing import transform_of
from negmerge_kit.vision.scene_file import READING, read_scene
from negmerge_kit.vision.scene_model import load_scene_model, untrained_scene_model

if TYPE_CHECKING:
    import torch

TINY_CLASSIFIER = "tiny-classifier"

LIVE = 240
"""Images of each side, forget and retain, in the fixed validation subset that sliders score."""

SPLITS = ("train", "val", "test", "live")


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
class Scene:
    """A model, the data to forget and the data to keep, all by name.

    Args:
        name: how people call it.
        model: a model spec (see `load_model`).
        forget: DATA (see `find_data`).
        retain: one or more DATA.
        mode: "standard", or "linear" for tangent models (see `linearize`).
        corrupt: "refuse" or "skip" images that cannot be decoded.
        orientation, transparency: how their pixels are read (see `as_rgb`).
        forgetting: how one data set is parted, where the model is a standard classifier; forget and retain are then
            the PARTS.
        training: how such a model's base is trained, as a recipe's plain values, where not as by default.

    Raises:
        SceneError: an unknown mode, nothing to keep, or two sets of one name.

    >>> scene = open_scene("tiny:digits")
    >>> scene.forget, scene.retain
    ('digits', ('shapes', 'textures', 'letters', 'symbols', 'arrows', 'colours'))
    >>> live = scene.images("live")
    >>> len(live.forget), [len(images) for images in live.retain]
    (240, [40, 40, 40, 40, 40, 40])
    """

    name: str
    model: str | dict[str, str | None]
    forget: str
    retain: tuple[str, ...]
    mode: str = "standard"
    corrupt: str = "refuse"
    forgetting: Forgetting | None = None
    training: Json | None = None
    orientation: str = "stored"
    transparency: str = "stored"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SceneError(
                f"mode {shortened(self.mode)} of scene {self.name} is not known: choose {' or '.join(MODES)}."
            )
        check_corrupt(self.corrupt)
        check_reading(self.orientation, self.transparency)
        if not self.retain:
            raise SceneError(f"scene {self.name} names nothing to keep: give at least one retain set.")
        arch = self.model if isinstance(self.model, str) else str(self.model.get("arch"))
        if (self.forgetting is not None) != arch.startswith(CLASSIFIER) or (
            self.forgetting and ((self.forget, *self.retain) != tuple(PARTS) or self.mode != "standard")
        ):
            raise SceneError(
                f"scene {self.name} is not one of a standard classifier: such a scene has a model "
                f'"classifier:NAME", data that are parted into {", ".join(PARTS)}, and mode "standard".'
            )
        names = [source.name for source in self.sources]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise SceneError(f"scene {self.name} has two sets called {double!r}: leave one out, or rename its folder.")

    @cached_property
    def sources(self) -> tuple[DataSource, ...]:
        """Where the images come from: the forget set's source, then the retain sets'."""
        if self.forgetting is not None:
            return tuple(PartedSource(name, self.forgetting) for name in PARTS)
        return tuple(find_data(text) for text in (self.forget, *self.retain))

    @cached_property
    def transform(self) -> Transform:
        """What the model wants its images to look like, and how their pixels are read."""
        return replace(transform_of(self.model), orientation=self.orientation, transparency=self.transparency)

    @property
    def reading(self) -> dict[str, str]:
        """How images are read, where not as by default."""
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

    def needs(self) -> Iterator[tuple[DataSource, tuple[str, ...]]]:
        """Every source with the splits that a pool of this scene uses: what is only kept trains no candidate.

        A model without a text tower builds every head from training images.
        """
        if self.forgetting is not None:
            yield self.forgetting.source, SPLITS_OF_DATA
            return
        text = not find_model(self.model).arch.startswith(TIMM)
        for number, source in enumerate(self.sources):
            yield source, ("val", "test") if number and text else ("train", "val", "test")

    def _of(self, source: DataSource, split: str) -> ImageSet:
        return source.images(split, image_size=self.transform, corrupt=self.corrupt)

    def load(self, *, device: str = "auto", heads: Weights | None = None) -> Classifier:
        """The scene's model on a device, with a head for each of its sets; linear if the scene is.

        A head is built from class names and prompts or, without a text tower, from the set's training images; a
        standard classifier brings its own.

        Args:
            heads: heads that were built before, as a pool stores them; they take the place of the model's own.

        Raises:
            SceneError: stored heads that are missing, or were built for another model or other classes.
        """
        return load_scene_model(self, device=device, heads=heads)

    def untrained(self, *, device: str = "auto", seed: int = 0) -> Classifier:
        """The scene's standard classifier as the seed initialises it, whatever weights its spec names.

        Raises:
            SceneError: for a scene of another model; how its base was trained is not known here.
        """
        return untrained_scene_model(self, device=device, seed=seed)

    # --- what a pool stores ---------------------------------------------------------------------

    def describe(self) -> Json:
        """What a pool stores of its scene: model, mode, and for every image set its split, seed, n and fingerprint."""
        both = ((source, split) for split in ("val", "test") for source in self.sources)
        wanted = [(self.sources[0], "train"), *both]
        sets = [source.described(split, image_size=self.transform, corrupt=self.corrupt) for source, split in wanted]
        forget, *retain = (source.text for source in self.sources)
        extra: Json = {**self.reading}
        if self.forgetting is not None:
            extra["forgetting"] = self.forgetting.json()
        if self.training is not None:
            extra["training"] = self.training
        return {
            "name": self.name,
            "model": _findable(self.model),
            "mode": self.mode,
            "forget": forget,
            "retain": retain,
            **extra,
            "sets": sets,
        }

    @classmethod
    def from_json(cls, described: Json) -> Scene:
        """The scene that `describe` told of; `require` tells whether its images are still the same.

        Raises:
            SceneError: a description that lacks something, or names data that this version does not know.

        >>> Scene.from_json(open_scene("tiny:arrows").describe()) == open_scene("tiny:arrows")
        True
        """
        try:
            texts: dict[str, Any] = {key: described[key] for key in ("name", "model", "forget", "mode")}
            parted = described.get("forgetting")
            return cls(
                **texts,
                retain=tuple(described["retain"]),
                training=described.get("training"),
                forgetting=Forgetting.from_json(parted) if parted else None,
                **{name: described.get(name, plain) for name, plain in READING.items()},
            )
        except (KeyError, TypeError) as error:
            raise SceneError(f"the description of a scene lacks {error}: build the pool anew.") from error

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


def parted_scene(
    name: str,
    model: str | dict[str, str | None],
    forgetting: Forgetting,
    *,
    training: Json | None = None,
    **reading: str,
) -> Scene:
    """The scene of a standard classifier that forgets a part of its training images; `reading` as READING.

    What repeats the published split says so in its name, and so on every result.

    >>> parted_scene("random", "classifier:tiny", Forgetting("scans", seed=2, as_published=True)).name
    'random (split as published)'
    """
    forget, *retain = PARTS
    told = f"{name} (split as published)" if forgetting.as_published else name
    return Scene(told, model, forget, tuple(retain), forgetting=forgetting, training=training, **reading)


def open_scene(text: str | Path) -> Scene:
    """The scene of that name.

    Args:
        text: "tiny:FAMILY" forgets one embedded family and keeps the six others; "tiny-classifier" forgets a tenth of
            what a small network was trained on; a pool folder's own scene; or a
            FILE.toml with model, forget, retain and, if wanted, name, mode and how images are read (see `read_scene`).

    Raises:
        SceneError: an unknown scene or family (the message lists the choices), or a file that does not describe one.
        PoolError: a pool that cannot be read.
    """
    path = Path(text)
    kind, _, family = str(text).partition(":")
    if str(text) == TINY_CLASSIFIER:
        return parted_scene(TINY_CLASSIFIER, "classifier:tiny", Forgetting(SCANS))
    if kind == "tiny":
        forget = find_family(family).name
        return Scene(f"tiny:{forget}", "tiny", forget, tuple(name for name in FAMILIES if name != forget))
    if is_plain_file(path / RECORD):
        return Scene.from_json(open_pool(path).scene)
    if path.suffix == ".toml":
        told = read_scene(path)
        return parted_scene(**told) if "forgetting" in told else Scene(**told)
    choices = ", ".join((*(f"tiny:{name}" for name in FAMILIES), TINY_CLASSIFIER))
    raise SceneError(f"scene {str(text)!r} does not exist: choose one of {choices}, a pool folder, or a FILE.toml.")


def _findable(model: str | dict[str, str | None]) -> str | dict[str, str | None]:
    """The model's spec with a weight file by its whole path, so that a pool opens from any folder."""
    spec = find_model(model)
    if spec.pretrained is not None and Path(spec.pretrained).is_file():
        spec = replace(spec, pretrained=str(Path(spec.pretrained).resolve()))
    return spec.as_json()


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
