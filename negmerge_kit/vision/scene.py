"""Scenes: a model, what it shall forget and what it shall keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from negmerge_kit.errors import SceneError
from negmerge_kit.types import Json
from negmerge_kit.vision.clip import Classifier, load_model
from negmerge_kit.vision.families import FAMILIES, family_images, find_family
from negmerge_kit.vision.images import ImageSet

if TYPE_CHECKING:
    import torch

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
    """A model spec, the family to forget and the families to keep.

    >>> scene = open_scene("tiny:digits")
    >>> scene.forget, scene.retain
    ('digits', ('shapes', 'textures', 'letters', 'symbols', 'arrows', 'colours'))
    >>> live = scene.images("live")
    >>> len(live.forget), [len(images) for images in live.retain]
    (240, [40, 40, 40, 40, 40, 40])
    """

    name: str
    model: str
    forget: str
    retain: tuple[str, ...]
    mode: str = "standard"

    def images(self, split: str) -> Splits:
        """The images of a split.

        "train" holds what candidates are fine-tuned on and has no retain sets; "val" and "test" hold both sides; "live"
        is the first 240 validation images to forget and as many to keep, the same number from each family.

        Raises:
            SceneError: an unknown split; the message lists the choices.
        """
        if split not in SPLITS:
            raise SceneError(f"split {split!r} of scene {self.name} does not exist: choose one of {', '.join(SPLITS)}.")
        if split == "train":
            return Splits(family_images(self.forget, "train"), ())
        if split == "live":
            whole = self.images("val")
            return Splits(_first(whole.forget, LIVE), tuple(_first(s, LIVE // len(self.retain)) for s in whole.retain))
        return Splits(family_images(self.forget, split), tuple(family_images(name, split) for name in self.retain))

    def load(self, *, device: str = "auto") -> Classifier:
        """The scene's model with its pretrained weights and heads, on a device."""
        return load_model(self.model, device=device)

    def require(self, described: Json) -> None:
        """Check that this version draws the very images that a pool was made with.

        Raises:
            SceneError: naming the first difference; make a new pool with this version.
        """
        ours = self.describe()
        if ours == described:
            return
        theirs = {(entry["name"], entry["split"]): entry for entry in described.get("sets", [])}
        changed = [f"{entry['name']} ({entry['split']})" for entry in ours["sets"]
                   if theirs.get((entry["name"], entry["split"])) != entry]
        what = f"the images of {', '.join(changed[:3])}" if changed else "its model or families"
        raise SceneError(f"scene {self.name} of this pool differs from what this version makes in {what}: "
                         "make a new pool, or use the version that wrote this one.")

    def describe(self) -> Json:
        """What a pool stores of its scene: model, mode, and for every image set its split, seed, n and fingerprint."""
        sets = {split: [_described(images) for images in self.images(split)] for split in ("train", "val", "test")}
        return {"name": self.name, "model": self.model, "mode": self.mode, "forget": self.forget,
                "retain": list(self.retain), "sets": [entry for split in sets.values() for entry in split]}


def open_scene(text: str) -> Scene:
    """The scene of that name: "tiny:FAMILY" forgets one embedded family and keeps the six others.

    Raises:
        SceneError: an unknown scene or family; the message lists the choices.
    """
    kind, _, family = text.partition(":")
    if kind != "tiny":
        choices = ", ".join(f"tiny:{name}" for name in FAMILIES)
        raise SceneError(f"scene {text!r} does not exist: choose one of {choices}.")
    forget = find_family(family).name
    return Scene(f"tiny:{forget}", "tiny", forget, tuple(name for name in FAMILIES if name != forget))


def _first(images: ImageSet, n: int) -> ImageSet:
    return replace(images.take(n), split="live")


def _described(images: ImageSet) -> Json:
    return {"name": images.name, "split": images.split, "seed": FAMILIES[images.name].seed(images.split),
            "n": len(images), "fingerprint": images.fingerprint()}
