"""What really happened in a scale search, where that is more than "this scale is the last one above the floor"."""

from __future__ import annotations

from negmerge_kit.scoring.curve import Point
from negmerge_kit.scoring.floors import images_needed, reaches
from negmerge_kit.scoring.scale import ScaleSearch


def outcome(found: ScaleSearch) -> str | None:
    """The search in a sentence where its scale alone would mislead; None where the floor ended it as usual.

    Either the floor broke at the first step, or nothing was forgotten (and retention fell, stayed or rose), or the
    range came to its end with retention above the floor.

    >>> from negmerge_kit.scoring.scale import search_scale
    >>> from negmerge_kit.scoring.accuracy import Accuracy
    >>> def score(scale, **bounds):
    ...     return Point(scale, Accuracy(80 - int(20 * scale), 100, "val"), Accuracy(90, 100, "val"))
    >>> outcome(search_scale(score, scales=[0, 0.5, 1]))
    'the grid ended before the floor: at scale 1 retention is 100.0 % of the base’s'
    """
    if found.best is None:
        above = [point for point in found.curve if point.scale > 0]
        if not above:
            return "there is no scale above 0"
        return f"the floor breaks at the first step, scale {above[0].scale:g} ({found.failing})"
    if found.ended is None:
        return None
    if found.choose == "gap":
        return f"the gap was still falling where the grid ended, at scale {found.best.scale:g}"
    least = images_needed(found.keep, found.base)
    last = max((point for point in found.curve if reaches(point, least)), key=lambda point: point.scale)
    if found.best.scale == 0:
        return _nothing_forgotten(found, last)
    at = f"at scale {last.scale:g} retention is {_share(last, found.base)} of the base’s"
    return {
        "floor": None,
        "grid": f"the grid ended before the floor: {at}",
        "cap": f"retention meets no floor up to the largest scale that is tried: {at}",
        "chance": f"accuracy on the forget set is at chance before retention meets the floor: {at}",
        "limit": f"no larger scale can be scored ({_reason(found)}): {at}",
    }[found.ended]


def remedy(found: ScaleSearch) -> str | None:
    """What to try where a search gave no scale above 0; None where it did."""
    if found.best is not None and (found.best.scale > 0 or found.ended is None):
        return None
    if found.best is None:
        first = next((point.scale for point in found.curve if point.scale > 0), 1.0)
        return f"Try finer scales, such as --scales 0:{first:g}:{first / 20:g}, a lower --keep, or other --candidates."
    if found.ended == "grid":
        return "Leave --scales out, so that the search goes on beyond the grid, or choose other --candidates."
    if found.ended == "floor":
        return "Try a lower --keep, or other --candidates."
    return "Choose other --candidates, or a rule that keeps more of what moved."


def _nothing_forgotten(found: ScaleSearch, last: Point) -> str:
    base = found.base
    assert base.retain is not None and last.retain is not None
    if found.ended == "floor":
        return (
            "nothing is forgotten at any scale that keeps enough: accuracy on the forget set stays at the base’s until "
            f"retention falls below the floor, beyond scale {last.scale:g}"
        )
    where = "the grid ended before the floor: up to" if found.ended == "grid" else "up to"
    where = f"{where} scale {last.scale:g} nothing is forgotten"
    if last.retain.correct > base.retain.correct:
        return f"{where}, and retention rose to {_share(last, base)} of the base’s"
    lost = " and nothing lost" if last.retain.correct == base.retain.correct else ""
    return f"{where}{lost}: retention is {_share(last, base)} of the base’s"


def _share(point: Point, base: Point) -> str:
    assert point.retain is not None and base.retain is not None
    return f"{100 * point.retain.value / base.retain.value:.1f} %" if base.retain.correct else "100 %"


def _reason(found: ScaleSearch) -> str:
    return next((point.stopped for point in reversed(found.curve) if point.stopped), "") or ""
