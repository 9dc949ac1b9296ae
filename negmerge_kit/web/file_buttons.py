"""Buttons that have a file written and then give it: how far that is, the time left, and a way to cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError
from negmerge_kit.web import fragments
from negmerge_kit.web.job_buttons import LIGHT
from negmerge_kit.web.jobs import CancelledError, Done, Jobs
from negmerge_kit.web.numbered import session

PRESS = "told => told || document.querySelector('#{file} a, a#{file}, #{file}')?.click()"
"""Presses the hidden download button beside the one that had the file written, unless something else is told."""


@dataclass(frozen=True)
class FileButtons:
    """A row of them; `files` are the hidden buttons that give what was written, `told` says how far it is."""

    buttons: Mapping[str, gr.Button]
    files: Mapping[str, gr.DownloadButton]
    stop: gr.Button
    told: gr.HTML


def lay_out_files(labels: Mapping[str, str], page: str) -> FileButtons:
    """A button for each kind of file, where the page is being built; ids begin with nm- and the page's name."""
    with gr.Row(elem_classes="nm-buttons"):
        buttons = {kind: gr.Button(label, size="sm") for kind, label in labels.items()}
        stop = gr.Button("Cancel", size="sm", visible=False, elem_id=f"nm-{page}-stop")
    told = gr.HTML("", elem_id=f"nm-{page}-told", elem_classes="nm-told")
    files = {kind: gr.DownloadButton(kind, visible="hidden", elem_id=f"nm-file-{kind}") for kind in labels}
    return FileButtons(buttons, files, stop, told)


def connect_files(row: FileButtons, write: Callable[..., str], inputs: Sequence[Any], jobs: Jobs) -> None:
    """Have `write(kind, report, *values)` done in `jobs` at a button's press, and give the file of that path."""

    def who(request: gr.Request) -> str:
        return f"{session(request)} {row.stop.elem_id}"

    def end(request: gr.Request) -> None:
        jobs.cancel(who(request))

    def release() -> tuple[gr.Button, gr.Button]:
        return gr.Button(interactive=True), gr.Button(visible=False)

    def connect(kind: str, button: gr.Button, file: gr.DownloadButton) -> None:
        def run(request: gr.Request, *values: Any) -> Iterator[Any]:
            busy = gr.Button(interactive=False), gr.Button(visible=True)
            yield *busy, "", gr.skip()
            told, path = "", gr.skip()
            try:
                for news in jobs.follow(who(request), object(), lambda job: write(kind, job.report, *values)):
                    if isinstance(news, Done):
                        path = news.result
                    else:
                        yield *busy, fragments.progress(news.message, news.fraction or 0.0, news.hint), gr.skip()
            except CancelledError:
                told = fragments.notice("Cancelled: nothing was written.", "hint")
            except NegmergeError as error:
                told = fragments.notice(str(error))
            yield *release(), told, path

        written = button.click(run, list(inputs), [button, row.stop, row.told, file], concurrency_limit=8, **LIGHT)
        written.success(None, row.told, None, js=PRESS.format(file=file.elem_id), api_visibility="private")
        written.then(release, None, [button, row.stop], **LIGHT)

    for kind, button in row.buttons.items():
        connect(kind, button, row.files[kind])
    row.stop.click(end, None, None, concurrency_limit=8, **LIGHT)
