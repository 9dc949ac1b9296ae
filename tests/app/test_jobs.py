"""Heavy work takes turns, is shared by who asks for the same, ends when nobody waits, and never takes the app down."""

import threading
from types import SimpleNamespace

import pytest

from negmerge_kit.app.jobs import CLOSED, CancelledError, Done, Job, JobFailedError, JobProgress, Jobs
from negmerge_kit.errors import ParameterError

WAIT = 10


def last(news):
    return list(news)[-1]


def test_a_job_tells_how_far_it_is_and_ends_with_its_result():
    seen, go = [], threading.Event()

    def work(job):
        job.tell("half", 0.5)
        assert go.wait(WAIT)
        return 7

    for news in Jobs().follow("a", "key", work):
        seen.append(news)
        if isinstance(news, JobProgress) and news.fraction == 0.5:
            go.set()
    assert seen[-1] == Done(7) and JobProgress("half", 0.5, hint=seen[-2].hint) == seen[-2]


def test_a_job_tells_the_time_that_it_has_taken_and_what_is_left(monkeypatch):
    clock, seen = SimpleNamespace(now=100.0), []
    monkeypatch.setattr("negmerge_kit.app.jobs.time", SimpleNamespace(monotonic=lambda: clock.now))

    def work(job):
        for now, share in ((101, 0.5), (130, 0.25), (190, None), (220, 1.0)):
            clock.now = now
            job.tell("on", share)
            seen.append(job.progress.hint)

    Job(work).run()
    assert seen == ["1 s", "30 s, about 90 s left", "90 s", "120 s, about 0 s left"]
    seen.clear()

    def last_rule(job):
        clock.now = 250.0
        job.tell("MagMax, last rule", 0.9, forecast=False)
        seen.append(job.progress.hint)

    clock.now = 200.0
    Job(last_rule).run()
    assert seen == ["50 s"]


def test_one_job_at_a_time_in_order():
    jobs, order, go = Jobs(), [], threading.Event()
    first = jobs.begin(lambda job: (go.wait(WAIT), order.append("first")))
    second = jobs.begin(lambda job: order.append("second"))
    assert jobs.busy and not second.future.done()
    assert "Waiting" in second.progress.message
    go.set()
    second.future.result(WAIT)
    assert order == ["first", "second"] and first.future.done() and not jobs.busy


def test_who_asks_for_the_same_shares_one_job_and_cancelling_ends_it_only_for_the_last():
    jobs, runs, began = Jobs(), [], threading.Event()

    def work(job):
        runs.append(job)
        began.set()
        while True:
            job.tell("on and on")

    mine, theirs = jobs.follow("me", "key", work), jobs.follow("they", "key", work)
    next(mine), next(theirs)
    assert began.wait(WAIT)
    jobs.cancel("me")
    with pytest.raises(CancelledError):
        last(mine)
    next(theirs)
    assert len(runs) == 1 and not runs[0].stopping
    jobs.cancel("they")
    with pytest.raises(CancelledError):
        last(theirs)
    with pytest.raises(CancelledError):
        runs[0].future.result(WAIT)
    # What was cancelled can be asked for again.
    assert last(jobs.follow("me", "key", lambda job: 3)) == Done(3)


def test_a_visitor_who_leaves_ends_the_job():
    jobs, held = Jobs(), []

    def work(job):
        held.append(job)
        while True:
            job.tell("on and on")

    news = jobs.follow("me", "key", work)
    next(news)
    news.close()
    assert jobs.do(lambda job: 5) == 5  # its turn came, so the other has ended


def test_when_the_app_is_stopped_who_follows_is_told_so_even_of_a_job_that_does_not_end():
    jobs, go = Jobs(), threading.Event()
    following = [jobs.follow("me", "first", lambda job: go.wait(WAIT)), jobs.follow("they", "second", lambda job: 1)]
    for news in following:
        next(news)
    jobs.close()
    for news in following:
        with pytest.raises(CancelledError, match=f"^{CLOSED}$"):
            last(news)
    with pytest.raises(CancelledError, match=f"^{CLOSED}$"):
        jobs.do(lambda job: 1)
    assert not jobs.followed
    go.set()


def test_a_bug_ends_its_job_and_nothing_else(caplog):
    jobs = Jobs()
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        last(jobs.follow("me", "key", lambda job: 1 / 0))
    assert "a job failed" in caplog.text
    with pytest.raises(ParameterError, match="no"):
        jobs.do(lambda job: (_ for _ in ()).throw(ParameterError("no")))
    assert jobs.do(lambda job: 1) == 1


def test_the_line_has_an_end():
    jobs, go = Jobs(), threading.Event()
    begun = []
    with pytest.raises(ParameterError, match="try again"):
        for _ in range(100):
            begun.append(jobs.begin(lambda job: go.wait(WAIT)))
    go.set()
    begun[-1].future.result(WAIT)
