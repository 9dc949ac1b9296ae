"""The pages' HTML: text is text, whatever it holds, and only figures and HTML of ours go in as they are."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from negmerge_kit import app
from negmerge_kit.app.pages.unlearn_pieces import cards
from negmerge_kit.app.templates import notice, progress, render
from negmerge_kit.scoring import Accuracy, Point

TEMPLATES = sorted((Path(app.__file__).parent / "templates").glob("*.html"))
EVIL = "<script>alert(1)</script>\" onmouseover='x' &amp; <img src=x>"


class Tags(HTMLParser):
    """The elements and attributes of some HTML."""

    def __init__(self, html):
        super().__init__()
        self.names, self.attributes = set(), set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


BASE, NOW = (Point(scale, Accuracy(40, 100, "val"), Accuracy(88, 100, "val")) for scale in (0.0, 0.5))


@pytest.mark.parametrize(
    "html",
    [
        render("shared.heading", 1, EVIL),
        render("shared.device_chip", EVIL),
        render("shared.figure", "<svg></svg>", EVIL),
        render("finetune.stays", EVIL),
        render("unlearn.gallery", [("forget", EVIL, [(0, EVIL, EVIL, EVIL, EVIL)])]),
        render("compare.marked", EVIL, "<p>content</p>"),
        cards({"forget": EVIL, "retain": EVIL}, 10, BASE, NOW, 0.95, of=(EVIL, EVIL)),
        notice(f"{EVIL} `{EVIL}`"),
        progress(EVIL, 0.5, EVIL),
    ],
    ids=range(9),
)
def test_a_hostile_text_is_text(html):
    tags = Tags(html)
    assert "&lt;" in html and not tags.names & {"script", "img"} and "onmouseover" not in tags.attributes


def test_only_figures_and_html_of_ours_go_in_as_they_are():
    unescaped = {found for path in TEMPLATES for found in re.findall(r"(\w+)\s*\|\s*safe", path.read_text("utf-8"))}
    assert unescaped == {"svg", "figure", "zeros", "wide", "tall", "content", "notices"}
    assert not any("autoescape" in path.read_text("utf-8") for path in TEMPLATES)
