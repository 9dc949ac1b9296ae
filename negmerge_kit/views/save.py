"""Figures as files, in the format that the name asks for, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.errors import ParameterError

FORMATS = ("png", "svg", "pdf")


def check_place(path: Path) -> str:
    """The format that the file's ending asks for, and a folder for it, before anything is computed or drawn.

    Raises:
        ParameterError: for another ending; name the file .png, .svg or .pdf. Or for a folder that is not there.

    >>> check_place(Path("a.PNG"))
    'png'
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise ParameterError(f"{path}: name the figure with one of {', '.join('.' + name for name in FORMATS)}.")
    if not path.parent.is_dir():
        raise ParameterError(f"{path.parent} is not a folder: make it first, or name another place for the figure.")
    return ending


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
