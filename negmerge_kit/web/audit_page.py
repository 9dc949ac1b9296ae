"""The Audit page: probes of the model that stands on Unlearn, and its card and files to take away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.lab.audits.audit import PROBES
from negmerge_kit.lab.delta_cache import Choice
from negmerge_kit.progress import ProgressFn
from negmerge_kit.web import fragments
from negmerge_kit.web.auditing import Auditing, audit_html
from negmerge_kit.web.file_buttons import connect_files, lay_out_files
from negmerge_kit.web.job_buttons import LIGHT, connect, told_by
from negmerge_kit.web.jobs import Done, JobProgress, Jobs
from negmerge_kit.web.numbered import Standing, numbers
from negmerge_kit.web.page import Controls
from negmerge_kit.web.takeaway import EVERYTHING, PAGE, TakeAway
from negmerge_kit.web.told import told
from negmerge_kit.web.unlearn import Unlearn
from negmerge_kit.web.visitors import Visitors

CLASSIFIER = (
    "These probes ask models whose heads are apart, and a standard classifier’s is its own. Whether it still knows its "
    "images is what the membership attacks of `negmerge compare POOL --baselines all` ask; the card and the files are "
    "here all the same."
)
RETRAIN = (
    "Hold it against a model that never saw the images to forget. Where the pool has none it is trained first: about "
    "two minutes on one core for the embedded model, once."
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
        made = f"Rule {choice.rule}, {fragments.plural(len(choice.candidates), 'candidate')}, scale {scale:g}"
        title = f"{made}: the model that stood on Unlearn when you came here."
        if self.page.classifier:
            return title, fragments.notice(CLASSIFIER, "hint"), ""
        if not scale:
            return title, fragments.notice("Find the best scale on Unlearn first: scale 0 is the base.", "hint"), ""
        found = self.auditing.known(choice, scale)
        return title, "" if found else fragments.notice(FIRST, "hint"), audit_html(found) if found else ""

    def run(
        self,
        visitor: str,
        probes: object,
        ids: list[str],
        rule: str,
        keep: float,
        scale: float,
        *dials: Any,
        retrain: object = False,
    ) -> Iterator[tuple[str, str]]:
        """(progress or notice, audit) until all probes have answered."""

        if self.page.classifier:
            return iter([(fragments.notice(CLASSIFIER, "hint"), "")])

        def begin() -> Iterator[JobProgress | Done]:
            asked = self.auditing.asked(*self._model(ids, rule, scale, dials), probes, retrain=retrain)
            for news in self.auditing.follow(visitor, asked):
                yield Done(audit_html(news.result)) if isinstance(news, Done) else news

        return told_by(begin)

    def write(
        self, kind: str, report: ProgressFn, ids: list[str], rule: str, keep: float, scale: float, *dials: Any
    ) -> str:
        """The path of the `page`, the card as Markdown with the audit if there is one, or of `everything` in one zip.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        choice, scale = self._model(ids, rule, scale, dials)
        audit = self.auditing.known(choice, scale)
        return str(getattr(self.takeaway, kind)(choice, scale, self.page.keep(keep), audit, report=report))

    def of(self, ids: list[str], rule: str, keep: float, scale: float, *dials: Any) -> object:
        """What the page is about with these controls: a model of this pool.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        return self.page.bench.pool.folder, *self._model(ids, rule, scale, dials)

    def _model(self, ids: list[str], rule: str, scale: float, dials: tuple[Any, ...]) -> tuple[Choice, float]:
        return self.page.choice(ids, rule, dials), self.page.scale(scale)


def lay_out(
    of_pool: Callable[[str], AuditPage], jobs: Jobs, writing: Jobs, controls: Controls, tab: gr.Tab, number: gr.Number
) -> None:
    """Build the page within its tab and connect it; `of_pool` gives the handlers of the pool that a visitor is on.

    Files are written in a line of their own.

    What is audited and taken away is the model that the page names, also where the controls have moved meanwhile.
    """

    def show(request: gr.Request, number: Any, *model: Any) -> list[Any]:
        pool, *values = model
        answer = of_pool(pool).show(*values)
        standing.turn(request, number, list(model))
        return [*answer, list(model)]

    def of(named: list[Any], probes: object = None, retrain: object = False, *model: Any) -> object:
        pool, *values = _checked(named or list(model))
        return of_pool(pool).of(*values)

    def run(visitor: str, named: list[Any], probes: object, retrain: object, *model: Any) -> Iterator[tuple[str, str]]:
        pool, *values = _checked(named or list(model))  # pressed before the page could name it
        yield from of_pool(pool).run(visitor, probes, *values, retrain=retrain)

    standing, named = Standing(of, Visitors()), gr.State([])
    with gr.Column(elem_classes="nm-page"):
        with gr.Column(elem_classes="nm-card"):
            gr.HTML("<h2>Is it gone? <small>what can still be read out, or comes back quickly</small></h2>")
            what = gr.Markdown("", elem_id="nm-under-audit", elem_classes="nm-explains")
            probes = gr.CheckboxGroup(list(PROBES), value=list(PROBES), label="Probes", elem_id="nm-probes")
            retrain = gr.Checkbox(False, label=RETRAIN, elem_id="nm-retrain")
            with gr.Row(elem_classes="nm-buttons"):
                start = gr.Button("Audit this model", variant="primary", elem_id="nm-audit")
                stop = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-audit-stop")
            gr.HTML(
                '<p class="nm-fine">Cancelling ends after the answer under way. The card says what was done and how it '
                "scored, with the audit in it once there is one; all is weights, card and audit.</p>"
            )
            files = lay_out_files({"page": f"card: {PAGE}", "everything": f"all: {EVERYTHING}"}, "audit-files")
        progress = gr.HTML("", elem_id="nm-audit-progress", elem_classes="nm-told")
        content = gr.HTML("", elem_id="nm-audit-content")
    tab.select(
        told(show),
        [number, *controls.model],
        [what, progress, content, named],
        trigger_mode="always_last",
        js=numbers(len(controls.model)),
        **LIGHT,
    )
    connect(start, stop, run, [number, named, probes, retrain, *controls.model], [progress, content], jobs, standing)

    def write(kind: str, report: ProgressFn, named: list[Any]) -> str:
        pool, *values = _checked(named)
        return of_pool(pool).write(kind, report, *values)

    connect_files(files, write, [named], writing)


def _checked(named: list[Any]) -> list[Any]:
    if not named:
        raise ParameterError("no model is named here yet: go to Unlearn and come back.")
    return named
