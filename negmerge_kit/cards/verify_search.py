"""A card's scale search, run again: the curve point by point, the range, the scale it finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from negmerge_kit.classifier_eval.evaluator import ClassifierEvaluator
from negmerge_kit.classifier_eval.retrained_model import RetrainedSpec, find_retrained
from negmerge_kit.scoring.early_stopping import FARTHEST, NO_NUMBERS, NOT_BETTER
from negmerge_kit.scoring.retention_floor import images_needed, reaches
from negmerge_kit.scoring.scale_search import METHODS, Point, ScaleSearch
from negmerge_kit.types import Json
from negmerge_kit.unlearning.live_model import NEGATIVE_VARIANCE

if TYPE_CHECKING:
    from negmerge_kit.unlearning.delta_cache import Choice
    from negmerge_kit.unlearning.workbench import Workbench

NOT_NEEDED = "not looked at: the curve fell wherever it was looked at"
"""What version 0.1's bisecting search said of the scales between those that it looked at."""

Says = tuple[str, bool | None, str]
"""A claim's name, whether it holds, and why."""


def nearest_to(record: Json) -> RetrainedSpec:
    """The retrained model that a search by the gap used, as the card names it."""
    return RetrainedSpec(sha256=(record["search"].get("retrained") or {}).get("sha256"))


def check_search(bench: Workbench, choice: Choice, record: Json) -> Iterator[Says]:
    """Claims about how the scale was chosen: the scale that the same search finds, and every point of its curve."""
    search = record["search"]
    if not search:
        if record.get("keep") is None:
            yield "scale", True, f"{record['scale']:g}, chosen by hand"
        else:
            yield "scale", False, "the card has a floor and no search that looked for it"
        return
    scales, by_gap = [point["scale"] for point in search["curve"]], search.get("choose") == "gap"
    if by_gap and find_retrained(bench.pool, nearest_to(record)) is None:
        missing = "the retrained model to which the scale was to be nearest is not at hand."
        yield "scale", None, missing
        yield "curve", None, missing
        return
    if by_gap:
        found = ClassifierEvaluator(bench, wanted=nearest_to(record)).nearest(choice, scales=scales)
    else:
        method = next((known for known in METHODS if known == search.get("method")), METHODS[0])
        found = bench.search(choice, keep=record["keep"], scales=scales, method=method)
    best = found.best
    same = best is not None and best.scale == record["scale"]
    says = "nothing feasible" if best is None else f"scale {best.scale:g}"
    yield "scale", same, f"the search over {len(scales)} scales finds {says}"
    yield _curve(bench, choice, record, found)
    yield _range(record, found)


def _curve(bench: Workbench, choice: Choice, record: Json, found: ScaleSearch) -> Says:
    search, each = record["search"]["curve"], isinstance(record["keep"], dict)
    wrong = []
    for claimed, fresh in zip(search, found.curve, strict=False):
        if claimed == fresh.json(each=each):
            continue
        if found.choose == "gap" or fresh.stopped in (NO_NUMBERS, NEGATIVE_VARIANCE):
            wrong.append(fresh)
            continue
        # Another order of the same search (kept points, a doubling looked at first) stops elsewhere: counted in full.
        full = bench.score(choice, claimed["scale"], "val").point(claimed["scale"])
        if not _follows(claimed, full, found, each=each):
            wrong.append(full)
    if len(search) != len(found.curve):
        return "curve", False, f"{len(search)} points, recomputed {len(found.curve)}: a scale is there twice"
    costs = record["costs"]
    counts = {
        "scales_tried": len(search),
        "scales_scored_in_full": sum(point.get("stopped") is None for point in search),
    }
    off = [name for name, n in counts.items() if costs.get(name) not in (None, n)]
    if wrong:
        at = ", ".join(f"{point.scale:g} ({_numbers(point)})" for point in wrong[:3])
        return "curve", False, f"{len(wrong)} of {len(search)} points differ, recomputed at scale {at}"
    if off:
        return "curve", False, f"costs.{off[0]} is {costs[off[0]]}, the curve has {counts[off[0]]}"
    return "curve", True, f"all {len(search)} points"


def _follows(claimed: Json, full: Point, found: ScaleSearch, *, each: bool) -> bool:
    """Whether a claimed point is what some order of the search could have said of a scale, given its full scores."""
    stopped = claimed.get("stopped")
    if stopped is None:
        return claimed == full.json(each=each)
    assert full.forget is not None
    if claimed.get("forget") not in (None, full.forget.json()) or claimed.get("retain") is not None:
        return False
    kept = reaches(full, images_needed(found.keep, found.base))
    bar = found.best.forget.correct if found.best and found.best.forget else -1
    beaten = full.forget.correct >= bar  # of equals the smaller scale is chosen, and `best` is
    if stopped == NOT_BETTER:
        return beaten
    return (not kept or beaten) if stopped == NOT_NEEDED else not kept and "cannot reach" in stopped


def _range(record: Json, found: ScaleSearch) -> Says:
    search = record["search"]
    ended = search.get("ended")
    if search.get("range") not in (None, list(found.range)):
        return "range", False, f"from {search['range']}, the curve has {list(found.range)}"
    beyond = ended == "cap" and found.ended == "grid" and found.range[1] >= FARTHEST
    if "ended" in search and ended != found.ended and not beyond:
        return "range", False, f"ended by {ended}, recomputed {found.ended}"
    return "range", True, f"{found.range[0]:g} to {found.range[1]:g}"


def _numbers(point: Point) -> str:
    if point.forget is None or point.retain is None:
        return str(point.stopped)
    return f"forget {100 * point.forget.value:.2f} %, retain {100 * point.retain.value:.2f} %"
