"""Scenes: a model, what it shall forget and what it shall keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negmerge_kit.checkpoints.pool import RECORD, open_pool
from negmerge_kit.errors import SceneError
from negmerge_kit.types import Json, Weights
from negmerge_kit.vision.clip import Classifier, load_model
from negmerge_kit.vision.data import DataSource, Transform, find_data, transform_of
from negmerge_kit.vision.data.source import check_corrupt
from negmerge_kit.vision.families import FAMILIES, find_family
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.model_spec import TIMM, find_model
from negmerge_kit.vision.scene_file import read_scene

if TYPE_CHECKING:
    import torch

LIVE = 240
"""Images of each side, forget and retain, in the fixed validation subset that sliders score."""

SPLITS = ("train", "val", "test", "live")
MODES = ("standard", "linear")


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

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SceneError(f"mode {self.mode!r} of scene {self.name} is not known: choose {' or '.join(MODES)}.")
        check_corrupt(self.corrupt)
        if not self.retain:
            raise SceneError(f"scene {self.name} names nothing to keep: give at least one retain set.")
        names = [source.name for source in self.sources]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise SceneError(f"scene {self.name} has two sets called {double!r}: leave one out, or rename its folder.")

    @cached_property
    def sources(self) -> tuple[DataSource, ...]:
        """Where the images come from: the forget set's source, then the retain sets'."""
        return tuple(find_data(text) for text in (self.forget, *self.retain))

    @cached_property
    def transform(self) -> Transform:
        """What the model wants its images to look like."""
        return transform_of(self.model)

    def images(self, split: str) -> Splits:
        """The images of a split, at the model's size.

        "train" holds what candidates are fine-tuned on and has no retain sets; "val" and "test" hold both sides; "live"
        is the first 240 validation images to forget and as many to keep, the same number from each set.

        Raises:
            SceneError: an unknown split (the message lists the choices), or images that are not prepared.
        """
        if split not in SPLITS:
            raise SceneError(f"split {split!r} of scene {self.name} does not exist: choose one of {', '.join(SPLITS)}.")
        if split == "train":
            return Splits(self._of(self.sources[0], "train"), ())
        if split == "live":
            whole = self.images("val")
            share = max(1, LIVE // len(self.retain))
            return Splits(_first(whole.forget, LIVE), tuple(_first(images, share) for images in whole.retain))
        forget, *retain = (self._of(source, split) for source in self.sources)
        return Splits(forget, tuple(retain))

    def needs(self) -> Iterator[tuple[DataSource, tuple[str, ...]]]:
        """Every source with the splits that a pool of this scene uses: what is only kept trains no candidate.

        A model without a text tower builds every head from training images.
        """
        text = not find_model(self.model).arch.startswith(TIMM)
        for number, source in enumerate(self.sources):
            yield source, ("val", "test") if number and text else ("train", "val", "test")

    def _of(self, source: DataSource, split: str) -> ImageSet:
        return source.images(split, image_size=self.transform, corrupt=self.corrupt)

    def load(self, *, device: str = "auto", heads: Weights | None = None) -> Classifier:
        """The scene's model on a device, with a head for each of its sets; linear if the scene is.

        A head is built from class names and prompts or, without a text tower, from the set's training images.

        Args:
            heads: heads that were built before, as a pool stores them; they take the place of the model's own.

        Raises:
            SceneError: stored heads that are missing, or were built for another model or other classes.
        """
        model = load_model(self.model, device=device)
        if heads is not None:
            self._adopt(model, heads)
        else:
            for source in self.sources:
                if model.classes.get(source.name) == source.classes:
                    continue
                if model.has_text:
                    model.add_head(source.name, source.classes, source.templates)
                else:
                    model.add_prototypes(self._of(source, "train"))
        if model.image_size != self.transform.size:
            raise SceneError(f"{model.spec} takes images of {model.image_size}, but its preprocessing makes "
                             f"{self.transform.size}: give another model.")
        if self.mode == "linear":
            from negmerge_kit.vision.linearized import linearize

            return linearize(model)
        return model

    def _adopt(self, model: Classifier, heads: Weights) -> None:
        width = int(model.features(_blank(model)).shape[1])
        for source in self.sources:
            head = heads.get(source.name)
            found = "missing" if head is None else list(head.shape)
            if found != [len(source.classes), width]:
                raise SceneError(
                    f"the head {source.name!r} is {found}, but {len(source.classes)} classes and {width} features of "
                    f"{model.spec} need [{len(source.classes)}, {width}]: it was built for another model or data set; "
                    "build the pool anew.")
        model.heads = {name: head.to(model.device) for name, head in heads.items()}
        model.classes |= {source.name: source.classes for source in self.sources}

    # --- what a pool stores ---------------------------------------------------------------------

    def describe(self) -> Json:
        """What a pool stores of its scene: model, mode, and for every image set its split, seed, n and fingerprint."""
        both = ((source, split) for split in ("val", "test") for source in self.sources)
        wanted = [(self.sources[0], "train"), *both]
        sets = [source.described(split, image_size=self.transform, corrupt=self.corrupt) for source, split in wanted]
        forget, *retain = (source.text for source in self.sources)
        extra = {} if self.corrupt == "refuse" else {"corrupt": self.corrupt}
        return {"name": self.name, "model": _findable(self.model), "mode": self.mode, "forget": forget,
                "retain": retain, **extra, "sets": sets}

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
            return cls(**texts, retain=tuple(described["retain"]), corrupt=described.get("corrupt", "refuse"))
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
        changed = [f"{entry['name']} ({entry['split']})" for entry in ours["sets"]
                   if theirs.get((entry["name"], entry["split"])) != entry]
        what = f"the images of {', '.join(changed[:3])}" if changed else "its model or its data"
        raise SceneError(f"scene {self.name} of this pool differs from what this version makes in {what}: "
                         "make a new pool, or use the version and the images that made this one.")


def open_scene(text: str | Path) -> Scene:
    """The scene of that name.

    Args:
        text: "tiny:FAMILY" forgets one embedded family and keeps the six others; a pool folder's own scene; or a
            FILE.toml with model, forget, retain and, if wanted, name, mode and corrupt (see `read_scene`).

    Raises:
        SceneError: an unknown scene or family (the message lists the choices), or a file that does not describe one.
        PoolError: a pool that cannot be read.
    """
    path = Path(text)
    kind, _, family = str(text).partition(":")
    if kind == "tiny":
        forget = find_family(family).name
        return Scene(f"tiny:{forget}", "tiny", forget, tuple(name for name in FAMILIES if name != forget))
    if (path / RECORD).is_file():
        return Scene.from_json(open_pool(path).scene)
    if path.suffix == ".toml":
        return Scene(**read_scene(path))
    choices = ", ".join(f"tiny:{name}" for name in FAMILIES)
    raise SceneError(f"scene {str(text)!r} does not exist: choose one of {choices}, a pool folder, or a FILE.toml.")


def _findable(model: str | dict[str, str | None]) -> str | dict[str, str | None]:
    """The model's spec with a weight file by its whole path, so that a pool opens from any folder."""
    spec = find_model(model)
    if spec.pretrained is not None and Path(spec.pretrained).is_file():
        spec = replace(spec, pretrained=str(Path(spec.pretrained).resolve()))
    return spec.as_json()


def _blank(model: Classifier) -> torch.Tensor:
    import torch

    return torch.zeros(1, 3, *model.image_size, dtype=torch.uint8)


def _first(images: ImageSet, n: int) -> ImageSet:
    return replace(images.take(n), split="live")
