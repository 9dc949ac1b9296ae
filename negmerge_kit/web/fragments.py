"""The page's own pieces of HTML: header, cards, marker, result, notices. All text is escaped here."""

from __future__ import annotations

import re
from html import escape

from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.scale_search import Point, ScaleSearch, outcome
from negmerge_kit.types import Json
from negmerge_kit.views.plots import CURVE_AREA, LARGEST_SCALE
from negmerge_kit.views.style import percent

TAGLINE = "make a model forget, and see what it costs"
LONGEST_MESSAGE = 2_000
HINT = (
    ("Choose candidates:", "copies of the base that were fine-tuned on what it should forget."),
    ("Merge them:", "NegMerge keeps the changes whose sign all candidates share, and drops the rest."),
    ("Subtract the result:", "press “Find the best scale”. Orange (forget) should fall; blue (retain) should stay."),
)


def header() -> str:
    """Name and one line."""
    return f'<header class="nm-header"><h1>negmerge-kit</h1><p>{TAGLINE}</p></header>'


def device_chip(device: str) -> str:
    """What it runs on."""
    return f'<p class="nm-chips"><span>runs on {escape(device)}</span></p>'


def hint() -> str:
    """Three steps for who comes for the first time; the page's script shows it until it has been closed once."""
    steps = "".join(f"<li><b>{head}</b> {text}</li>" for head, text in HINT)
    return (
        '<section class="nm-card nm-steps-hint" id="nm-hint" aria-label="How this page works" hidden>'
        f'<ol>{steps}</ol><button type="button" id="nm-hint-close">Got it</button></section>'
    )


def heading(number: int, title: str) -> str:
    """The heading of a numbered step."""
    return f'<h2 class="nm-step"><span aria-hidden="true">{number}</span>{escape(title)}</h2>'


def notice(text: str, kind: str = "alert") -> str:
    """One sentence in a visible place, its `commands` set as code; nothing for an empty text."""
    if not text:
        return ""
    told = re.sub("`([^`]+)`", r"<code>\1</code>", escape(brief(text[0].upper() + text[1:])))
    return f'<p class="nm-notice nm-{kind}" role="{"alert" if kind == "alert" else "status"}">{told}</p>'


def plural(n: int, what: str) -> str:
    """A number and its noun.

    >>> plural(1, "candidate"), plural(3, "candidate")
    ('1 candidate', '3 candidates')
    """
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def brief(text: str) -> str:
    """A message that does not send a visitor's own long text back whole; what is cut shows as an ellipsis."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} …"


def cards(
    forget_title: str,
    retain_title: str,
    classes: int,
    base: Point,
    now: Point,
    keep: float,
    *,
    of: tuple[str, str] | None = None,
) -> str:
    """The two numbers that matter, with what they were, their interval, n, and what they are held against.

    `of` says which images they are over, where the split's name would not be right.
    """
    assert base.forget and base.retain and now.forget and now.retain
    chance, floor = 1 / classes, keep * base.retain.value
    margin = 100 * (now.retain.value - floor)
    kept = now.retain.value / base.retain.value if base.retain.value else 0.0
    where = f"{'above' if margin >= 0 else 'below'} the floor by {abs(margin):.1f} points"
    held = f'<b class="nm-{"over" if margin >= 0 else "under"}">{"▲" if margin >= 0 else "▼"} {where}</b> (dashed tick)'
    chances = f"chance {percent(chance, 0)} (thin tick)"
    forgets, retains = f"was {percent(base.forget.value)}", f"was {percent(base.retain.value)}, kept {percent(kept)}"
    over = (
        [f"{what}, n = {side.n:,}" for what, side in zip(of, (now.forget, now.retain), strict=True)]
        if of
        else [images(now.forget), images(now.retain)]
    )
    ticks = {"base": base.forget.value, "chance": chance}, {"base": base.retain.value, "floor": floor}
    return (
        '<div class="nm-cards">'
        + _card("forget", forget_title, now.forget, forgets, over[0], chances, ticks[0])
        + _card("retain", retain_title, now.retain, retains, over[1], held, ticks[1])
        + "</div>"
    )


def _card(kind: str, title: str, now: Accuracy, was: str, over: str, against: str, ticks: dict[str, float]) -> str:
    low, high = now.interval
    marks = "".join(
        f'<i class="nm-tick nm-tick-{name}" style="left:{100 * value:.2f}%" title="{name} {percent(value)}"></i>'
        for name, value in ticks.items()
    )
    return (
        f'<section class="nm-card nm-score nm-{kind}" aria-label="{kind}">'
        f"<h2>{kind.title()}: {escape(title)}</h2>"
        f'<p class="nm-now"><strong id="nm-{kind}-now">{percent(now.value)}</strong> <span>{was}</span></p>'
        f'<div class="nm-bar" aria-hidden="true"><b style="width:{100 * now.value:.2f}%"></b>'
        f'<s style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></s>{marks}</div>'
        f'<p class="nm-fine">{over} · 95 % interval {100 * low:.0f}–{100 * high:.0f}\N{NO-BREAK SPACE}%<br>'
        f"{against}</p></section>"
    )


def images(score: Accuracy) -> str:
    """Which images a score is over."""
    return f"{'test' if score.split == 'test' else 'validation'}, n = {score.n:,}"


def marker(point: Point | None, end: float = LARGEST_SCALE) -> str:
    """The slider's place on the curve, laid over it so that the curve is not drawn again; none beyond its `end`."""
    if point is None or not (point.forget and point.retain) or point.scale > end:
        return ""
    left, bottom, width, height = CURVE_AREA
    x = 100 * (left + width * point.scale / end)
    top = 1 - bottom - height
    scores = (("forget", point.forget.value), ("retain", point.retain.value))
    dots = "".join(
        f'<i class="nm-dot nm-dot-{kind}" style="left:{x:.2f}%;top:{100 * (top + height * (1 - value)):.2f}%"></i>'
        for kind, value in scores
    )
    line = f'<i class="nm-line" style="left:{x:.2f}%;top:{100 * top:.2f}%;height:{100 * height:.2f}%"></i>'
    return f'<div class="nm-marker" data-scale="{point.scale:g}" aria-hidden="true">{line}{dots}</div>'


def progress(text: str, share: float | None = None, hint: str = "") -> str:
    """A line of text with a bar under it."""
    if share is None:
        return f'<p class="nm-fine" role="status">{escape(text)}</p>' if text else ""
    whole = round(100 * share)
    return (
        f'<div class="nm-progress"><p>{escape(text)}</p><div class="nm-track" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{whole}" aria-label="{escape(text, quote=True)}">'
        f'<b style="width:{whole}%"></b></div><p class="nm-fine">{escape(hint)}</p></div>'
    )


def result(search: ScaleSearch, test: Json | None, chance: float, note: str = "") -> str:
    """What the search found, with the test numbers set apart: they chose nothing; `note` stands below."""
    assert isinstance(search.keep, float), "the page asks for one floor over all retain images"
    keep = percent(search.keep, 0)
    best, base = search.best, search.base
    if best is None:
        return (
            '<section class="nm-card nm-result nm-infeasible" role="status" aria-label="search result">'
            f"<h2>No scale keeps {keep} of retain</h2><p>On the whole validation split "
            f"{escape(outcome(search) or '')}. "
            "Lower “keep at least”, or choose other candidates or another rule; with the slider you can still try "
            "finer scales near 0.</p></section>"
        )
    assert best.forget and best.retain and base.forget and base.retain
    says = ""
    if happened := outcome(search):
        remedy = ": choose other candidates, another rule, or lower “keep at least”" if best.scale == 0 else ""
        says = f"<p>{escape(happened[0].upper() + happened[1:])}{remedy}.</p>"
    looked = f"; searched from {search.curve[0].scale:g} to {search.curve[-1].scale:g}" if search.curve else ""
    was = {"forget": base.forget.json(), "retain": base.retain.json()}
    now = {"forget": best.forget.json(), "retain": best.retain.json()}
    rows = _row("validation", "chose the scale", {"base": was, **now})
    rows += _row("test", "held out, scored once", test) if test else ""
    return (
        '<section class="nm-card nm-result" role="status" aria-label="search result">'
        f'<h2>Best scale <strong id="nm-best">{best.scale:g}</strong> <small>forgets most while keeping '
        f"at least {keep}{looked}</small></h2>{says}"
        f"<table><thead><tr><th scope=col>images<th scope=col>forget <small>(chance "
        f"{percent(chance, 0)})</small><th scope=col>retain<th scope=col>kept</tr></thead>"
        f"<tbody>{rows}</tbody></table>{note and f'<p class=nm-fine>{note}</p>'}</section>"
    )


def _row(split: str, role: str, scores: Json) -> str:
    forget, retain, base = scores["forget"], scores["retain"], scores["base"]

    def cell(was: Json, now: Json) -> str:
        low, high = 100 * now["low"], 100 * now["high"]
        return (
            f"<td><span>{percent(was['value'])} →</span> <b>{percent(now['value'])}</b>"
            f"<small>{low:.0f}–{high:.0f}\N{NO-BREAK SPACE}%, n = {now['n']:,}</small></td>"
        )

    kept = retain["value"] / base["retain"]["value"] if base["retain"]["value"] else 0.0
    return (
        f'<tr class="nm-{split}"><th scope="row">{split}<small>{role}</small></th>'
        f"{cell(base['forget'], forget)}{cell(base['retain'], retain)}<td><b>{percent(kept)}</b></td></tr>"
    )
