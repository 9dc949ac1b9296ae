"""Turns at the shared model: in order, the background last but not never, and nothing lost on the way."""

import threading

import pytest

from negmerge_kit.pools.pool import open_pool
from negmerge_kit.unlearning.fair_lock import PATIENCE, FairLock, background_priority
from negmerge_kit.unlearning.workbench import Workbench

WAIT = 10


def begin(turns, name, order, *, background=False):
    """A thread that waits for its turn and then writes its name down."""

    def run():
        if background:
            with background_priority(), turns:
                order.append(name)
        else:
            with turns:
                order.append(name)

    before = len(turns._soon) + len(turns._later)
    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(1000):
        if len(turns._soon) + len(turns._later) > before:
            return thread
        threading.Event().wait(0.005)
    raise AssertionError("the thread never came to wait")


def test_in_order_of_arrival_with_the_background_behind():
    turns, order = FairLock(), []
    with turns:
        threads = [
            begin(turns, "job", order, background=True),
            begin(turns, "first", order),
            begin(turns, "second", order),
        ]
    for thread in threads:
        thread.join(WAIT)
    assert order == ["first", "second", "job"]


def test_the_background_is_not_starved():
    turns, order = FairLock(), []
    with turns:
        threads = [begin(turns, "job", order, background=True)]
        threads += [begin(turns, str(number), order) for number in range(PATIENCE + 3)]
    for thread in threads:
        thread.join(WAIT)
    assert order.index("job") == PATIENCE


def test_background_work_gives_way_and_goes_on_with_its_whole_turn():
    turns, order = FairLock(), []
    with background_priority(), turns, turns:
        assert not turns.yield_to_foreground()
        thread = begin(turns, "move", order)
        assert turns.yield_to_foreground() and order == ["move"]
        waiting = begin(turns, "later", order)
        order.append("job")
    for each in (thread, waiting):
        each.join(WAIT)
    assert order == ["move", "job", "later"]


def test_the_foreground_gives_way_to_nobody():
    turns, order = FairLock(), []
    with turns:
        thread = begin(turns, "other", order)
        assert not turns.yield_to_foreground() and order == []
    thread.join(WAIT)


def test_an_error_hands_the_turn_on():
    turns, order = FairLock(), []
    with pytest.raises(ZeroDivisionError), turns:
        thread = begin(turns, "next", order)
        raise ZeroDivisionError
    thread.join(WAIT)
    assert order == ["next"]


@pytest.mark.slow
def test_a_slider_move_has_the_model_in_the_middle_of_a_job_and_both_get_their_numbers(tiny_pool):
    other, bench = (Workbench(open_pool(tiny_pool), device="cpu", memory="none") for _ in range(2))
    choice = bench.choose()
    alone, moved = other.score(choice, 0.5, "val"), other.score(choice, 1.1, "live")
    began, order, found = threading.Event(), [], {}

    def job():
        with background_priority(), bench.at(choice, 0.5):
            began.set()
            while not bench._turn._soon:  # until the mover waits
                threading.Event().wait(0.005)
            found["job"] = bench.score(choice, 0.5, "val")
            order.append("job")

    def move():
        assert began.wait(WAIT)
        found["move"] = bench.score(choice, 1.1, "live")
        order.append("move")

    threads = [threading.Thread(target=part) for part in (job, move)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert order == ["move", "job"] and found == {"job": alone, "move": moved}
