"""Real images with the model's answer before and after: six to forget, six to keep.

They are of the validation images that a slider scores, so they cost no pass, and nobody steers by test images.
"""

from __future__ import annotations

import base64
import io
from html import escape

import torch
from PIL import Image

from negmerge_kit.views.pictures import shown_places
from negmerge_kit.vision.scene import Splits

EACH = 6


class Gallery:
    """The chosen images, their pictures as one style sheet, and the base's answers.

    The pictures travel once; a slider move sends only the words under them.
    """

    def __init__(self, live: Splits) -> None:
        self.places = shown_places(live, EACH)
        self._sets = [images.at(places) for images, places in zip(live, self.places, strict=False)]

    def style(self) -> str:
        """A `<style>` element with a class for each picture."""
        pictures = [picture for images in self._sets for picture in images.images.cpu()]
        rules = (
            f".nm-pic-{place}{{background-image:url(data:image/png;base64,{_png(picture)})}}"
            for place, picture in enumerate(pictures)
        )
        return f"<style>{''.join(rules)}</style>"

    def html(self, before: list[list[int]], after: list[list[int]]) -> str:
        """Pictures with what the model said at scale 0 and what it says now: class indices at `places`, by set."""
        rows, place = {"forget": "", "retain": ""}, 0
        for part, images in enumerate(self._sets):
            kind = "forget" if part == 0 else "retain"
            for named in zip(images.labels.tolist(), before[part], after[part], strict=True):
                rows[kind] += _figure(place, images.name, *(images.classes[index] for index in named))
                place += 1
        return "".join(
            f'<h3 class="nm-{kind}">{kind}</h3><div class="nm-gallery" lang="en" data-kind="{kind}">{figures}</div>'
            for kind, figures in rows.items()
        )


def _figure(place: int, family: str, label: str, was: str, now: str) -> str:
    def said(word: str, when: str) -> str:
        right = word == label
        mark, verdict = ("✓", "right") if right else ("✗", "wrong")
        return f'<span class="nm-said nm-{verdict}"><i>{when}</i> {escape(word)} <b title="{verdict}">{mark}</b></span>'

    about = escape(f"{family}: {label}", quote=True)
    return (
        f'<figure><span class="nm-pic nm-pic-{place}" role="img" aria-label="{about}" title="{about}"></span>'
        f"<figcaption>{said(was, 'was')}{said(now, 'now')}</figcaption></figure>"
    )


def _png(picture: torch.Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
