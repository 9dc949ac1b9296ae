"""What the model says: real images with its answers before and after, to forget above, to keep below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from negmerge_kit.lab.evaluation import answer
from negmerge_kit.lab.resident import Choice
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.views.style import FORGET, RETAIN, headline, style
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.scene import Splits

RIGHT, WRONG = "#1a7f37", "#b42318"


@dataclass(frozen=True, eq=False)
class Answered:
    """An image, uint8 [3, H, W], its true name, and the model's answers; `side` is forget or retain."""

    side: str
    family: str
    image: Tensor
    name: str
    before: str
    after: str


def before_after(pictures: Sequence[Answered]) -> Figure:
    """Pictures with the model's answer before and after underneath: right ones marked ✓, wrong ones ✗."""
    lines = {side: [one for one in pictures if one.side == side] for side in ("forget", "retain")}
    across = max(len(line) for line in lines.values())
    with style():
        figure = Figure(figsize=(1.12 * across + 0.7, 3.9), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05))
        headline(figure, gallery_finding(pictures))
        grid = figure.subplots(2, across, squeeze=False)
        for row, (side, line) in zip(grid, lines.items(), strict=True):
            colour = FORGET if side == "forget" else RETAIN
            for axes in row[len(line) :]:
                axes.set_axis_off()
            row[0].set_ylabel(side, color=colour, fontweight="bold")
            for axes, one in zip(row, line, strict=False):
                axes.imshow(one.image.cpu().permute(1, 2, 0).numpy(), interpolation="nearest")
                axes.set(xticks=[], yticks=[], gid=f"{one.family}: {one.name}")
                axes.grid(False)
                axes.spines[:].set(visible=True, color=colour, linewidth=1.6)
                for place, (when, word) in enumerate((("was", one.before), ("now", one.after))):
                    right = word == one.name
                    axes.text(
                        0.5, -0.07 - 0.18 * place, f"{when} {word} {'✓' if right else '✗'}", ha="center", va="top",
                        transform=axes.transAxes, fontsize=7.5, color=RIGHT if right else WRONG, gid=when,
                        fontweight="bold" if place else "normal",
                    )  # fmt: skip
    return figure


def gallery_finding(pictures: Sequence[Answered]) -> str:
    """How many of the shown images are named rightly before and after, in a sentence."""
    parts = []
    for side in ("forget", "retain"):
        mine = [one for one in pictures if one.side == side]
        was, now = sum(one.before == one.name for one in mine), sum(one.after == one.name for one in mine)
        parts.append(f"{side} {was} → {now} of {len(mine)}")
    return f"Named rightly, before → after: {'; '.join(parts)}"


def answered(
    bench: Workbench, choice: Choice | None, scale: float, *, each: int = 6, split: str = "test"
) -> list[Answered]:
    """`each` images a side with the answers of the base and of the choice at `scale`."""
    splits = bench.images(split)
    sets = [images.at(places) for images, places in zip(splits, shown_places(splits, each), strict=False)]
    said = []
    for which, where in ((None, 0.0), (choice, scale)):
        with bench.at(which, where) as model:
            said.append(answer(model, sets))
    return [
        Answered("forget" if place == 0 else "retain", images.name, image, *(images.classes[int(one)] for one in named))
        for place, images in enumerate(sets)
        for image, *named in zip(images.images, images.labels, said[0][place], said[1][place], strict=True)
    ]


def shown_places(splits: Splits, each: int) -> list[list[int]]:
    """Where the first image of each of `each` classes a side is, by set; chosen without seeing answers.

    Classes are spread over the class lists. The forget set comes first; the retain sets share their `each` as evenly as
    they can, and sets beyond the first `each` are left out.
    """
    retain = splits.retain[:each]
    share = [each // len(retain) + (place < each % len(retain)) for place in range(len(retain))]
    return [_spread(images, count) for images, count in zip((splits.forget, *retain), (each, *share), strict=True)]


def _spread(images: ImageSet, count: int) -> list[int]:
    labels = images.labels.tolist()
    present = sorted(set(labels))
    if len(present) < count:
        return list(range(min(count, len(labels))))
    return [labels.index(present[(2 * place + 1) * len(present) // (2 * count)]) for place in range(count)]
