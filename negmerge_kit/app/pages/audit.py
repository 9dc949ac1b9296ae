"""The Audit page's answers: what can still be got out of the model on Unlearn, compared with the base and chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from negmerge_kit.app.buttons import JobButtons, contents_of
from negmerge_kit.app.downloads import Downloads
from negmerge_kit.app.jobs import Done, Job, JobProgress, Jobs
from negmerge_kit.app.pages.unlearn import Unlearn
from negmerge_kit.app.recent import Recent
from negmerge_kit.app.requests import PageSubject, RequestTracker
from negmerge_kit.app.templates import notice, plural, render
from negmerge_kit.audits.audit import LIMITS, PROBES, Audit, audit, check_asked
from negmerge_kit.audits.probe import ARROWS, LEFTOVER, Probe
from negmerge_kit.audits.retrained_base import find_reference, retrained_reference
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.plots import svg
from negmerge_kit.plots.probes import audit_figure, relearning_figure, relearning_finding
from negmerge_kit.progress import ProgressFn
from negmerge_kit.unlearning.delta_cache import Choice

REMEMBERED = 64

CLASSIFIER = (
    "These probes ask models whose heads are apart, and a standard classifier’s is its own. Whether it still knows its "
    "images is what the membership attacks of `negmerge compare POOL --baselines all` ask; the card and the files are "
    "here all the same."
)
FIRST = "Choose probes and press “Audit this model”. On the embedded pool all of them take about a minute."

Asked = tuple[Choice, float, tuple[str, ...], bool]
"""What an audit is of: a choice, its scale, the probes, and whether a retrained model is the reference."""


class AuditPage:
    """Audits on one workbench, each run once and shared by all visitors; `read_only` trains nothing for them."""

    def __init__(self, page: Unlearn, jobs: Jobs, downloads: Downloads, *, read_only: bool = False) -> None:
        self.page, self.bench, self.jobs, self.downloads = page, page.bench, jobs, downloads
        self._read_only = read_only
        self._known: Recent[Asked, Audit] = Recent(REMEMBERED)
        self._latest: Recent[tuple[Choice, float], Audit] = Recent(REMEMBERED)

    # --- answers for the controls of Unlearn: candidates, rule, floor, scale and dials ----------

    def show(self, ids: list[str], rule: str, keep: float, scale: float, *dials: Any) -> tuple[str, str, str]:
        """(what is under audit, notice, audit) for the model on Unlearn now."""
        try:
            choice, scale = self._model(ids, rule, scale, dials)
        except NegmergeError as error:
            return "", notice(str(error)), ""
        made = f"Rule {choice.rule}, {plural(len(choice.candidates), 'candidate')}, scale {scale:g}"
        title = f"{made}: the model that stood on Unlearn when you came here."
        if self.page.classifier:
            return title, notice(CLASSIFIER, "hint"), ""
        if not scale:
            return title, notice("Find the best scale on Unlearn first: scale 0 is the base.", "hint"), ""
        found = self._latest.get((choice, scale))
        return title, "" if found else notice(FIRST, "hint"), audit_html(found) if found else ""

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
            return iter([(notice(CLASSIFIER, "hint"), "")])

        def begin() -> Iterator[JobProgress | Done]:
            asked = self.asked(*self._model(ids, rule, scale, dials), probes, retrain=retrain)
            for news in self.follow(visitor, asked):
                yield Done(audit_html(news.result)) if isinstance(news, Done) else news

        return contents_of(begin)

    def write(
        self, kind: str, report: ProgressFn, ids: list[str], rule: str, keep: float, scale: float, *dials: Any
    ) -> str:
        """The path of the `page`, the card as Markdown with the audit if there is one, or of `everything` in one zip.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        choice, scale = self._model(ids, rule, scale, dials)
        found = self._latest.get((choice, scale))
        return str(getattr(self.downloads, kind)(choice, scale, self.page.keep(keep), found, report=report))

    def of(self, ids: list[str], rule: str, keep: float, scale: float, *dials: Any) -> object:
        """What the page is about with these controls: a model of this pool.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        return self.bench.pool.folder, *self._model(ids, rule, scale, dials)

    def _model(self, ids: list[str], rule: str, scale: float, dials: tuple[Any, ...]) -> tuple[Choice, float]:
        return self.page.choice(ids, rule, dials), self.page.scale(scale)

    # --- audits -----------------------------------------------------------------------------------

    def asked(self, choice: Choice, scale: float, probes: object, *, retrain: object = False) -> Asked:
        """What the controls ask for.

        Raises:
            ParameterError: at scale 0, for probes that do not exist, and for a retrained model that cannot be made.
        """
        if retrain and self.bench.scene.model != "tiny":
            raise ParameterError(
                "only the embedded model's pretraining images are known: train a model without the "
                "forget set yourself, and give it to `negmerge audit --retrained FILE`."
            )
        if retrain and self._read_only and find_reference(self.bench) is None:
            raise ParameterError("this app trains nothing for its visitors: run `negmerge audit POOL --retrain`.")
        if not scale:
            raise ParameterError("scale 0 is the base itself: find the best scale on Unlearn, or move its slider.")
        if not isinstance(probes, list) or not all(isinstance(name, str) for name in probes):
            raise ParameterError("probes must be a list of names: reload the page.")
        check_asked(probes)
        return choice, scale, tuple(name for name in PROBES if name in probes), bool(retrain)

    def follow(self, visitor: str, asked: Asked) -> Iterator[JobProgress | Done]:
        """Put the probes, and say which has answered; the result is an Audit.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        found = self._known.get(asked)
        if found is None:
            key = ("audit", self.bench.pool.folder, asked)
            for news in self.jobs.follow(visitor, key, lambda job: self._audit(job, asked)):
                if isinstance(news, Done):
                    found = news.result
                else:
                    yield news
        assert found is not None, "a job ends with a result or an error"
        self._known.put(asked, found)
        self._latest.put(asked[:2], found)
        yield Done(found)

    def _audit(self, job: Job, asked: Asked) -> Audit:
        choice, scale, probes, retrain = asked
        answers = 0

        def on_probe(probe: Probe) -> None:
            nonlocal answers
            answers += 1
            job.tell(f"{answers} answer{'s' * (answers > 1)} so far, the last to: {probe.name}")

        without = self.bench.scene.forget
        retrained = (
            retrained_reference(
                self.bench,
                on_step=lambda at: job.tell(
                    f"Training a model without {without}: step {at.step} of {at.total}", at.fraction
                ),
            )
            if retrain
            else None
        )
        job.tell("Asking the base, the unlearned model and shuffled weights")
        return audit(self.bench, choice, scale, retrained=retrained, probes=probes, on_probe=on_probe)


def audit_html(found: Audit) -> str:
    """Finding, table and figures of an audit, with what it cannot show."""
    retrained = any("retrained" in probe.measurements for probe in found.probes)
    figures = [("audit", svg.inline(audit_figure(found), found.headline, name="audit"))]
    if relearned := [probe for probe in found.probes if "most_steps" in probe.details]:
        figures.append(("relearning", svg.inline(relearning_figure(found), relearning_finding(relearned), name="back")))
    models = ["unlearned", "base", *(["retrained"] if retrained else [])]
    return render("audit.page", found, LIMITS, models, ARROWS, LEFTOVER, figures)


class AuditEvents:
    """The page's handlers for all visitors and pools; models are the values of `Controls.model`, the pool first.

    What is audited and taken away is the model that the page names, also where the controls have moved meanwhile.
    """

    def __init__(self, of_pool: Callable[[str], AuditPage], jobs: Jobs) -> None:
        self._of_pool = of_pool
        self.subject = PageSubject(self._of, RequestTracker())
        self.auditing = JobButtons(self._run, "nm-audit", jobs, self.subject)

    def show(self, request: gr.Request, number: Any, *model: Any) -> list[Any]:
        """[what is under audit, notice, audit, the model that these are of]."""
        pool, *values = model
        answer = self._of_pool(pool).show(*values)
        self.subject.turn(request, number, list(model))
        return [*answer, list(model)]

    def write(self, kind: str, report: ProgressFn, named: list[Any]) -> str:
        """The path of a file of the named model."""
        pool, *values = _checked(named)
        return self._of_pool(pool).write(kind, report, *values)

    def _of(self, named: list[Any], probes: object = None, retrain: object = False, *model: Any) -> object:
        pool, *values = _checked(named or list(model))
        return self._of_pool(pool).of(*values)

    def _run(
        self, visitor: str, named: list[Any], probes: object, retrain: object, *model: Any
    ) -> Iterator[tuple[str, str]]:
        pool, *values = _checked(named or list(model))  # pressed before the page could name it
        yield from self._of_pool(pool).run(visitor, probes, *values, retrain=retrain)


def _checked(named: list[Any]) -> list[Any]:
    if not named:
        raise ParameterError("no model is named here yet: go to Unlearn and come back.")
    return named
