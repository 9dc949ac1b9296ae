"""Half precision: what storing weights in 16 bits takes from a merge, counted where it can be."""

from __future__ import annotations

import warnings

import torch

from negmerge_kit.merging.layout import layout_of
from negmerge_kit.merging.sources import Sources

HALF = (torch.float16, torch.bfloat16)


def below_half_step(sources: Sources) -> tuple[int, int]:
    """Count the moves below half a rounding step of their candidate's dtype, and all moves, over all candidates.

    Counted where a candidate is stored in fewer bits than the base: |θk - θ0| is below half a step of its dtype
    exactly where θ0, rounded to that dtype, is θk. All candidates of one dtype round alike there, so such moves agree.
    One more pass over the files, only where a candidate is narrower.

    >>> base = {"w": torch.tensor([1.0, 1.001, 1.001])}
    >>> below_half_step(Sources(base, [{"w": torch.tensor([1.0, 1.0, 2.0]).bfloat16()}]))
    (1, 2)
    """
    small = moved = 0
    layouts = [layout_of(weights) for weights in sources.candidates]
    for name in sources.counted():
        width = sources.layout[name][1].itemsize
        if all(
            given or layout[name][1].itemsize >= width for layout, given in zip(layouts, sources.given, strict=True)
        ):
            continue
        for deltas in sources.chunks(name):
            for candidate, given in zip(deltas.candidates, sources.given, strict=True):
                if not given and candidate.dtype.itemsize < width:
                    left = candidate != deltas.base
                    moved += int(left.count_nonzero())
                    small += int((left & (deltas.base.to(candidate.dtype) == candidate)).count_nonzero())
    return small, moved


def warn_of_half(sources: Sources, stacklevel: int = 3) -> tuple[int, int]:
    """Warn if base or candidates are stored in half precision; return the counts of `below_half_step`."""
    stored = {dtype for _, dtype in sources.layout.values()}
    for candidate in sources.candidates:
        stored |= {dtype for _, dtype in layout_of(candidate).values()}
    if not stored & {*HALF}:
        return 0, 0
    small, moved = below_half_step(sources)
    counted = (
        f"; {small:,} of {moved:,} moves ({100 * small / moved:.1f} %) are smaller than half a step of the candidates' "
        "dtype, so they may be rounding alone, in which candidates agree"
        if small
        else ""
    )
    warnings.warn(
        "weights are stored in half precision: small moves round to exactly zero and break unanimity"
        f"{counted}; keep candidates in float32 where you can.",
        stacklevel=stacklevel,
    )
    return small, moved
