"""A button that starts heavy work, one that cancels it, and what is told between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError
from negmerge_kit.web import fragments
from negmerge_kit.web.jobs import CancelledError, Done, JobProgress, Jobs
from negmerge_kit.web.numbered import Standing, numbers, session

LIGHT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""What every private handler of a page is connected with."""

ELSEWHERE = "That is done, and kept. This page is about something else by now: come back to it as it was to see it."
"""Said where a job ends whose result does not belong on the page any more."""


def told_by(begin: Callable[[], Iterator[JobProgress | Done]]) -> Iterator[tuple[str, str]]:
    """(progress, content) of a job whose result is HTML; an error is a sentence in the place of the progress."""
    try:
        for news in begin():
            if isinstance(news, Done):
                yield "", news.result
            else:
                yield fragments.progress(news.message, news.fraction or 0.0, news.hint), ""
    except CancelledError as error:
        yield fragments.notice(str(error), "hint"), ""
    except NegmergeError as error:
        yield fragments.notice(str(error)), ""


def connect(
    start: gr.Button,
    stop: gr.Button,
    follow: Callable[..., Iterator[tuple[str, str]]],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    jobs: Jobs,
    standing: Standing,
) -> None:
    """A button that starts a job and one that cancels it; `follow` tells (progress, content or "" to leave it).

    The inputs are the request's number and what `standing` needs to know; content that comes when the page is about
    something else is left out.
    """

    def who(request: gr.Request) -> str:
        return f"{session(request)} {start.elem_id}"  # cancelling on one page leaves the visitor's other jobs alone

    def run(request: gr.Request, number: Any, *values: Any) -> Iterator[Any]:
        # Everything is sent again each time, at the end too: of answers that come within one frame the page shows the
        # last, and a change that stood in another alone would be lost.
        busy = gr.Button(interactive=False), gr.Button(interactive=True)
        shown: tuple[Any, Any] = gr.skip(), gr.skip()
        yield *busy, *shown
        _, stands = standing.turn(request, number, *values)
        try:
            for told, html in follow(who(request), *values):
                if html and not stands():
                    told, html = fragments.notice(ELSEWHERE, "hint"), ""
                shown = told, html or shown[1]
                yield *busy, *shown
        except NegmergeError as error:  # a pool that is not served, or cannot be opened
            shown = fragments.notice(str(error)), shown[1]
        yield gr.Button(interactive=True), gr.Button(interactive=False), *shown

    def end(request: gr.Request) -> None:
        jobs.cancel(who(request))

    def release() -> tuple[gr.Button, gr.Button]:
        return gr.Button(interactive=True), gr.Button(interactive=False)

    running = start.click(
        run, list(inputs), [start, stop, *outputs], concurrency_limit=8, js=numbers(len(inputs) - 1), **LIGHT
    )
    running.then(release, None, [start, stop], **LIGHT)
    stop.click(end, None, None, concurrency_limit=8, **LIGHT)
