"""What the Audit page answers: what can still be got out of the model on Unlearn, beside the base and chance."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from html import escape

from negmerge_kit.errors import ParameterError
from negmerge_kit.lab.audits.audit import LIMITS, PROBES, Audit, audit, check_asked
from negmerge_kit.lab.audits.probe import ARROWS, LEFTOVER, Measurement, Probe
from negmerge_kit.lab.audits.reference import find_reference, retrained_reference
from negmerge_kit.lab.delta_cache import Choice
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.views import svg
from negmerge_kit.views.probes import audit_figure, relearning_figure, relearning_finding
from negmerge_kit.views.style import percent
from negmerge_kit.web.jobs import Done, Job, JobProgress, Jobs

REMEMBERED = 64
NBSP = "\N{NO-BREAK SPACE}"

Asked = tuple[Choice, float, tuple[str, ...], bool]
"""What an audit is of: a choice, its scale, the probes, and whether a retrained model is the reference."""


class Auditing:
    """Audits on one workbench, each run once and shared by all visitors."""

    def __init__(self, bench: Workbench, jobs: Jobs, *, read_only: bool = False) -> None:
        self.bench, self.jobs, self._read_only = bench, jobs, read_only
        self._known: OrderedDict[Asked, Audit] = OrderedDict()
        self._latest: dict[tuple[Choice, float], Asked] = {}
        self._turn = threading.Lock()

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

    def known(self, choice: Choice, scale: float) -> Audit | None:
        """The last audit of this very model, if there was one."""
        with self._turn:
            asked = self._latest.get((choice, scale))
            return self._known.get(asked) if asked else None

    def follow(self, visitor: str, asked: Asked) -> Iterator[JobProgress | Done]:
        """Put the probes, telling which has answered; the result is an Audit.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        with self._turn:
            found = self._known.get(asked)
        if found is None:
            key = ("audit", self.bench.pool.folder, asked)
            for news in self.jobs.follow(visitor, key, lambda job: self._audit(job, asked)):
                if isinstance(news, Done):
                    found = news.result
                else:
                    yield news
        assert found is not None, "a job ends with a result or an error"
        with self._turn:
            self._known[asked] = found
            self._latest[asked[0], asked[1]] = asked
            if len(self._known) > REMEMBERED:
                old, _ = self._known.popitem(last=False)
                if self._latest.get(old[:2]) == old:
                    del self._latest[old[:2]]
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
    """Finding, table and figures of an audit; what it cannot show stands with it."""
    retrained = any("retrained" in probe.measurements for probe in found.probes)
    models = ("unlearned", "base", *(["retrained"] if retrained else []))
    rows = "".join(_row(probe, models) for probe in found.probes)
    figures = [("audit", svg.inline(audit_figure(found), found.headline, name="audit"))]
    relearned = [probe for probe in found.probes if "most_steps" in probe.details]
    if relearned:
        figures.append(("relearning", svg.inline(relearning_figure(found), relearning_finding(relearned), name="back")))
    drawn = "".join(
        f'<section class="nm-card"><div class="nm-scroll" tabindex="0" role="region" aria-label="figure of the {name}">'
        f'<div class="nm-paper nm-broad">{figure}</div></div></section>'
        for name, figure in figures
    )
    return (
        f'<div class="nm-stack"><section class="nm-card" id="nm-audited"><h2>{escape(found.headline)}</h2>'
        f"<p>{escape(found.finding.removeprefix(found.headline).strip())}</p>"
        f'<p class="nm-fine">At scale {found.scale:g}. Arrows: the good direction. {escape(LIMITS)}</p>'
        '<div class="nm-scroll" tabindex="0" role="region" aria-label="probes">'
        '<table class="nm-table"><thead><tr><th scope=col>probe<th scope=col>unlearned<th scope=col>base'
        f"{'<th scope=col>retrained' if retrained else ''}"
        "<th scope=col>chance<th scope=col>shuffled weights<th scope=col>how much is left</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>{drawn}</div>"
    )


def _row(probe: Probe, models: Sequence[str]) -> str:
    head = f'<tr><th scope="row">{escape(probe.name)}{ARROWS[probe.good]}<small>{escape(probe.asks)}</small>'
    if probe.undefined:
        return f'{head}<td colspan="{len(models) + 3}">{escape(probe.undefined)}</tr>'
    chance = "–" if probe.chance is None else percent(probe.chance)
    kind = ' class="nm-left"' if probe.verdict == LEFTOVER else ""
    cells = "".join(f"<td>{_reading(probe.measurements.get(who))}" for who in models)
    shuffled = _reading(probe.measurements.get("shuffled"))
    return f"{head}{cells}<td>{chance}<td>{shuffled}<td{kind}>{escape(probe.says) or '–'}</tr>"


def _reading(reading: Measurement | None) -> str:
    if reading is None:
        return "–"
    spread = f"{100 * reading.low:.0f}–{100 * reading.high:.0f}{NBSP}%, n{NBSP}={NBSP}{reading.n:,}"
    return f"<b>{percent(reading.value)}</b><small>{spread}</small>"
