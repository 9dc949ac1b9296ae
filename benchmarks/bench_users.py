"""Many visitors at once over HTTP: no error, everyone's own numbers, no long wait, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import statistics
import time
from collections.abc import Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from benchmarks.bench_served import Served, served
from benchmarks.bench_visitor import Move, VisitError, Visitor
from negmerge_kit.errors import PoolError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.types import Json

LIMIT_RATIO, LIMIT_GROWTH = 15.0, 0.05
PAUSE = 1.0
"""Seconds between a visitor's moves."""

DRAG_EVERY, DRAG_EVENTS = 10, 6
"""Every how many moves one is a drag, and of how many input events; the others are single steps."""

SETTLE = 10.0
"""Seconds of rest before memory is read."""

WARM_UP = 5.0
"""Seconds of a crowd that comes first, so that every thread has started and every cache is as full as it gets."""

CHECKED = 100
"""How many different answers of the crowd a single visitor asks for again."""

Stay: TypeAlias = tuple[list[str], list[Move]]
"""The candidates that a visitor chose, and the moves made with them."""

ALL = "all moves"

PICTURE = re.compile("<figure>.*?</figure>")

SCALES = tuple(round(0.01 * step, 2) for step in range(3, 150))


def bench(
    pool: str | Path | None = None,
    *,
    users: int = 20,
    seconds: float = 120.0,
    device: str = "auto",
    moves: int = 90,
    settle: float = SETTLE,
) -> Json:
    """`users` visitors, each with different candidates, move the slider for `seconds`; what `bench users` prints.

    A visitor moves to a scale drawn at random, waits for the answer, and moves again after a second; who comes back to
    a scale is answered from memory, in the crowd and alone about as often. Rows: a visitor alone; the crowd; the same
    visitor with other candidates during a heavy job that never ends (whole validation splits, scale after scale); all
    moves, one in ten of them a drag, and then single steps and drags apart. Times run from the hand's last input event
    to the answer for it; a drag waits for two, its first event's and its last's. `ratios` are of the 95th percentiles
    (None where a drag alone came too seldom).
    `equal` counts the answers of the crowd that a single visitor of a fresh app got again to the last character,
    but for the order of the pictures, which follows the scales that have been scored; `dropped` the input events
    that were stale before the page could send them; memory is the server's resident set at rest: after one visitor,
    after a crowd that came for a moment, and after the crowd itself; `growth` is of the last two, so that buffers
    that every crowd needs do not count.

    Raises:
        PoolError: if the pool has fewer than two candidates.
        NegmergeError: if the app does not start.
    """
    opened = open_pool(pool) if pool else start_pool("tiny:digits")[0]
    if len(opened.ids) < 2:
        raise PoolError(f"{opened.folder} has fewer than two candidates: run `negmerge pool build tiny` first.")
    with served(opened.folder, device) as app:
        result, stays = asyncio.run(_measure(app, opened.ids, users, seconds, moves, settle))
        log = app.said()
    with served(opened.folder, device) as fresh:
        result["equal"], result["compared"] = asyncio.run(_asked_again(fresh, stays))
    alone, crowd, memory = result["rows"][:3], result["rows"][3:6], result["memory_mb"]
    ratios = {few["move"]: _finite(many["p95_ms"] / few["p95_ms"]) for few, many in zip(alone, crowd, strict=True)}
    growth = _finite(memory["after"] / memory["before"] - 1)
    checks = (
        ("errors", len(result["errors"]), 0),
        ("traces in the log", log.count("Traceback"), 0),
        ("answers unlike a single visitor's", result["compared"] - result["equal"], 0),
        ("stale input events dropped", result["dropped"], None),
        *(
            (f"p95 of {kind} against a single visitor's", ratio, LIMIT_RATIO if kind == ALL else None)
            for kind, ratio in ratios.items()
        ),
        ("growth of memory", growth, LIMIT_GROWTH),
    )
    return result | {
        "candidates": len(opened.ids),
        "cores": os.cpu_count(),
        "ratios": ratios,
        "growth": growth,
        "checks": [{"what": what, "measured": measured, "limit": limit} for what, measured, limit in checks],
    }


def _finite(value: float) -> float | None:
    """A number, or None for what was not measured."""
    return None if math.isnan(value) else value


async def _measure(
    app: Served, ids: Sequence[str], users: int, seconds: float, moves: int, settle: float
) -> tuple[Json, list[Stay]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=app.address, timeout=120.0, limits=limits) as http:
        one = Visitor(http)
        await one.arrive()
        for scale in SCALES[:3]:
            await one.drag([scale])
        lot = random.Random(0)
        alone = [await _move(one, index, 0.1, lot) for index in range(moves)]
        memory = {"one": await _at_rest(app, settle)}
        visits = await _crowd(http, ids, users, min(WARM_UP, seconds))
        memory["before"] = await _at_rest(app, settle)
        warmed, visits = visits, await _crowd(http, ids, users, seconds)
        memory["after"] = await _at_rest(app, settle)
        stays = [visit for visit in visits if not isinstance(visit, BaseException)]
        await one.choose(list(ids)[:-1])
        during_job = await _during_a_job(http, one, moves)
        await one.leave()
    for visit in (*warmed, *visits):
        if isinstance(visit, BaseException) and not isinstance(visit, VisitError | httpx.HTTPError):
            raise visit
    errors = [str(visit) or type(visit).__name__ for visit in (*warmed, *visits) if isinstance(visit, BaseException)]
    made = [move for _, part in stays for move in part]
    result = {
        "users": users,
        "seconds": seconds,
        "rows": [
            row
            for who, moves in (("alone", alone), (f"{users} at once", made), ("alone, during a job", during_job))
            for row in _rows(who, moves)
        ],
        "errors": errors,
        "dropped": sum(move.made - move.sent for move in made),
        "memory_mb": memory,
    }
    return result, stays


async def _crowd(http: httpx.AsyncClient, ids: Sequence[str], users: int, seconds: float) -> list[Stay | BaseException]:
    sets = zip(range(users), _sets(ids), strict=False)
    visits = (_visit(http, list(mine), number, seconds) for number, mine in sets)
    return await asyncio.gather(*visits, return_exceptions=True)


async def _at_rest(app: Served, settle: float) -> float:
    await asyncio.sleep(settle)
    return app.memory()


async def _visit(http: httpx.AsyncClient, mine: list[str], number: int, seconds: float) -> Stay:
    """A stay: arrive, choose, and then move until the time is over, once at least."""
    visitor, lot, made = Visitor(http), random.Random(number), list[Move]()
    await asyncio.sleep(PAUSE * lot.random())
    await visitor.arrive()
    await visitor.choose(mine)
    until = time.monotonic() + seconds
    while not made or time.monotonic() < until:
        made.append(await _move(visitor, len(made), PAUSE, lot))
    await visitor.leave()
    return mine, made


async def _move(visitor: Visitor, index: int, pause: float, lot: random.Random) -> Move:
    await asyncio.sleep(pause)
    return await visitor.drag(lot.sample(SCALES, 1 if (index + 1) % DRAG_EVERY else DRAG_EVENTS))


async def _asked_again(app: Served, stays: Sequence[Stay]) -> tuple[int, int]:
    """(equal, asked): answers of the crowd that a single visitor gets from an app that nobody else uses."""
    said = [(mine, move) for mine, moves in stays for move in moves]
    sample = random.Random(1).sample(said, min(CHECKED, len(said)))
    equal = 0
    async with httpx.AsyncClient(base_url=app.address, timeout=120.0) as http:
        one = Visitor(http)
        await one.arrive()
        for mine, move in sorted(sample, key=lambda pair: pair[0]):
            if one.candidates != mine:
                await one.choose(mine)
            equal += _unordered((await one.drag([move.scale])).answer) == _unordered(move.answer)
        await one.leave()
    return equal, len(sample)


def _unordered(answer: str) -> tuple[str, list[str]]:
    """What is around the pictures, and the pictures in an order that does not depend on what has been scored.

    >>> _unordered("a<figure>2</figure><figure>1</figure>b")
    ('ab', ['<figure>1</figure>', '<figure>2</figure>'])
    """
    return PICTURE.sub("", answer), sorted(PICTURE.findall(answer))


async def _during_a_job(http: httpx.AsyncClient, one: Visitor, moves: int) -> list[Move]:
    """A visitor's moves while searches of the whole validation split run one after another."""
    heavy = asyncio.ensure_future(_search(http))
    await asyncio.sleep(0.5)
    lot = random.Random(2)
    made = [await _move(one, index, 0.1, lot) for index in range(moves)]
    heavy.cancel()
    await asyncio.gather(heavy, return_exceptions=True)
    return made


async def _search(http: httpx.AsyncClient) -> None:
    pools: Any = await _called(http, "pools", [])
    scales = ",".join(f"{scale:g}" for scale in SCALES[::3])
    while True:
        await _called(http, "search", [pools[0][0], None, "uniform", None, 0.95, scales, True, False, "keep"])


async def _called(http: httpx.AsyncClient, name: str, data: list[object]) -> list[object]:
    """A named endpoint, called as scripts do."""
    joined = (await http.post(f"/gradio_api/call/{name}", json={"data": data})).raise_for_status().json()
    lines = (await http.get(f"/gradio_api/call/{name}/{joined['event_id']}")).text.splitlines()
    if "event: complete" not in lines:
        raise VisitError(f"/{name} ended in an error: {lines}.")
    answer: list[object] = json.loads(lines[lines.index("event: complete") + 1].removeprefix("data:"))
    return answer


def _sets(ids: Sequence[str]) -> list[tuple[str, ...]]:
    """Different choices of candidates, all but a few of them; again from the start where there are too few."""
    found = list(chain.from_iterable(combinations(ids, len(ids) - left) for left in range(min(3, len(ids)))))
    return found * (1 + 1000 // len(found))


def _rows(who: str, moves: Sequence[Move]) -> list[Json]:
    steps, drags = [move for move in moves if move.made == 1], [move for move in moves if move.made > 1]
    return [_row(who, ALL, moves), _row(who, "steps", steps), _row(who, "drags", drags)]


def _row(who: str, kind: str, moves: Sequence[Move]) -> Json:
    times = [1000 * move.seconds for move in moves]
    several = len(times) > 1
    return {
        "who": who,
        "move": kind,
        "moves": len(times),
        "median_ms": statistics.median(times) if times else math.nan,
        "p95_ms": statistics.quantiles(times, n=20, method="inclusive")[-1] if several else math.nan,
        "slowest_ms": max(times, default=math.nan),
    }
