"""Agreement to walk through: a tree of tensors, how many votes it takes, and the histogram against chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from negmerge_kit.merging import LayerAgreement, chance, total, votes_needed
from negmerge_kit.models.layers import block_and_kind, reading_order
from negmerge_kit.notebook.explorer import LABELS, Drawn, Explorer
from negmerge_kit.plots.scale_curve import agreement_by_layer
from negmerge_kit.plots.style import percent
from negmerge_kit.plots.votes import vote_histogram
from negmerge_kit.unlearning.workbench import Workbench

INDENT = "\N{NO-BREAK SPACE}" * 4


@dataclass(frozen=True)
class Branch:
    """A node of the tensor tree: its depth, its name, and the tensors beneath it."""

    depth: int
    name: str
    layers: tuple[LayerAgreement, ...]


def tensor_tree(layers: Sequence[LayerAgreement]) -> Iterator[Branch]:
    """The whole model, its blocks, their kinds and their tensors, in the order in which an image passes through.

    A kind that is one tensor is that tensor; what did not move is left out.

    >>> tensor = LayerAgreement("visual.transformer.resblocks.0.ln_1.weight", 4, 4, (0, 1, 3))
    >>> [(branch.depth, branch.name) for branch in tensor_tree([tensor])]
    [(0, 'all tensors'), (1, 'block 1'), (2, 'ln: visual.transformer.resblocks.0.ln_1.weight')]
    """
    by_name = {layer.name: layer for layer in layers if layer.moved}
    ordered = [by_name[name] for name in reading_order(by_name)]
    yield Branch(0, "all tensors", tuple(ordered))
    blocks: dict[tuple[bool, int | str], list[LayerAgreement]] = {}
    for layer in ordered:
        number, kind = block_and_kind(layer.name)
        blocks.setdefault(("visual" in layer.name, kind if number is None else number), []).append(layer)
    for (visual, block), inside in blocks.items():
        tower = "" if visual else "text "
        yield Branch(1, f"{tower}block {block}" if isinstance(block, int) else f"{tower}{block}", tuple(inside))
        kinds: dict[str, list[LayerAgreement]] = {}
        for layer in inside:
            kinds.setdefault(block_and_kind(layer.name)[1], []).append(layer)
        for kind, members in kinds.items():
            if isinstance(block, int):
                yield Branch(2, kind if len(members) > 1 else f"{kind}: {members[0].name}", tuple(members))
            if len(members) > 1:
                yield from (Branch(3, layer.name, (layer,)) for layer in members)


def agreement_explorer(bench: Workbench, *, interactive: bool = True) -> Explorer | Figure:
    """Sign agreement of the pool's candidates; controls `where` (a place in the tensor tree) and `votes`.

    The figure is the histogram of votes at that place over what independent signs would give; the bars by layer are
    beneath it. Without interaction it is the whole model's histogram at unanimity.
    """
    layers, n = bench.agreement(), len(bench.pool.distinct)
    tree = list(tensor_tree(layers))
    if not interactive:
        return vote_histogram(total(layers), votes=n)
    controls: dict[str, Any] = {
        # A list that is always open would lose its arrow keys to JupyterLab, which moves between cells with them.
        "where": widgets.Dropdown(
            options=[(f"{INDENT * branch.depth}{branch.name}", place) for place, branch in enumerate(tree)],
            value=0,
            description="tensor tree",
            style=LABELS,
            layout=widgets.Layout(width="36em"),
        ),
        "votes": widgets.IntSlider(
            n,
            min=votes_needed(n, 0.5 + 1e-6),
            max=n,
            description=f"votes of {n}",
            continuous_update=False,
            style=LABELS,
            layout=widgets.Layout(width="27em"),
        ),
    }

    def draw() -> Drawn:
        branch, votes = tree[controls["where"].value], controls["votes"].value
        at, coin = total(branch.layers), chance(n, votes / n)
        share = percent(sum(at.histogram[votes:]) / at.moved)
        line = f"{branch.name}: <b>{share}</b> of {at.moved:,} moved elements; chance {percent(coin)}"
        name = branch.name if branch.depth else "the model"
        return Drawn(
            vote_histogram(at, votes=votes, of=name), line, agreement_by_layer(layers, votes=votes, chance=coin)
        )

    return Explorer(controls, draw)
