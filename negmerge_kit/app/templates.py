"""The pages' HTML: macros in `templates/*.html`, which escape all text; and sentences that several pages show."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from negmerge_kit.plots.style import percent

LONGEST_MESSAGE = 2_000


def _range(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * low:.0f}–{100 * high:.0f}\N{NO-BREAK SPACE}%"


_TEMPLATES = Environment(
    loader=PackageLoader("negmerge_kit.app"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters |= {"percent": percent, "range": _range, "place": lambda share: f"{100 * share:.2f}"}


def render(macro: str, *values: Any, **named: Any) -> str:
    """HTML of `FILE.MACRO` in the templates, with these values in it.

    >>> render("shared.heading", 1, "<b>")
    '<h2 class="nm-step"><span aria-hidden="true">1</span>&lt;b&gt;</h2>'
    """
    file, _, name = macro.partition(".")
    return str(getattr(_TEMPLATES.get_template(f"{file}.html").module, name)(*values, **named))


def notice(text: str, kind: str = "alert") -> str:
    """One sentence in a visible place, its `commands` set as code; nothing for an empty text."""
    if not text:
        return ""
    return render("shared.notice", re.split("`([^`]+)`", brief(text[0].upper() + text[1:])), kind)


def progress(text: str, share: float | None = None, hint: str = "") -> str:
    """A line of text with a bar under it; without a share only the line, or nothing for an empty text."""
    if share is None:
        return render("shared.fine", text) if text else ""
    return render("shared.progress", text, round(100 * share), hint)


def plural(n: int, what: str) -> str:
    """A number and its noun.

    >>> plural(1, "candidate"), plural(3, "candidate")
    ('1 candidate', '3 candidates')
    """
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def brief(text: str) -> str:
    """A message that does not send a visitor's own long text back whole; what is cut shows as an ellipsis."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} …"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(41.2), duration(600), duration(9000)
    ('41 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def short(value: object, most: int = 60) -> str:
    """What a visitor sent, as a sentence may quote it.

    >>> short("a"), len(short("x" * 500))
    ("'a'", 60)
    """
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
