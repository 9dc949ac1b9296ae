"""The named endpoints that scripts call: /pools, /score, /search and /compare. Every argument is checked here."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from negmerge_kit.app.errors import as_gradio_error
from negmerge_kit.app.jobs import Job
from negmerge_kit.app.pages.rule_dials import buffers_of
from negmerge_kit.app.pools import Pools
from negmerge_kit.app.templates import short
from negmerge_kit.baselines import BASELINES
from negmerge_kit.comparison.methods import find_methods
from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.pipeline import score_json, search_json
from negmerge_kit.scoring.early_stopping import AUTO, Scales, parse_scales
from negmerge_kit.scoring.scale_search import Method
from negmerge_kit.types import Json
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench

SPLITS = ("val", "test", "live")
MOST_SCALES = 201
MOST_ROWS = 64
LARGEST = 1000.0


class Endpoints:
    """The functions behind the endpoints, over what is served; heavy ones take turns with the pages' jobs."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def pools(self) -> list[str]:
        """The ids of the pools that this app serves."""
        return self._pools.ids

    def score(
        self,
        pool: str,
        candidates: list[str] | None = None,
        rule: str = "negmerge",
        scale: float = 1.0,
        params: dict[str, Any] | None = None,
        split: str = "val",
        buffers: str = "keep",
    ) -> dict[str, Any]:
        """Forget and retain at one scale: {"forget", "retain", "base", "kept_fraction", "seconds"}."""
        bench, choice = self._choice(pool, candidates, rule, params, buffers)
        if split not in SPLITS:
            raise ParameterError(f"split is {split!r}: choose one of {', '.join(SPLITS)}.")
        return score_json(bench, choice, _number(scale, "scale", 0.0, LARGEST), split)

    def search(
        self,
        pool: str,
        candidates: list[str] | None = None,
        rule: str = "negmerge",
        params: dict[str, Any] | None = None,
        keep: float = 0.95,
        scales: str = AUTO,
        exhaustive: bool = False,
        test: bool = False,
        buffers: str = "keep",
    ) -> dict[str, Any]:
        """The scale that forgets most on validation with retention at its floor, as `negmerge search --json`."""
        started = time.perf_counter()
        bench, choice = self._choice(pool, candidates, rule, params, buffers)
        grid = _grid(scales)
        for name, value in (("exhaustive", exhaustive), ("test", test)):
            if not isinstance(value, bool):
                raise ParameterError(f"{name} is {value!r}: give true or false.")
        method: Method = "exhaustive" if exhaustive else "early"
        floor = _number(keep, "keep", 0.0, 1.0)

        def work(job: Job) -> Json:
            found = bench.search(choice, keep=floor, scales=grid, method=method)
            return search_json(bench, choice, found, test=test, started=started)

        answer: Json = self._pools.jobs.do(work)
        return answer

    def compare(
        self,
        pool: str,
        rules: str = "all",
        baselines: str = "all",
        keep: float = 0.95,
        scales: str = AUTO,
        buffers: str = "keep",
    ) -> dict[str, Any]:
        """All rules at equal retention, as `negmerge compare --json` but for "pool", which is the id that came in."""
        opened = self._pools.open(pool)
        for name, value in (("rules", rules), ("baselines", baselines)):
            if not isinstance(value, str) or len(value) > 10_000:
                raise ParameterError(f"{name} is {short(value)}: give names with commas between them, all or none.")
        if any(name.strip() in BASELINES for name in f"{rules},{baselines}".split(",")):
            raise ParameterError(
                "baselines train a network for minutes, which this app does for nobody: give searches "
                "(single, greedy), or run `negmerge compare POOL --baselines all`."
            )
        methods = find_methods(rules, baselines)
        if len(methods) > MOST_ROWS:
            raise ParameterError(f"{len(methods)} rows are too many for one call: name at most {MOST_ROWS}.")
        floor, grid = _number(keep, "keep", 0.0, 1.0), _grid(scales)
        return opened.compare.answer(methods, floor, grid, buffers_of(buffers)).json() | {"pool": opened.id}

    def _choice(
        self, pool: object, candidates: object, rule: object, params: object, buffers: object
    ) -> tuple[Workbench, Choice]:
        bench = self._pools.open(pool).bench
        if not isinstance(rule, str):
            raise ParameterError(f"rule is {short(rule)}: give a rule's name.")
        if candidates is not None and not (
            isinstance(candidates, list) and len(candidates) < 10_000 and all(isinstance(id, str) for id in candidates)
        ):
            raise ParameterError("candidates must be a list of candidate ids, or null for all of them.")
        if params is not None and not (isinstance(params, dict) and all(isinstance(name, str) for name in params)):
            raise ParameterError('params must be an object such as {"agreement": 0.8}, or null for the defaults.')
        bench.refresh()  # candidates may have been added since, by this process or another
        if candidates is None and not bench.pool.ids:
            raise PoolError(f"pool {pool} has no finished candidate yet: call again once one is fine-tuned.")
        return bench, bench.choose(candidates, rule, params, buffers=buffers_of(buffers))


def publish(endpoints: Endpoints) -> None:
    """Add the endpoints to the Blocks that are being built."""
    for name in ("pools", "score", "search", "compare"):
        function = getattr(endpoints, name)
        gr.api(as_gradio_error(function), api_name=name, api_description=function.__doc__, concurrency_limit=4)


def _grid(scales: object) -> Scales:
    if not isinstance(scales, str) or len(scales) > 10_000:
        raise ParameterError("scales must be a short text: write auto, START:STOP:STEP or a list such as 0.5,0.7.")
    if (given := parse_scales(scales)) is None:
        return None
    grid = [_number(scale, "scale", 0.0, LARGEST) for scale in given]
    if len(grid) > MOST_SCALES:
        raise ParameterError(f"{len(grid)} scales are too many for one call: give at most {MOST_SCALES}.")
    return grid


def _number(value: object, name: str, low: float, high: float) -> float:
    # A NaN is not between the two either.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ParameterError(f"{name} is {short(value)}: give a number from {low:g} to {high:g}.")
    return float(value)
