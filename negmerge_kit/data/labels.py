"""Class names in label order, and the check that a data set still has that order."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from negmerge_kit.errors import SceneError

IMAGENET = "imagenet"
FOLDER = Path(__file__).parent / "classes"


@dataclass(frozen=True)
class ClassNames:
    """Class names in label order and prompt templates, with their source.

    `labels` are further names that the data set's own files may use for the classes, each in label order.

    >>> names = class_names("eurosat")
    >>> names.classes[0], names.labels[0][0], names.templates[0]
    ('annual crop land', 'AnnualCrop', 'a centered satellite photo of {}.')
    """

    source: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...] = ()


@cache
def class_names(name: str) -> ClassNames:
    """The class names and templates of a named data set; ImageNet's come from open_clip, its synset ids from timm."""
    if name == IMAGENET:
        from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
        from timm.data.imagenet_info import ImageNetInfo

        info = ImageNetInfo()
        return ClassNames(
            names_source(name),
            tuple(IMAGENET_CLASSNAMES),
            tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES),
            (tuple(info.label_names()), tuple(info.label_descriptions())),
        )
    record = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    labels = (tuple(record["labels"]),) if "labels" in record else ()
    return ClassNames(record["source"], tuple(record["classes"]), tuple(record["templates"]), labels)


def names_source(name: str) -> str:
    """Source of the class names and templates of a named data set.

    >>> names_source("imagenet")
    'open_clip, IMAGENET_CLASSNAMES and OPENAI_IMAGENET_TEMPLATES'
    """
    if name == IMAGENET:  # known without importing open_clip, which takes seconds
        return "open_clip, IMAGENET_CLASSNAMES and OPENAI_IMAGENET_TEMPLATES"
    return class_names(name).source


def check_order(known: ClassNames, found: Sequence[str], where: str) -> None:
    """Check that a data set's own class names are the known ones, in the known order.

    Names are compared without case and punctuation. A plain number must be its own place. A few names that are not
    known pass (mirrors spell them differently), names at another place never do.

    Raises:
        SceneError: another number of classes, names in another order, or mostly other names; the message names them.

    >>> check_order(class_names("cifar10"), ["Airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
    ...                                      "ship", "lorry"], "somewhere")
    """
    count = len(known.classes)
    if len(found) != count:
        raise SceneError(
            f"{where} has {len(found)} classes, {count} were expected "
            f"({known.classes[0]!r} … {known.classes[-1]!r}): it is another data set or version."
        )
    places: dict[str, set[int]] = {}
    for names in (known.classes, *known.labels):
        for place, name in enumerate(names):
            places.setdefault(_plain(name), set()).add(place)
    unknown = []
    for place, name in enumerate(found):
        own = {int(name)} if name.strip().isdigit() else places.get(_plain(name), set())
        if not own:
            unknown.append(name)
        elif place not in own:
            raise SceneError(
                f"{where} has its labels in another order: class {place} is {name!r} there, but "
                f"{known.classes[place]!r} was expected ({name!r} is class {min(own)}); every score would "
                "be wrong. Use the revision that was prepared before, or another copy."
            )
    if len(unknown) > count // 2:
        raise SceneError(
            f"{where} names other classes ({', '.join(map(repr, unknown[:3]))} …) than expected "
            f"({', '.join(map(repr, known.classes[:3]))} …): it is another data set; name it by hf: or "
            "folder: to use its own class names."
        )


def display_name(label: str) -> str:
    """A data set's own label as it appears in a prompt.

    >>> display_name("golden_retriever")
    'golden retriever'
    """
    return re.sub(r"[_\s]+", " ", label).strip()


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
