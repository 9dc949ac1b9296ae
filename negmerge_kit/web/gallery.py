"""Real images with the model's answer before and after: six to forget, six to keep, all named correctly by the base.

They are drawn at random from the validation images that a slider scores, so they cost no pass, and nobody steers by
test images. Those come first whose answer goes wrong at the smallest scale that was measured.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from math import inf

import torch
from PIL import Image
from torch import Tensor

from negmerge_kit.views.pictures import Lost, shown_places
from negmerge_kit.vision.scene import Splits

EACH = 6


class Gallery:
    """The chosen images, their pictures as one style sheet, and the base's answers.

    The pictures travel once; a slider move sends only the words under them.
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
        rows: dict[str, list[tuple[float, str]]] = {"forget": [], "retain": []}
        place, answers = 0, sorted(measured.items())
        for part, images in enumerate(self._sets):
            kind = "forget" if part == 0 else "retain"
            for at, named in enumerate(zip(images.labels.tolist(), before[part], after[part], strict=True)):
                flips = next((scale for scale, said in answers if scale and said[part][at] != named[0]), inf)
                rows[kind].append((flips, _figure(place, images.name, *(images.classes[index] for index in named))))
                place += 1
        return "".join(
            f'<h3 class="nm-{kind}">{kind} <small>{_counted(lost[kind])}</small></h3>'
            f'<div class="nm-gallery" lang="en" data-kind="{kind}">'
            f"{''.join(figure for _, figure in sorted(figures, key=lambda one: one[0]))}</div>"
            for kind, figures in rows.items()
        )


def _counted(lost: Lost) -> str:
    return f"{lost} no longer correct <span>(validation images that the base gets right)</span>"


def _figure(place: int, family: str, label: str, was: str, now: str) -> str:
    def said(word: str, when: str) -> str:
        right = word == label
        mark, verdict = ("✓", "right") if right else ("✗", "wrong")
        return f'<span class="nm-said nm-{verdict}"><i>{when}</i> {escape(word)} <b title="{verdict}">{mark}</b></span>'

    about = escape(f"{family}: {label}", quote=True)
    return (
        f'<figure><span class="nm-pic nm-pic-{place}" role="img" aria-label="{about}" title="{about}"></span>'
        f'<figcaption><span class="nm-true"><i>is</i> {escape(label)}</span>{said(was, "was")}{said(now, "now")}'
        "</figcaption></figure>"
    )


def _png(picture: torch.Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
