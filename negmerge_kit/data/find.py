"""Data by name: an embedded family, a named set, a folder of your images, or a set on the Hub."""

from __future__ import annotations

from negmerge_kit.data.embedded import FAMILIES, EmbeddedSource
from negmerge_kit.data.folder import FolderSource, LocalSource
from negmerge_kit.data.hub import HubSource, NamedSource
from negmerge_kit.data.registry import DATASETS
from negmerge_kit.data.sklearn_digits import SCANS, ScansSource
from negmerge_kit.data.source import DataSource
from negmerge_kit.errors import SceneError
from negmerge_kit.safe_json import shortened


def find_data(text: str) -> DataSource:
    """The data that a text names; nothing is fetched or decoded yet.

        digits    scans                     an embedded family; the digits' own scans of 8 x 8
        cars    cars@COMMIT    cars:PATH    a named data set: from the Hub, at a commit, or a local copy of it
        folder:PATH                         your own images, one folder a class (see `FolderSource`)
        hf:OWNER/NAME[/CONFIG][@REVISION]   any image classification data set of the Hub

    Raises:
        SceneError: a text that names nothing; the message lists the choices.

    >>> find_data("digits").title, find_data("svhn").flips, find_data("hf:owner/pets").name
    ('Handwritten digits', False, 'pets')
    """
    if text in FAMILIES:
        return EmbeddedSource(text)
    if text == SCANS:
        return ScansSource()
    kind, colon, rest = text.partition(":")
    if colon and rest and kind == "folder":
        return FolderSource(rest)
    if colon and rest and kind in DATASETS:
        return LocalSource(kind, rest)
    name, _, revision = (rest if kind == "hf" else text).partition("@")
    parts = name.split("/")
    if kind == "hf" and 1 <= len(parts) <= 3 and all(parts):
        return HubSource("/".join(parts[:2]), "/".join(parts[2:]), revision or None)
    if not colon and name in DATASETS:
        return NamedSource(name, revision or None)
    raise SceneError(
        f"data {shortened(text)} is not known: choose one of {', '.join((*DATASETS, *FAMILIES, SCANS))}; "
        "or give NAME:PATH for a local copy of a named set, folder:PATH for your own images, or "
        "hf:OWNER/NAME."
    )
