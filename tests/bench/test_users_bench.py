"""Many visitors at once: the bench itself, small; its visitor beside the page's own functions."""

import asyncio
import json
import socket

import httpx
import pytest

from benchmarks.__main__ import main
from benchmarks.bench_users import bench as users
from benchmarks.bench_visitor import VisitError, Visitor


@pytest.mark.slow
def test_three_visitors_for_five_seconds(tiny_pool):
    told = users(tiny_pool, users=3, seconds=5, device="cpu", moves=10, settle=0.5)
    assert told["errors"] == [] and told["equal"] == told["compared"] >= 3
    rows = {(row["who"], row["move"]): row for row in told["rows"]}
    assert list(rows) == [
        (who, kind) for who in ("alone", "3 at once", "alone, during a job") for kind in ("all moves", "steps", "drags")
    ]
    assert [rows["alone", kind]["moves"] for kind in ("all moves", "steps", "drags")] == [10, 9, 1]
    assert 0 < rows["alone", "steps"]["median_ms"] <= rows["alone", "all moves"]["slowest_ms"]
    checks = {check["what"]: check for check in told["checks"]}
    assert checks["errors"]["measured"] == checks["traces in the log"]["measured"] == 0
    assert checks["p95 of all moves against a single visitor's"]["measured"] == told["ratios"]["all moves"] > 0
    assert told["ratios"]["drags"] is None  # of one drag there is no percentile
    json.dumps(told, allow_nan=True)


def test_flags_of_other_subjects_are_refused(capsys):
    assert main(["merge", "--users", "3"]) == 2
    assert "takes no --users" in capsys.readouterr().err


def visit(address, stay):
    async def go():
        async with httpx.AsyncClient(base_url=address, timeout=60) as http:
            visitor = Visitor(http)
            await visitor.arrive()
            found = await stay(visitor)
            await visitor.leave()
            return found

    return asyncio.run(go())


@pytest.fixture(scope="module")
def address(tiny_pool):
    from negmerge_kit.app import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    blocks = serve(tiny_pool, device="cpu", port=port, block=False)
    yield f"http://127.0.0.1:{port}"
    blocks.close(verbose=False)


@pytest.mark.slow
def test_a_drag_sends_the_first_and_the_last_and_drops_what_was_stale(address, bench):
    async def stay(visitor):
        return await visitor.drag([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])

    move = visit(address, stay)
    assert move.made == 8 and 2 <= move.sent < 8 and move.scale == 0.8
    point = bench.score(bench.choose(), 0.8, "live")
    assert f"{100 * point.forget.value:.1f}" in move.answer and 'data-scale=\\"0.8\\"' in move.answer


def test_a_slider_that_sends_every_move_is_noticed(address):
    async def stay(visitor):
        for event in visitor._events:
            event["trigger_mode"] = "multiple"
        return await visitor.drag([0.1, 0.2])

    with pytest.raises(VisitError, match="sends stale moves"):
        visit(address, stay)


@pytest.mark.slow
def test_another_choice_has_other_numbers(address, bench):
    async def stay(visitor):
        every = await visitor.drag([0.6])
        await visitor.choose(visitor.candidates[:1])
        return every, await visitor.drag([0.6])

    every, one = visit(address, stay)
    assert every.answer != one.answer


def test_an_error_of_the_app_is_raised(address):
    async def stay(visitor):
        return await visitor.drag([9999.0])

    with pytest.raises(VisitError, match="greater than maximum"):
        visit(address, stay)
