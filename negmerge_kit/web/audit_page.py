"""The Audit page: probes of the model that stands on Unlearn, and its card and files to take away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError
from negmerge_kit.lab.audits.audit import PROBES
from negmerge_kit.lab.resident import Choice
from negmerge_kit.web import fragments
from negmerge_kit.web.auditing import Auditing, audit_html
from negmerge_kit.web.job_buttons import LIGHT, PRESS, connect, told_by
from negmerge_kit.web.jobs import Done, Jobs, Progress
from negmerge_kit.web.page import Controls
from negmerge_kit.web.takeaway import EVERYTHING, PAGE, TakeAway
from negmerge_kit.web.told import told
from negmerge_kit.web.unlearn import Unlearn

CLASSIFIER = (
    "These probes ask models whose heads are apart, and a standard classifier’s is its own. Whether it still knows its "
    "images is what the membership attacks of `negmerge compare POOL --baselines all` ask; the card and the files are "
    "here all the same."
)
FIRST = "Choose probes and press “Audit this model”. On the embedded pool all of them take about a minute."


class AuditPage:
    """The page's handlers over the controls of Unlearn: candidates, rule, floor, scale and dials."""

    def __init__(self, page: Unlearn, auditing: Auditing, takeaway: TakeAway) -> None:
        self.page, self.auditing, self.takeaway = page, auditing, takeaway

    def show(self, ids: list[str], rule: str, keep: float, scale: float, *dials: Any) -> tuple[str, str, str]:
        """(what is under audit, notice, audit) for the model that stands on Unlearn now."""
        try:
            choice, scale = self._model(ids, rule, scale, dials)
        except NegmergeError as error:
            return "", fragments.notice(str(error)), ""
        title = f"Rule {choice.rule}, {len(choice.candidates)} candidates, scale {scale:g}: the model on Unlearn."
        if self.page.classifier:
            return title, fragments.notice(CLASSIFIER, "hint"), ""
        if not scale:
            return title, fragments.notice("Find the best scale on Unlearn first: scale 0 is the base.", "hint"), ""
        found = self.auditing.known(choice, scale)
        return title, "" if found else fragments.notice(FIRST, "hint"), audit_html(found) if found else ""

    def run(
        self, visitor: str, probes: object, ids: list[str], rule: str, keep: float, scale: float, *dials: Any
    ) -> Iterator[tuple[str, str]]:
        """(progress or notice, audit) until all probes have answered."""

        if self.page.classifier:
            return iter([(fragments.notice(CLASSIFIER, "hint"), "")])

        def begin() -> Iterator[Progress | Done]:
            asked = self.auditing.asked(*self._model(ids, rule, scale, dials), probes)
            for news in self.auditing.follow(visitor, asked):
                yield Done(audit_html(news.result)) if isinstance(news, Done) else news

        return told_by(begin)

    def card(self, ids: list[str], rule: str, keep: float, scale: float, *dials: Any) -> str:
        """The unlearning card as Markdown, with the audit in it if there is one.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        choice, scale = self._model(ids, rule, scale, dials)
        return str(self.takeaway.page(choice, scale, self.page.keep(keep), self.auditing.known(choice, scale)))

    def everything(self, ids: list[str], rule: str, keep: float, scale: float, *dials: Any) -> str:
        """Weights, card and audit in one zip.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        choice, scale = self._model(ids, rule, scale, dials)
        return str(self.takeaway.everything(choice, scale, self.page.keep(keep), self.auditing.known(choice, scale)))

    def _model(self, ids: list[str], rule: str, scale: float, dials: tuple[Any, ...]) -> tuple[Choice, float]:
        return self.page.choice(ids, rule, dials), self.page.scale(scale)


def lay_out(of_pool: Callable[[str], AuditPage], jobs: Jobs, controls: Controls, tab: gr.Tab) -> None:
    """Build the page within its tab and connect it; `of_pool` gives the handlers of the pool that a visitor is on."""

    def show(pool: str, *values: Any) -> tuple[str, str, str]:
        return of_pool(pool).show(*values)

    def run(visitor: str, probes: object, pool: str, *values: Any) -> Iterator[tuple[str, str]]:
        yield from of_pool(pool).run(visitor, probes, *values)

    with gr.Column(elem_classes="nm-page"):
        with gr.Column(elem_classes="nm-card"):
            gr.HTML("<h2>Is it gone? <small>what can still be read out, or comes back quickly</small></h2>")
            what = gr.Markdown("", elem_id="nm-under-audit", elem_classes="nm-explains")
            probes = gr.CheckboxGroup(list(PROBES), value=list(PROBES), label="Probes", elem_id="nm-probes")
            with gr.Row(elem_classes="nm-buttons"):
                start = gr.Button("Audit this model", variant="primary", elem_id="nm-audit")
                stop = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-audit-stop")
                card, whole = gr.Button(f"card: {PAGE}", size="sm"), gr.Button(f"all: {EVERYTHING}", size="sm")
            gr.HTML(
                '<p class="nm-fine">Cancelling ends after the answer under way. The card says what was done and how it '
                "scored, with the audit in it once there is one; all is weights, card and audit.</p>"
            )
            card_file = gr.DownloadButton("card", visible="hidden", elem_id="nm-file-card")
            whole_file = gr.DownloadButton("all", visible="hidden", elem_id="nm-file-everything")
        progress = gr.HTML("", elem_id="nm-audit-progress", elem_classes="nm-told")
        content = gr.HTML("", elem_id="nm-audit-content")
    tab.select(told(show), controls.model, [what, progress, content], trigger_mode="always_last", **LIGHT)
    connect(start, stop, run, [probes, *controls.model], [progress, content], jobs.cancel)
    for button, file, kind in ((card, card_file, "card"), (whole, whole_file, "everything")):

        def write(pool: str, *values: Any, kind: str = kind) -> str:
            return str(getattr(of_pool(pool), kind)(*values))

        button.click(
            told(write), controls.model, file, api_visibility="private", show_progress="minimal",
            show_progress_on=button, concurrency_limit=2, concurrency_id="heavy",
        ).success(None, None, None, js=PRESS.format(kind=kind), api_visibility="private")  # fmt: skip
