"""Real images with the model's answers before and after, to forget above, to keep below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from negmerge_kit.plots.style import FORGET, RETAIN, headline, style
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.evaluation import ImageQueue
from negmerge_kit.unlearning.workbench import Workbench

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


def before_after(pictures: Sequence[Answered], lost: Mapping[str, Lost], *, split: str = "test") -> Figure:
    """Pictures under their true names, with the model's answer before and after: correct ones marked ✓, wrong ones ✗.

    Args:
        lost: how many of all images that the base gets right are no longer named correctly, by side.
        split: that they are counted on.
    """
    lines = {side: [one for one in pictures if one.side == side] for side in ("forget", "retain")}
    across = max(len(line) for line in lines.values())
    with style():
        figure = Figure(figsize=(1.12 * across + 0.7, 3.9), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05))
        headline(figure, gallery_finding(lost, split))
        grid = figure.subplots(2, across, squeeze=False)
        for row, (side, line) in zip(grid, lines.items(), strict=True):
            colour = FORGET if side == "forget" else RETAIN
            for axes in row[len(line) :]:
                axes.set_axis_off()
            row[0].set_ylabel(side, color=colour, fontweight="bold")
            for axes, one in zip(row, line, strict=False):
                axes.imshow(one.image.cpu().permute(1, 2, 0).numpy(), interpolation="nearest")
                axes.set_title(one.name, loc="center", fontsize=7.5, pad=2)
                axes.set(xticks=[], yticks=[], gid=f"{one.family}: {one.name}")
                axes.grid(False)
                axes.spines[:].set(visible=True, color=colour, linewidth=1.6)
                for place, (when, word) in enumerate((("was", one.before), ("now", one.after))):
                    right = word == one.name
                    axes.text(
                        0.5,
                        -0.07 - 0.18 * place,
                        f"{when} {word} {'✓' if right else '✗'}",
                        ha="center",
                        va="top",
                        transform=axes.transAxes,
                        fontsize=7.5,
                        color=RIGHT if right else WRONG,
                        gid=when,
                        fontweight="bold" if place else "normal",
                    )
    return figure


def gallery_finding(lost: Mapping[str, Lost], split: str) -> str:
    """Sentence on how many images that the base gets right are no longer named correctly."""
    return f"No longer correct, of what the base gets right on {split}: " + "; ".join(
        f"{side} {count}" for side, count in lost.items()
    )


def answered(
    bench: Workbench, choice: Choice | None, scale: float, *, each: int = 6, split: str = "test", seed: int = 0
) -> tuple[list[Answered], dict[str, Lost]]:
    """`each` images a side that the base gets right with the answers of the choice at `scale`, and counts over all.

    Drawn at random by the seed; those that are no longer named correctly come first.
    """
    splits = bench.images(split)
    sets, said = list(splits), []
    for which, where in ((None, 0.0), (choice, scale)):
        with bench.at(which, where) as model:
            said.append(ImageQueue(sets).classes(model))
    right = [named_right(one, splits) for one in said]
    pictures = []
    for place, (images, shown) in enumerate(zip(sets, shown_places(splits, right[0], each, seed=seed), strict=False)):
        for at in shown:
            words = (images.classes[int(one)] for one in (images.labels[at], said[0][place][at], said[1][place][at]))
            pictures.append(Answered("forget" if place == 0 else "retain", images.name, images.images[at], *words))
    return sorted(pictures, key=lambda one: one.after == one.name), lost_of(*right)


def shown_places(splits: Splits, right: Sequence[Tensor], each: int, *, seed: int = 0) -> list[list[int]]:
    """Indices of `each` images a side, by set: drawn at random, by the seed, among those that the base gets right.

    What the base gets wrong shows no forgetting. The forget set comes first; the retain sets share their `each` as
    evenly as they can, and sets beyond the first `each` are left out. Fewer are drawn where fewer are right.

    Args:
        right: for each set, whether the base names each image correctly, bool [n].
    """
    retain = splits.retain[:each]
    share = [each // len(retain) + (place < each % len(retain)) for place in range(len(retain))]
    generator, places = torch.Generator().manual_seed(seed), []
    for mask, count in zip(right, (each, *share), strict=False):
        among = mask.cpu().nonzero().flatten()
        places.append(among[torch.randperm(len(among), generator=generator)[:count]].tolist())
    return places


def named_right(said: Sequence[Tensor], splits: Splits) -> list[Tensor]:
    """Mask of the images whose class index is their label, bool [n] for each set."""
    return [indices.cpu() == images.labels.cpu() for indices, images in zip(said, splits, strict=True)]


class Lost(NamedTuple):
    """Counts of a side: of `right` images that the base gets right, `lost` are no longer named correctly."""

    lost: int
    right: int

    def __str__(self) -> str:
        return f"{self.lost:,} of {self.right:,}"


def lost_of(before: Sequence[Tensor], after: Sequence[Tensor]) -> dict[str, Lost]:
    """By side, from `named_right` of the base and of the unlearned model; the forget set's come first.

    >>> lost_of([torch.tensor([True, True, False])] * 2, [torch.tensor([False, True, True])] * 2)["forget"]
    Lost(lost=1, right=2)
    """

    def side(was: Sequence[Tensor], now: Sequence[Tensor]) -> Lost:
        pairs = list(zip(was, now, strict=True))
        return Lost(sum(int((one & ~other).sum()) for one, other in pairs), sum(int(one.sum()) for one in was))

    return {"forget": side(before[:1], after[:1]), "retain": side(before[1:], after[1:])}
