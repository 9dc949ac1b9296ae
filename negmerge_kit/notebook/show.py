"""A figure in a notebook: a sharp picture on white, readable on light and dark themes, with its finding as text."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO

from IPython.display import Image, display
from matplotlib.figure import Figure

DPI = 96


def show(figure: Figure) -> None:
    """Display a figure as a cell's output; screen readers read its finding."""
    width = round(figure.get_figwidth() * DPI)
    display(Image(png(figure), format="png", width=width, alt=figure_text(figure)))


def png(figure: Figure) -> bytes:
    """The figure as PNG on white, at twice the resolution that it is shown at."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=2 * DPI, facecolor="white")
    return file.getvalue()


def img(figure: Figure) -> str:
    """The figure as an `<img>` element that holds its own picture."""
    data, width = base64.b64encode(png(figure)).decode(), round(figure.get_figwidth() * DPI)
    text = escape(figure_text(figure), quote=True)
    return f'<img src="data:image/png;base64,{data}" alt="{text}" style="width:{width}px;max-width:100%">'


def figure_text(figure: Figure) -> str:
    """Text of a figure for screen readers: its finding, then its axes' titles and labels.

    >>> figure = Figure()
    >>> _ = figure.suptitle("All signs agree on a third"), figure.subplots().set_xlabel("votes")
    >>> figure_text(figure)
    'All signs agree on a third; votes'
    """
    words = [figure.get_suptitle(), *(text.get_text() for text in figure.texts)]
    for axes in figure.axes:
        words += [axes.get_title(loc="left"), axes.get_title(), axes.get_xlabel()]
    return "; ".join(dict.fromkeys(word.replace("\n", " ") for word in words if word))
