"""Figures as files, in the format that the name asks for, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.overwrite_guard import Kind, check_output
from negmerge_kit.errors import ParameterError

FORMATS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
"""Endings, and how a file of that format begins."""


def check_place(path: Path) -> str:
    """Check that a figure may be written there, before anything is computed or drawn; returns its format.

    Raises:
        ParameterError: for another ending; name the file .png, .svg or .pdf.
        CheckpointError: for a folder that is not there, or a file that is no figure of that format drawn by matplotlib.

    >>> check_place(Path("a.PNG"))
    'png'
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise ParameterError(f"{path}: name the figure with one of {', '.join('.' + name for name in FORMATS)}.")
    check_output(path, Kind(f"a {ending.upper()} figure of ours", _drawn))
    return ending


def _drawn(path: Path) -> None:
    """Raise ValueError for a picture without matplotlib's name, which it writes into every format: a photo stays."""
    data = path.read_bytes()
    if not data.startswith(FORMATS[path.suffix.lower().removeprefix(".")]) or b"atplotlib" not in data:
        raise ValueError(path)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure on white as PNG, SVG or PDF, by the ending of its name.

    Raises:
        ParameterError: for another ending; name the file .png, .svg or .pdf.
        CheckpointError: if the folder cannot be written.

    >>> save_figure(Figure(), Path("a.gif"))
    Traceback (most recent call last):
    negmerge_kit.errors.ParameterError: a.gif: name the figure with one of .png, .svg, .pdf.
    """
    ending = check_place(path)
    with atomic_file(path) as file:
        figure.savefig(file, format=ending, dpi=200, facecolor="white")
    return path
