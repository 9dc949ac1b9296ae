"""Scenes by name, by pool or by file."""

from __future__ import annotations

from pathlib import Path

from negmerge_kit.data.embedded import FAMILIES, find_family
from negmerge_kit.data.sklearn_digits import SCANS
from negmerge_kit.errors import SceneError
from negmerge_kit.pools.pool import RECORD, open_pool
from negmerge_kit.safe_json import is_plain_file
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.scenes.partition import PARTS
from negmerge_kit.scenes.scene import READING, Scene
from negmerge_kit.scenes.scene_file import read_scene
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from negmerge_kit.types import Json

TINY_CLASSIFIER = "tiny-classifier"


def open_scene(text: str | Path) -> Scene:
    """Open the scene of that name.

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
        return ClassifierScene(TINY_CLASSIFIER, "classifier:tiny", Forgetting(SCANS))
    if kind == "tiny":
        forget = find_family(family).name
        return ZeroShotScene(f"tiny:{forget}", "tiny", forget, tuple(name for name in FAMILIES if name != forget))
    if is_plain_file(path / RECORD):
        return scene_from_json(open_pool(path).scene)
    if path.suffix == ".toml":
        read = read_scene(path)
        return ClassifierScene(**read) if "forgetting" in read else ZeroShotScene(**read)
    choices = ", ".join((*(f"tiny:{name}" for name in FAMILIES), TINY_CLASSIFIER))
    raise SceneError(f"scene {str(text)!r} does not exist: choose one of {choices}, a pool folder, or a FILE.toml.")


def scene_from_json(described: Json) -> Scene:
    """Make the scene that `describe` wrote down; `require` checks whether its images are still the same.

    Raises:
        SceneError: a description that lacks something, or names data that this version does not know.

    >>> scene_from_json(open_scene("tiny:arrows").describe()) == open_scene("tiny:arrows")
    True
    """
    try:
        name, model = described["name"], described["model"]
        reading = {key: described.get(key, plain) for key, plain in READING.items()}
        if stored := described.get("forgetting"):
            if described["mode"] != "standard" or [described["forget"], *described["retain"]] != [*PARTS]:
                raise SceneError(
                    f"scene {name} forgets a part of its training images, so its sets are {', '.join(PARTS)} and its "
                    'mode is "standard": build the pool again.'
                )
            forgetting = Forgetting.from_json(stored)
            return ClassifierScene(name, model, forgetting, described.get("training"), **reading)
        forget, retain, mode = described["forget"], tuple(described["retain"]), described["mode"]
        return ZeroShotScene(name, model, forget, retain, mode, **reading)
    except (KeyError, TypeError) as error:
        raise SceneError(f"the description of a scene lacks {error}: build the pool again.") from error
