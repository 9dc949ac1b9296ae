"""A figure as SVG inside the page: its text stays text, and its colours follow the page's theme."""

from __future__ import annotations

import re
from html import escape
from io import StringIO

from matplotlib.figure import Figure

from negmerge_kit.plots.style import FORGET, INK, MUTED, RETAIN, RULE, style

_NAMES = {FORGET: "forget", RETAIN: "retain", INK: "ink", MUTED: "muted", RULE: "rule"}
_THEMED = {colour: f"var(--nm-{name})" for colour, name in _NAMES.items()}


def inline(figure: Figure, finding: str, *, name: str, marks: bool = False) -> str:
    """The figure as an `<svg role="img">` element; `finding` is what a screen reader says.

    Args:
        name: put before every id, so that two figures on one page do not share any.
        marks: leave the figure's own ids, those with a hyphen in them, as `data-mark`: a page may listen for clicks.
    """
    file = StringIO()
    with style():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    for colour, variable in _THEMED.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font: ([^;\"']*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--nm-font)", text)
    # Only ids that something refers to are needed; the rest would repeat from figure to figure.
    used = set(re.findall(r"#([\w-]+)", text))

    def renamed(found: re.Match[str]) -> str:
        if found[1] in used:
            return f' id="{name}-{found[1]}"'
        return f' data-mark="{found[1]}"' if marks and "-" in found[1] else ""

    text = re.sub(r' id="([^"]+)"', renamed, text)
    text = re.sub(r"(url\(#|href=\"#)([\w-]+)", rf"\g<1>{name}-\2", text)
    text = text.replace("xlink:href", "href")
    head = f'<svg role="img" aria-label="{escape(finding, quote=True)}" class="nm-figure"'
    text = re.sub(r'^<svg (?:[^>]*?)(viewBox="[^"]*")[^>]*>', rf"{head} \1>", text, count=1, flags=re.S)
    return text.strip()
