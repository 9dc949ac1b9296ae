"""Pieces of the Unlearn page that hold more than text: cards, marker, search result, pictures, agreement bars."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from negmerge_kit.app.recent import Recent
from negmerge_kit.app.templates import render
from negmerge_kit.merging.signs import chance, votes_needed
from negmerge_kit.plots import scale_curve, svg
from negmerge_kit.plots.before_after import Lost, shown_places
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.scale_search import Point, ScaleSearch, outcome
from negmerge_kit.types import Json
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench

EACH = 6
REMEMBERED = 64


def cards(
    titles: Mapping[str, str], classes: int, base: Point, now: Point, keep: float, *, of: tuple[str, str] | None = None
) -> str:
    """The two numbers that matter, with what they were, their interval, n, and what they are compared with.

    Args:
        titles: what is forgotten and what is retained, by side.
        of: which images the two are over, where the split's name would not be right.
    """
    assert base.forget and base.retain and now.forget and now.retain
    floor = keep * base.retain.value
    forget = {"was": base.forget.value, "ticks": {"base": base.forget.value, "chance": 1 / classes}}
    retain: dict[str, Any] = {"was": base.retain.value, "ticks": {"base": base.retain.value, "floor": floor}}
    retain["kept"] = now.retain.value / base.retain.value if base.retain.value else 0.0
    retain["margin"] = 100 * (now.retain.value - floor)
    sides = [
        {"kind": kind, "title": titles[kind], "now": score, "over": _over(score, of and of[number]), **side}
        for number, (kind, score, side) in enumerate((("forget", now.forget, forget), ("retain", now.retain, retain)))
    ]
    return render("unlearn.cards", sides)


def _over(score: Accuracy, what: str | None) -> str:
    return f"{what or ('test' if score.split == 'test' else 'validation')}, n = {score.n:,}"


def marker(point: Point | None, end: float = scale_curve.LARGEST_SCALE) -> str:
    """The slider's place on the curve, laid over it so that the curve is not drawn again; none beyond its `end`."""
    if point is None or not (point.forget and point.retain) or point.scale > end:
        return ""
    left, bottom, width, height = scale_curve.CURVE_AREA
    top = 1 - bottom - height
    scores = {"forget": point.forget.value, "retain": point.retain.value}
    dots = {kind: top + height * (1 - value) for kind, value in scores.items()}
    return render("unlearn.marker", point.scale, left + width * point.scale / end, top, height, dots)


def result(search: ScaleSearch, test: Json | None, chance: float, note: str = "") -> str:
    """What the search found, with the test numbers set apart: they chose nothing; `note` comes below."""
    assert isinstance(search.keep, float), "the page asks for one floor over all retain images"
    best, base, says = search.best, search.base, outcome(search) or ""
    if best is None:
        return render("unlearn.infeasible", search.keep, says)
    assert best.forget and best.retain and base.forget and base.retain
    if says:
        remedy = ": choose other candidates, another rule, or lower “keep at least”" if best.scale == 0 else ""
        says = f"{says[0].upper()}{says[1:]}{remedy}"
    was = {"forget": base.forget.json(), "retain": base.retain.json()}
    now = {"forget": best.forget.json(), "retain": best.retain.json()}
    rows = [("validation", "chose the scale", {"base": was, **now})]
    rows += [("test", "held out, scored once", test)] if test else []
    looked = (search.curve[0].scale, search.curve[-1].scale) if search.curve else None
    return render("unlearn.result", best, search.keep, looked, says, chance, rows, note)


class Gallery:
    """Real images with the model's answer before and after: six to forget, six to keep, which the base gets right.

    They are drawn at random from the validation images that a slider scores, so they cost no pass, and nobody steers by
    test images. Those come first whose answer goes wrong at the smallest scale that was measured. The pictures travel
    once, as one style sheet; a slider move sends only the words under them.
    """

    def __init__(self, live: Splits, right: Sequence[Tensor]) -> None:
        self.places = shown_places(live, right, EACH)
        self._sets = [images.at(places) for images, places in zip(live, self.places, strict=False)]

    def style(self) -> str:
        """A `<style>` element with a class for each picture."""
        pictures = [picture for images in self._sets for picture in images.images.cpu()]
        rules = (
            f".nm-pic-{place}{{background-image:url(data:image/png;base64,{_png(picture)})}}"
            for place, picture in enumerate(pictures)
        )
        return f"<style>{''.join(rules)}</style>"

    def html(
        self,
        before: list[list[int]],
        after: list[list[int]],
        lost: Mapping[str, Lost],
        measured: Mapping[float, list[list[int]]],
    ) -> str:
        """Pictures with their true names, what the model said at scale 0 and what it says now, and the counts.

        Args:
            before, after: class indices at `places`, by set.
            lost: by side, of all live images that the base gets right, how many are no longer named correctly.
            measured: the answers at every scale that is known, by which the pictures are sorted.
        """
        rows: dict[str, list[tuple[float, tuple[Any, ...]]]] = {"forget": [], "retain": []}
        place, answers = 0, sorted(measured.items())
        for part, images in enumerate(self._sets):
            kind = "forget" if part == 0 else "retain"
            for at, named in enumerate(zip(images.labels.tolist(), before[part], after[part], strict=True)):
                flips = next((scale for scale, said in answers if scale and said[part][at] != named[0]), inf)
                label, *said = (images.classes[index] for index in named)
                rows[kind].append((flips, (place, f"{images.name}: {label}", label, *said)))
                place += 1
        ordered = [
            (kind, lost[kind], [picture for _, picture in sorted(pictures, key=lambda one: one[0])])
            for kind, pictures in rows.items()
        ]
        return render("unlearn.gallery", ordered)


def _png(picture: torch.Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


class AgreementBars:
    """Agreement by layer under the curve, over one workbench: bars by candidates and threshold, drawn once."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._drawn: Recent[tuple[object, float], str] = Recent(REMEMBERED)

    def html(self, choice: Choice) -> str:
        """Finding and figure, wide and tall; a rule that does not vote is compared with unanimity."""
        n, agreement = len(choice.candidates), float(dict(choice.params).get("agreement", 1.0))
        if (found := self._drawn.get((choice.voters, agreement))) is None:
            votes, line = votes_needed(n, agreement), chance(n, agreement)
            layers = self._bench.agreement(choice.candidates)
            finding = scale_curve.agreement_finding(layers, votes=votes, chance=line)
            wide, tall = (
                svg.inline(
                    scale_curve.agreement_by_layer(layers, votes=votes, chance=line, titled=False, upright=upright),
                    finding,
                    name=name,
                )
                for name, upright in (("bars", True), ("rows", False))
            )
            found = render("unlearn.bars", finding, wide, tall)
            self._drawn.put((choice.voters, agreement), found)
        return found
