"""Buttons that start work, say how far it is and cancel it, and those that give the file that was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from negmerge_kit.app.jobs import CancelledError, Done, JobProgress, Jobs
from negmerge_kit.app.requests import PageSubject, numbers, session
from negmerge_kit.app.templates import notice, progress
from negmerge_kit.errors import NegmergeError

LIGHT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""What every private handler of a page is connected with."""

ELSEWHERE = "That is done, and kept. This page is about something else by now: come back to it as it was to see it."
"""Said where a job ends whose result does not belong on the page any more."""

PRESS = "message => message || document.querySelector('#{file} a, a#{file}, #{file}')?.click()"
"""Presses the hidden download button of the one that had the file written, unless there is a message instead."""

Write = Callable[..., str]
"""From (kind, report, *values) to the path of a file that was written."""


def progress_of(news: JobProgress) -> str:
    """How far a job is, as a bar."""
    return progress(news.message, news.fraction or 0.0, news.hint)


def contents_of(begin: Callable[[], Iterator[JobProgress | Done]]) -> Iterator[tuple[str, str]]:
    """(progress, content) of a job whose result is HTML; an error is a sentence in the place of the progress."""
    try:
        for news in begin():
            yield ("", news.result) if isinstance(news, Done) else (progress_of(news), "")
    except CancelledError as error:
        yield notice(str(error), "hint"), ""
    except NegmergeError as error:
        yield notice(str(error)), ""


class Cancellable:
    """Work of a visitor's in `jobs` under a name: cancelling it leaves the visitor's other work alone."""

    def __init__(self, name: str, jobs: Jobs) -> None:
        self._name, self._jobs = name, jobs

    def cancel(self, request: gr.Request) -> None:
        """Wait for it no longer."""
        self._jobs.cancel(self._visitor(request))

    def _visitor(self, request: gr.Request) -> str:
        return f"{session(request)} {self._name}"


class JobButtons(Cancellable):
    """A button that starts a job and one that cancels it, as handlers of their clicks.

    Args:
        follow: from (visitor, *values) to (progress, content or "" to leave what is there).
        subject: content that comes when the page is about something else is left out.
    """

    def __init__(
        self, follow: Callable[..., Iterator[tuple[str, str]]], name: str, jobs: Jobs, subject: PageSubject
    ) -> None:
        super().__init__(name, jobs)
        self._follow, self._subject = follow, subject

    def run(self, request: gr.Request, number: Any, *values: Any) -> Iterator[Any]:
        """[start, cancel, progress, content] again and again; the values are what `subject` needs to know."""
        # Everything is sent again each time, at the end too: of answers that come within one frame the page shows the
        # last, and a change that was in another alone would be lost.
        busy = gr.Button(interactive=False), gr.Button(interactive=True)
        shown: tuple[Any, Any] = gr.skip(), gr.skip()
        yield *busy, *shown
        _, is_still = self._subject.turn(request, number, *values)
        try:
            for news, html in self._follow(self._visitor(request), *values):
                if html and not is_still():
                    news, html = notice(ELSEWHERE, "hint"), ""
                shown = news, html or shown[1]
                yield *busy, *shown
        except NegmergeError as error:  # a pool that is not served, or cannot be opened
            shown = notice(str(error)), shown[1]
        yield *self.release(), *shown

    def release(self) -> tuple[gr.Button, gr.Button]:
        """The two buttons as they are where nothing runs."""
        return gr.Button(interactive=True), gr.Button(interactive=False)

    def connect(self, start: gr.Button, stop: gr.Button, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Connect the two; the inputs are the request's number and the values."""
        running = start.click(
            self.run, list(inputs), [start, stop, *outputs], concurrency_limit=8, js=numbers(len(inputs) - 1), **LIGHT
        )
        running.then(self.release, None, [start, stop], **LIGHT)
        stop.click(self.cancel, None, None, concurrency_limit=8, **LIGHT)


@dataclass(frozen=True)
class FileButtons:
    """A row of buttons that have a file written; `files` are the hidden ones that give it, `progress` says how far."""

    page: str
    buttons: Mapping[str, gr.Button]
    files: Mapping[str, gr.DownloadButton]
    stop: gr.Button
    progress: gr.HTML

    def connect(self, write: Write, inputs: Sequence[Any], jobs: Jobs) -> None:
        """Have `write(kind, report, *values)` done in `jobs` when a button is pressed, and give the file it returns."""
        writing = FileWriting(write, self.page, jobs)
        for kind, button in self.buttons.items():
            file = self.files[kind]
            outputs = [button, self.stop, self.progress, file]
            written = button.click(writing.pressed(kind), list(inputs), outputs, concurrency_limit=8, **LIGHT)
            press = PRESS.format(file=file.elem_id)
            written.success(None, self.progress, None, js=press, api_visibility="private")
            written.then(writing.release, None, [button, self.stop], **LIGHT)
        self.stop.click(writing.cancel, None, None, concurrency_limit=8, **LIGHT)


class FileWriting(Cancellable):
    """What a row of `FileButtons` does: write a file in `jobs`, say how far it is, and end when it is cancelled."""

    def __init__(self, write: Write, name: str, jobs: Jobs) -> None:
        super().__init__(name, jobs)
        self._write = write

    def pressed(self, kind: str) -> Callable[..., Iterator[Any]]:
        """The handler of one button: [button, cancel, message, path] again and again."""

        def run(request: gr.Request, *values: Any) -> Iterator[Any]:
            busy = gr.Button(interactive=False), gr.Button(visible=True)
            yield *busy, "", gr.skip()
            message, path = "", gr.skip()
            try:
                write = partial(self._write, kind)
                for news in self._jobs.follow(self._visitor(request), object(), lambda job: write(job.report, *values)):
                    if isinstance(news, Done):
                        path = news.result
                    else:
                        yield *busy, progress_of(news), gr.skip()
            except CancelledError:
                message = notice("Cancelled: nothing was written.", "hint")
            except NegmergeError as error:
                message = notice(str(error))
            yield *self.release(), message, path

        return run

    def release(self) -> tuple[gr.Button, gr.Button]:
        """Button and cancel as they are where nothing is written."""
        return gr.Button(interactive=True), gr.Button(visible=False)


def lay_out_files(labels: Mapping[str, str], page: str) -> FileButtons:
    """A button for each kind of file, where the page is being built; ids begin with nm- and the page's name."""
    with gr.Row(elem_classes="nm-buttons"):
        buttons = {kind: gr.Button(label, size="sm") for kind, label in labels.items()}
        stop = gr.Button("Cancel", size="sm", visible=False, elem_id=f"nm-{page}-stop")
    message = gr.HTML("", elem_id=f"nm-{page}-message", elem_classes="nm-message")
    files = {kind: gr.DownloadButton(kind, visible="hidden", elem_id=f"nm-file-{kind}") for kind in labels}
    return FileButtons(page, buttons, files, stop, message)
