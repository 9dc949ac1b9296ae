"""Scene files: small TOML files that name a model, what it should forget and what it should keep.

    model = "ViT-B-32/openai"               # or {arch = "ViT-B-32-quickgelu", pretrained = "file.safetensors"}
    forget = "folder:faces"                 # folders are looked up from the file's own folder
    retain = ["imagenet-small", "dtd"]
    size = 64                               # pixels a side of its images, where not the model's own
    mode = "standard"                       # or "linear"
    corrupt = "refuse"                      # or "skip"
    orientation = "stored"                  # or "exif": photographs turned as their EXIF tag says
    transparency = "stored"                 # or "white", "black": transparent pixels laid onto a colour

Or of a standard classifier, one data set and which of its training images to forget:

    model = "classifier:resnet18"           # trained by the kit; "classifier:resnet18/FILE" where there are weights
    data = "cifar10"
    forget = {share = 0.1, seed = 2}        # or {class = "cat"}, or {indices = "FILE"}; as_published = true
    training = {epochs = 60, lr = 0.1}      # how the base is trained, where not as by default

The FILE of indices has one a line, or a JSON list. Index n is image n of the original CIFAR-10, as torchvision counts;
of other data row n of the training files, from 0, and of a folder the n-th file, classes by name and then files by
path; a local copy, as `cifar10:PATH`, is a folder. They count before anything is held out; what the kit then holds out
for validation cannot be forgotten.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from negmerge_kit.errors import SceneError
from negmerge_kit.models.model_spec import sized
from negmerge_kit.safe_json import check_regular, is_plain_file, parse_json, read_toml, shortened, wrong_entry
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.scenes.scene import READING

KEYS = ("name", "model", "forget", "retain", "mode", "size", *READING)
NEEDED = ("model", "forget", "retain")
FORGET: dict[str, Any] = {"share": float, "class": str, "indices": str, "seed": int, "as_published": bool}
PUBLISHED_SEED = 2
"""Of the published runs of unlearning; their original model's is 1 (see `published_split`)."""


def read_scene(path: Path) -> dict[str, Any]:
    """The arguments of the scene that a TOML file describes.

    Raises:
        SceneError: a file that cannot be read, lacks a key, has one too many, or a value of another kind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "small.toml"
    ...     _ = path.write_text('model = "tiny"\\nforget = "digits"\\nretain = "shapes"')
    ...     read_scene(path)
    {'name': 'small', 'model': 'tiny', 'forget': 'digits', 'retain': ('shapes',)}
    """
    try:
        values: dict[str, Any] = read_toml(path, dict)
    except FileNotFoundError:
        raise SceneError(f"scene {path} does not exist: check the path, or write {', '.join(NEEDED)} in it.") from None
    except (OSError, ValueError) as error:
        raise SceneError(f"scene {path} cannot be read ({error}): write TOML with {', '.join(NEEDED)}.") from error
    if "data" in values:
        return _classifier_arguments(values, path)
    if absent := [key for key in NEEDED if key not in values]:
        raise SceneError(f"scene {path} does not say {', '.join(absent)}: give {', '.join(NEEDED)}.")
    if strange := sorted(set(values) - set(KEYS)):
        raise SceneError(f"scene {path} says {', '.join(strange)}, which scenes do not have: use {', '.join(KEYS)}.")
    retain = [values["retain"]] if isinstance(values["retain"], str) else values["retain"]
    texts = [values["forget"], *(retain if isinstance(retain, list) else [None])]
    texts += [values[key] for key in KEYS if key in values and key not in (*NEEDED, "size")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(values["model"], str | dict):
        raise SceneError(
            f"scene {path} names its model or its data by something else than text: write "
            'forget = "DATA" and retain = ["DATA", "DATA"].'
        )
    forget, *kept = (_from_here(text, path.parent) for text in texts[: 1 + len(retain)])
    model = _model_of(values, path)
    values = {key: value for key, value in values.items() if key != "size"}
    return {"name": path.stem, **values, "model": model, "forget": forget, "retain": tuple(kept)}


def _classifier_arguments(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of a standard classifier's scene."""
    forget = values.get("forget", {})
    kinds = {
        "name": str,
        "model": str | dict,
        "data": str,
        "forget": dict,
        "training": dict,
        "size": int,
        **dict.fromkeys(READING, str),
    }
    if strange := sorted(set(values) - set(kinds)):
        raise SceneError(
            f"scene {path} says {', '.join(strange)}, which scenes with data = … do not have: use {', '.join(kinds)}."
        )
    wrong = [key for key in ("model", *values) if not isinstance(values.get(key), kinds[key])]
    if not isinstance(forget, dict) or (strange := sorted(set(forget) - set(FORGET))) or wrong:
        raise SceneError(
            f"scene {path} tells {', '.join(wrong or strange)} in a way that is not understood: write "
            f'model = "classifier:NAME", data = "DATA", forget = {{…}} with {", ".join(FORGET)}.'
        )
    for key, kind in FORGET.items():
        if key in forget and (not isinstance(forget[key], kind) or (kind is not bool and forget[key] is True)):
            raise SceneError(f"scene {path} has forget.{key} = {forget[key]!r}, which is of the wrong type.")
    published = forget.get("as_published", False)
    indices = read_indices(Path(os.path.realpath(path.parent / forget["indices"]))) if "indices" in forget else None
    forgetting = Forgetting(
        _from_here(values["data"], path.parent),
        forget.get("share"),
        forget.get("class"),
        indices,
        forget.get("seed", PUBLISHED_SEED if published else 0),
        published,
    )
    rest: dict[str, Any] = {key: values[key] for key in (*READING, "training") if key in values}
    return {"name": values.get("name", path.stem), "model": _model_of(values, path), "forgetting": forgetting, **rest}


def _model_of(values: dict[str, Any], path: Path) -> Any:
    """The scene's model, at the size of images that the scene says."""
    model, size = _model_from_here(values["model"], path.parent), values.get("size")
    if size is None:
        return model
    if type(size) is not int:
        raise SceneError(f"scene {path} has size = {shortened(size)}: write the pixels a side, such as size = 64.")
    return sized(model, size).as_json()


def _model_from_here(model: Any, folder: Path) -> Any:
    """Resolve a model's weight file against the scene file's folder, to its whole path."""
    if isinstance(model, dict):
        if wrong := wrong_entry(model, {"arch": str, "pretrained?": str, "size?": int}):
            raise SceneError(
                f'a scene\'s model has {wrong[0]} = {wrong[1]!r}: write {{arch = "NAME", pretrained = "TAG or FILE"}}.'
            )
        return {key: _model_from_here(value, folder) if key == "pretrained" else value for key, value in model.items()}
    arch, slash, weights = model.partition("/")
    if is_plain_file(folder / model):
        return os.path.realpath(folder / model)
    if slash and is_plain_file(folder / weights):
        return f"{arch}/{os.path.realpath(folder / weights)}"
    return model


def _from_here(text: str, folder: Path) -> str:
    """Resolve a folder against the scene file's folder, not the one where the command runs."""
    kind, _, where = text.partition(":")
    if not where or kind == "hf" or Path(where).expanduser().is_absolute():
        return text
    return f"{kind}:{os.path.realpath(folder / where)}"


INDEX = re.compile("[0-9]+")
"""Plain digits only: `int` would read 1_0 as ten, and digits of every script."""


def read_indices(path: Path) -> tuple[int, ...]:
    """The numbers in a text file, one a line, or in a JSON list; `Forgetting` checks their values.

    Raises:
        SceneError: a file that cannot be read, or something else than a whole number in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "indices.txt"
    ...     _ = path.write_text("3\\n14\\n15\\n")
    ...     read_indices(path)
    (3, 14, 15)
    """
    try:
        text = check_regular(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SceneError(
            f"the list of images {path} cannot be read ({why}): give a text file with one index a line, or a JSON list."
        ) from error
    try:
        listed = parse_json(text) if text.lstrip().startswith("[") else [_number(word) for word in text.split()]
    except ValueError as error:
        raise SceneError(
            f"the list of images {path} is not understood ({error}): write one index a line, or a JSON "
            "list of whole numbers."
        ) from error
    if odd := [value for value in listed if type(value) is not int]:
        raise SceneError(
            f"the list of images {path} holds {shortened(odd[0])}, which is no index: write whole numbers "
            "in plain digits, from 0."
        )
    return tuple(listed)


def _number(word: str) -> int | str:
    """The number that a word writes, or else the word."""
    return int(word) if INDEX.fullmatch(word) and len(word) < 19 else word
