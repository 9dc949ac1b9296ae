"""Files that list images by their numbers: one a line, or a JSON list."""

from __future__ import annotations

import re
from pathlib import Path

from negmerge_kit.errors import SceneError
from negmerge_kit.outside import check_regular, parse_json, shortened

INDEX = re.compile("[0-9]+")
"""Plain digits only: `int` would read 1_0 as ten, and digits of every script."""


def read_indices(path: Path) -> tuple[int, ...]:
    """The numbers in a text file, one a line, or in a JSON list; whether they can be used, `Forgetting` tells.

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
