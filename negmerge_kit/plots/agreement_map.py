"""Agreement as a map: blocks of the network down, kinds of tensor across."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from negmerge_kit.merging.agreement import LayerAgreement
from negmerge_kit.plots.scale_curve import agreement_shares
from negmerge_kit.plots.style import AGREE, INK, MUTED, percent, sheet, style

_IN_BLOCK = re.compile(r"((?:text )?b\d+) (.+)")
_SHADES = LinearSegmentedColormap.from_list("agreement", ["#ffffff", AGREE, "#2f2a73"])


def agreement_map(layers: Sequence[LayerAgreement], *, votes: int, chance: float) -> Figure:
    """Share of moved elements with at least `votes` equal signs, by block and kind; outside the blocks at the foot.

    Args:
        layers: agreement by tensor, as `sign_agreement` gives it; tensors of one block and kind are added up.
        votes: how many candidates must share a sign.
        chance: the share that independent signs would reach: white on the map, as is all below it.
    """
    shares = agreement_shares(layers, votes)
    matched = [(_IN_BLOCK.fullmatch(label), share) for label, share in shares.items()]
    inside = {(found[1], found[2]): share for found, share in matched if found}
    outside = {label: share for label, share in shares.items() if not _IN_BLOCK.fullmatch(label)}
    blocks, kinds = list(dict.fromkeys(b for b, _ in inside)), list(dict.fromkeys(k for _, k in inside))
    top = max([*shares.values(), chance + 1e-9])
    with style():
        height = 1.35 + 0.34 * (len(blocks) + (2.2 if outside else 0))
        figure, (axes,) = sheet(map_finding(shares, chance), (6.6, height))
        spots = {(float(kinds.index(kind)), float(blocks.index(block))): x for (block, kind), x in inside.items()}
        spots |= {(float(column), len(blocks) + 0.9): share for column, share in enumerate(outside.values())}
        if spots:
            colours = [min(1.0, max(0.0, (share - chance) / (top - chance))) for share in spots.values()]
            x, y = zip(*spots, strict=True)
            axes.scatter(x, y, s=520, marker="s", c=colours, cmap=_SHADES, vmin=0, vmax=1, gid="map")
            for (place, share), shade in zip(spots.items(), colours, strict=True):
                colour = "white" if shade > 0.45 else INK
                axes.text(*place, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
        for column, label in enumerate(outside):
            axes.text(column, len(blocks) + 1.7, label, ha="center", va="center", fontsize=8, color=MUTED)
        width = max(len(kinds), len(outside), 1)
        axes.set(xlim=(-0.7, width - 0.3), ylim=(len(blocks) + (2.0 if outside else -0.4), -0.6))
        axes.set_xticks(range(len(kinds)), kinds)
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(blocks)), [b.replace("b", "block ") for b in blocks])
        axes.set_xlabel(f"numbers: % of moved elements; white: chance, {percent(chance)}")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def map_finding(shares: dict[str, float], chance: float) -> str:
    """Sentence on where the signs agree most and least.

    >>> map_finding({"pos": 0.5, "b4 mlp": 0.25}, 0.1).replace(chr(160), " ")
    'Agreement is highest in pos (50.0 %) and lowest in b4 mlp (25.0 %); chance is 10.0 %'
    """
    if not shares:
        return "No element moved"
    most, least = max(shares, key=lambda label: shares[label]), min(shares, key=lambda label: shares[label])
    ends = f"highest in {most} ({percent(shares[most])}) and lowest in {least} ({percent(shares[least])})"
    return f"Agreement is {ends}; chance is {percent(chance)}"
