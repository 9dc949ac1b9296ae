"""Which data are meant: a registry name, an embedded family, a folder of one's own, or a set on the Hub."""

from __future__ import annotations

from negmerge_kit.errors import SceneError
from negmerge_kit.vision.data.drawn import DrawnSource
from negmerge_kit.vision.data.source import DataSource
from negmerge_kit.vision.families import FAMILIES


def find_data(text: str) -> DataSource:
    """The data that a text names; nothing is fetched or decoded yet.

    Args:
        text: a name of the registry or an embedded family ("digits").

    Raises:
        SceneError: a name that is not known; the message lists the choices.

    >>> find_data("digits").title
    'Handwritten digits'
    """
    if text in FAMILIES:
        return DrawnSource(text)
    raise SceneError(f"data {text!r} is not known: choose one of {', '.join(FAMILIES)}.")
