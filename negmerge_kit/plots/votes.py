"""Votes of the signs: the histogram against chance, the consensus as candidates join, and shares of what."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from matplotlib.figure import Figure

from negmerge_kit.analysis.why_signs import ZeroRatio
from negmerge_kit.merging.agreement import LayerAgreement
from negmerge_kit.plots.style import AGREE, INK, MUTED, RULE, percent, percent_ticks, sheet, style


def vote_histogram(layer: LayerAgreement, *, votes: int, of: str = "the model") -> Figure:
    """Share of moved elements by the votes of their majority sign, against independent signs.

    Args:
        layer: the votes of a tensor, or of several added up by `total`.
        votes: how many must agree for an element to be kept; those bars are filled.
        of: what the votes are of, for the title.
    """
    n, moved = len(layer.histogram) - 1, layer.moved
    counts = [layer.histogram[k] / moved if moved else 0.0 for k in range(1, n + 1)]
    coin = coin_votes(n)
    places = range(1, n + 1)
    with style():
        figure, (axes,) = sheet(vote_finding(layer, votes=votes, of=of), (5.4, 3.1))
        bars = axes.bar(places, counts, width=0.74, color="white", edgecolor=AGREE, linewidth=1.2, gid="votes")
        for place, bar in zip(places, bars, strict=True):
            if place >= votes:
                bar.set_facecolor(AGREE)
        axes.plot(places, coin, "D", color=INK, markersize=4.5, gid="chance", label="independent signs", zorder=4)
        axes.axvline(votes - 0.5, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.6)), gid="threshold")
        axes.set(xlabel=f"candidates on the majority sign, of {n}", ylim=(0, max([*counts, *coin]) * 1.12))
        axes.set_ylabel("share of moved elements")
        axes.set_xticks(list(places))
        axes.yaxis.set_major_formatter(percent_ticks())
        axes.legend(loc="upper left")
    return figure


def coin_votes(n: int) -> list[float]:
    """Probability of 1 … n votes for the majority among n independent fair signs.

    >>> coin_votes(3)
    [0.0, 0.75, 0.25]
    """
    return [
        (comb(n, k) * (2 if 2 * k > n else 1) / 2**n if 2 * k >= n else 0.0) for k in range(1, n + 1)
    ]  # a tie counts once: both signs have k votes


def vote_finding(layer: LayerAgreement, *, votes: int, of: str = "the model") -> str:
    """Sentence on what the histogram shows.

    >>> vote_finding(LayerAgreement("w", 10, 8, (0, 0, 2, 6)), votes=3, of="w").replace(chr(160), " ")
    'In w, 75.0 % of 8 moved elements have 3 of 3 votes; chance gives 25.0 %'
    """
    n = len(layer.histogram) - 1
    if not layer.moved:
        return f"In {of}, no element moved"
    share = sum(layer.histogram[votes:]) / layer.moved
    many = f"{votes} of {n}" if votes == n else f"{votes} or more of {n}"
    coin = percent(sum(coin_votes(n)[votes - 1 :]))
    return f"In {of}, {percent(share)} of {layer.moved:,} moved elements have {many} votes; chance gives {coin}"


def consensus_by_count(sizes: Sequence[ZeroRatio]) -> Figure:
    """Share of the moved elements that unanimity sets to zero as candidates join (`why_signs(...).zero_ratio`).

    The line is the mean over random orders of joining and the band their range, which is no interval: the orders
    share candidates. Crosses are what the cosines of whole task vectors predict.
    """
    counts, last = [size.n for size in sizes], sizes[-1]
    finding = f"With {last.n} candidates {percent(last.mean)} of what moved becomes zero; by chance "
    with style():
        figure, (axes,) = sheet(f"{finding}{percent(last.chance)}", (5.4, 3.1))
        low, high = [size.least for size in sizes], [size.most for size in sizes]
        axes.fill_between(counts, low, high, color=AGREE, alpha=0.2, linewidth=0)
        axes.plot(counts, [size.mean for size in sizes], "o-", color=AGREE, markersize=4, gid="zeros", label="mean")
        axes.plot(
            counts,
            [size.chance for size in sizes],
            color=INK,
            linewidth=1.2,
            linestyle=(0, (4, 2.5)),
            gid="chance",
            label="independent signs",
        )
        axes.plot(
            counts,
            [size.expected for size in sizes],
            "x",
            color=MUTED,
            markersize=5.5,
            gid="expected",
            label="from cosines alone",
        )
        axes.set(xlabel="candidates that must all agree", ylim=(0, 1.02), ylabel="zero share of moved elements")
        axes.set_xticks(counts)
        axes.yaxis.set_major_formatter(percent_ticks())
        axes.legend(loc="lower right")
    return figure


def shares_of_what(layers: Sequence[LayerAgreement], *, whole: int) -> Figure:
    """The elements that all signs agree on, as a share of the model, of what was trained, and of what moved.

    Args:
        layers: agreement of the tensors that moved in at least one candidate.
        whole: floating elements of the whole model, the never-trained ones too.
    """
    trained, moved = sum(layer.elements for layer in layers), sum(layer.moved for layer in layers)
    unanimous = sum(layer.unanimous for layer in layers)
    rows = (("the whole model", whole), ("tensors that train", trained), ("elements that moved", moved))
    shares = [unanimous / count if count else 0.0 for _, count in rows]
    texts = list(dict.fromkeys(percent(share) for share in shares))
    finding = f"All signs agree on {unanimous:,} elements: " + " or ".join(texts)
    with style():
        figure, (axes,) = sheet(f"{finding}, of what?", (6.4, 1.9))
        names = [f"of {name}" for name, _ in rows]
        counts = [count for _, count in rows]
        axes.barh(names, counts, color=RULE, height=0.66, gid="all")
        axes.barh(names, [unanimous] * 3, color=AGREE, height=0.66, gid="unanimous")
        for row, (share, count) in enumerate(zip(shares, counts, strict=True)):
            axes.annotate(
                f"{percent(share)} of {count:,}",
                (count, row),
                (5, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                fontsize=8.5,
            )
        axes.set(xlim=(0, max(counts) * 1.3), ylim=(2.6, -0.6), xlabel="elements; violet: all signs agree")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M")
        axes.grid(False)
        axes.tick_params(length=0)
    return figure
