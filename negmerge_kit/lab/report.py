"""Results as the JSON that the command line prints, the endpoints return."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from negmerge_kit.scoring.floors import keep_text
from negmerge_kit.scoring.outcome import outcome, remedy
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.lab.evaluation import Scores
    from negmerge_kit.lab.resident import Choice
    from negmerge_kit.lab.workbench import Workbench
    from negmerge_kit.scoring.scale import ScaleSearch


def score_json(bench: Workbench, choice: Choice, scale: float, split: str = "val") -> Json:
    """`{"forget", "retain", "base", "kept_fraction", "seconds"}` of one scale on one split, scored now.

    Raises:
        ParameterError: if the scale is not a finite number of 0 or more.
        SceneError: for a split that the scene does not have.
    """
    started = time.perf_counter()
    scores, base = bench.score(choice, scale, split), bench.base_scores(split)
    return {
        **_pair(scores),
        "base": _pair(base),
        "kept_fraction": bench.merged(choice).counts.kept_fraction,
        "seconds": time.perf_counter() - started,
    }


def search_json(bench: Workbench, choice: Choice, found: ScaleSearch, *, test: bool, started: float) -> Json:
    """The object of `search --json`; with `test` the chosen scale is scored once on the test split.

    Beyond the contract: "choose" says by what the scale was chosen, "failing" which floors fail where nothing is
    feasible, "method" how the scales were searched, "range" from which scale to which, "ended" what
    ended that range upwards, and "outcome" what happened where the scale alone would mislead, with "remedy" where
    no scale above 0 was found; with a floor for each retain set, "keep" is an object and every point has "retain_sets".

    Args:
        found: what `bench.search` or `bench.fixed` answered for this choice.
        started: `time.perf_counter()` from before the search, for "seconds".
    """
    best, base, each = found.best, found.base, isinstance(found.keep, Mapping)
    return {
        "rule": choice.rule,
        "params": dict(choice.params),
        "status": found.status,
        "failing": found.failing,
        "scale": best.scale if best else None,
        "keep": found.keep,
        "choose": found.choose,
        "method": found.method,
        "range": list(found.range),
        "ended": found.ended,
        "outcome": outcome(found),
        "remedy": remedy(found),
        "base": {"forget": base.forget and base.forget.json(), "retain": base.retain and base.retain.json()},
        "forget": best.forget.json() if best and best.forget else None,
        "retain": best.retain.json() if best and best.retain else None,
        "kept_fraction": bench.merged(choice).counts.kept_fraction,
        "curve": [point.json(each=each) for point in found.curve],
        "test": on_test(bench, choice, best.scale) if test and best else None,
        "seconds": time.perf_counter() - started,
    }


def on_test(bench: Workbench, choice: Choice, scale: float) -> Json:
    """`{"base", "forget", "retain"}` on the test split, for a scale that was chosen without it."""
    return {"base": _pair(bench.base_scores("test")), **_pair(bench.score(choice, scale, "test"))}


def searched(result: Json) -> str:
    """How a search chose its scale, in words; by the gap it keeps no floor, and `keep` is 0.

    >>> searched({"curve": [{"scale": 0.0}, {"scale": 0.5}, {"scale": 1.0}], "keep": 0.95})
    "search over 3 scales from 0 to 1 on validation, keeping at least 0.95 of the base's retention"
    """
    scales = [point["scale"] for point in result["curve"]]
    over = f"search over {len(scales)} scales from {scales[0]:g} to {scales[-1]:g} on validation"
    if result.get("choose") == "gap":
        return f"{over}, nearest to the retrained model"
    return f"{over}, keeping at least {keep_text(result['keep'])}"


def _pair(scores: Scores) -> Json:
    return {"forget": scores.forget.json(), "retain": scores.retain.json()}
