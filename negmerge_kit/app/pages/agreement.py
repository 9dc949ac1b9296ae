"""The Agreement page's answers: where the candidates' signs agree, on how many weights, and what that comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gradio as gr
from torch import Tensor

from negmerge_kit.analysis.decay import known_shift
from negmerge_kit.analysis.inner_products import health_of, inner_products
from negmerge_kit.analysis.step_along import step_along
from negmerge_kit.analysis.why_signs import Why, why_signs
from negmerge_kit.app.buttons import JobButtons, contents_of, progress_of
from negmerge_kit.app.jobs import CancelledError, Done, Job, JobProgress, Jobs
from negmerge_kit.app.pages.unlearn import Unlearn
from negmerge_kit.app.recent import Recent
from negmerge_kit.app.requests import PageSubject, RequestTracker, session
from negmerge_kit.app.templates import notice, plural, render
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.merging.agreement import LayerAgreement, total
from negmerge_kit.merging.health import suggestion
from negmerge_kit.merging.signs import chance, votes_needed
from negmerge_kit.models.layers import block_and_kind, layer_of, reading_order
from negmerge_kit.plots import svg
from negmerge_kit.plots.agreement_map import agreement_map, map_finding
from negmerge_kit.plots.scale_curve import agreement_finding, agreement_shares
from negmerge_kit.plots.style import percent
from negmerge_kit.plots.votes import consensus_by_count, vote_finding, vote_histogram
from negmerge_kit.plots.why_signs import why_figure, why_finding
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.training.recipe import recipe_line
from negmerge_kit.types import Weights
from negmerge_kit.unlearning.delta_cache import Choice

WHOLE = "the whole model"
REMEMBERED = 32
CANCELLED = "Cancelled: come back to this page to count the votes."


class Shown(NamedTuple):
    """The page's pieces for one choice; `layers` are those to choose from."""

    notice: str
    layers: Any
    histogram: str = ""
    map: str = ""
    table: str = ""
    explanation: str = ""


class AgreementPage:
    """Agreement of the candidates chosen on Unlearn, over one workbench; each choice is counted once."""

    def __init__(self, page: Unlearn, jobs: Jobs) -> None:
        self.page, self.bench, self.jobs, self._counting = page, page.bench, jobs, Jobs()
        self._layers: Recent[object, list[LayerAgreement]] = Recent(REMEMBERED)
        self._whys: Recent[object, Why] = Recent(REMEMBERED)

    # --- answers for the controls of Unlearn: candidates, rule and dials ------------------------

    def show(self, of: object, ids: list[str], rule: str, *dials: Any) -> Shown:
        """Finding, histogram, map and table of the choice on Unlearn."""
        try:
            choice = self.page.choice(ids, rule, dials)
            layers, (votes, line) = self.layers(choice), _threshold(choice)
            names = [WHOLE, *dict.fromkeys(layer_of(layer.name) for layer in layers if layer.moved)]
            chosen = of if isinstance(of, str) and of in names else WHOLE
            histogram = self._histogram(choice, chosen)
        except NegmergeError as error:
            return Shown(notice(str(error)), gr.skip())
        what = f"{plural(len(choice.candidates), 'candidate')} as chosen on Unlearn. "
        what += f"{agreement_finding(layers, votes=votes, chance=line)}. Unanimous elements hold "
        what += f"{percent(total(layers).unanimous_of_length)} of the plain average's squared length."
        odd = "".join(notice(sentence, "hint") for sentence in self._odd(choice))
        map_ = agreement_map(layers, votes=votes, chance=line)
        drawn = svg.inline(map_, map_finding(agreement_shares(layers, votes), line), name="map")
        return Shown(
            render("agreement.finding", what, odd),
            gr.Dropdown(choices=names, value=chosen),
            histogram,
            render("agreement.map", drawn),
            render("agreement.tree", _by_block(layers)),
            self._explained(choice),
        )

    def count(self, visitor: str, ids: list[str], rule: str, *dials: Any) -> Iterator[str]:
        """How far counting the votes is, as HTML, in parallel to heavy jobs; nothing where they are counted.

        What goes wrong is said by `show`.

        Raises:
            CancelledError: if the visitor waits for it no longer.
        """
        try:
            choice = self.page.choice(ids, rule, dials)
            if self._layers.get(choice.voters) is not None:
                return
            key = ("count", choice.voters)
            for news in self._counting.follow(visitor, key, lambda job: self.layers(choice, report=job.report)):
                if isinstance(news, JobProgress):
                    yield progress_of(news)
        except CancelledError:
            raise
        except NegmergeError:
            return

    def leave(self, visitor: str) -> None:
        """This visitor waits for no count any more."""
        self._counting.cancel(visitor)

    def votes(self, of: object, ids: list[str], rule: str, *dials: Any) -> str:
        """The histogram of another layer."""
        try:
            return self._histogram(self.page.choice(ids, rule, dials), of)
        except NegmergeError as error:
            return notice(str(error))

    def explain(self, visitor: str, ids: list[str], rule: str, *dials: Any) -> Iterator[tuple[str, str]]:
        """(progress or notice, figures) until they are there."""
        return contents_of(lambda: self.explanation(visitor, self.page.choice(ids, rule, dials)))

    def of(self, ids: list[str], rule: str, *dials: Any) -> object:
        """What the page is about with these controls: a choice of this pool.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        return self.bench.pool.folder, self.page.choice(ids, rule, dials)

    # --- what they are made from ----------------------------------------------------------------

    def layers(self, choice: Choice, *, report: ProgressFn = no_progress) -> list[LayerAgreement]:
        """The votes by tensor, in the order of the network."""
        if (found := self._layers.get(choice.voters)) is None:
            by_name = {layer.name: layer for layer in self.bench.agreement(choice.candidates, report=report)}
            report(Progress("Comparing the candidates of this pool", 1.0))
            inner_products(self.bench.pool)  # kept in its folder, for this page and for Unlearn
            found = [by_name[name] for name in reading_order(by_name)]
            self._layers.put(choice.voters, found)
        return found

    def explanation(self, visitor: str, choice: Choice) -> Iterator[JobProgress | Done]:
        """Steps along consensus and conflict, zeros as candidates join, and what the cosines predict; ends in HTML.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        if html := self._explained(choice):
            yield Done(html)
            return
        key = ("explain", self.bench.pool.folder, choice.voters)
        for news in self.jobs.follow(visitor, key, lambda job: self._explain(job, choice)):
            if isinstance(news, Done):
                self._whys.put(choice.voters, news.result)
                news = Done(self._explained(choice))
            yield news

    def _odd(self, choice: Choice) -> list[str]:
        """A sentence for each chosen candidate that does not belong with the others, and what that means."""
        pool = self.bench.pool
        found = health_of(pool, inner_products(pool), choice.candidates)
        odd = [row.sentence(recipe_line(pool.entry(id).recipe)) for id, row in found.items() if row.is_odd]
        return [*odd, *filter(None, [suggestion(list(found.values()))])]

    def _histogram(self, choice: Choice, of: object) -> str:
        """The votes of the whole model or of one layer, against chance.

        Raises:
            ParameterError: for a layer that is not there.
        """
        layers, (votes, _) = self.layers(choice), _threshold(choice)
        chosen = layers if of == WHOLE else [layer for layer in layers if layer_of(layer.name) == of]
        if not chosen or not isinstance(of, str):
            raise ParameterError("there is no such layer in this model: choose one of the list.")
        added = total(chosen)
        figure = vote_histogram(added, votes=votes, of=of)
        return svg.inline(figure, vote_finding(added, votes=votes, of=of), name="votes")

    def _explained(self, choice: Choice) -> str:
        """The figures of `explanation` if they are there; nothing before."""
        if (why := self._whys.get(choice.voters)) is None:
            return ""
        zeros = svg.inline(consensus_by_count(why.zero_ratio), why.finding, name="zeros")
        whole = svg.inline(why_figure(why), why_finding(why), name="why")
        return render("agreement.explained", [why.finding, why.decay_finding], zeros, whole)

    def _explain(self, job: Job, choice: Choice) -> Why:
        pool = self.bench.pool

        def on_step(at: Progress) -> None:
            job.tell(f"Steps along consensus, conflict and controls: {at.step} of {at.total}", 0.5 * at.step / at.total)

        steps = step_along(self.bench, choice.candidates, on_step=on_step)
        job.tell("Signs along random orders and halves of the candidates", 0.5)
        entries = [pool.entry(id) for id in choice.candidates]
        tuned = [pool.checked(entry) for entry in entries]
        return why_signs(
            _Stoppable(pool.checked(pool.base_file), job),
            tuned,
            names=choice.candidates,
            recipes=[entry.recipe for entry in entries],
            shifts=[known_shift(entry) for entry in entries],
            directions=steps,
        )


class _Stoppable(Mapping[str, Tensor]):
    """The base's weights, which end the job where the next tensor is read."""

    def __init__(self, weights: Weights, job: Job) -> None:
        self._weights, self._job = weights, job

    def __getitem__(self, name: str) -> Tensor:
        self._job.tell()
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _threshold(choice: Choice) -> tuple[int, float]:
    """Votes that the choice's rule asks for, all of them where it asks for none, and what chance gives."""
    n, share = len(choice.candidates), float(dict(choice.params).get("agreement", 1.0))
    return votes_needed(n, share), chance(n, share)


def _by_block(layers: Sequence[LayerAgreement]) -> dict[str, tuple[Any, list[LayerAgreement]]]:
    """Block to (the sum over its tensors, its tensors)."""
    groups: dict[str, list[LayerAgreement]] = {}
    for layer in layers:
        block, _ = block_and_kind(layer.name)
        text = "text " if layer_of(layer.name).startswith("text ") else ""
        groups.setdefault(f"{text}block {block}" if block else f"{text}outside the blocks", []).append(layer)
    return {name: (total(group), group) for name, group in groups.items()}


class AgreementEvents:
    """The page's handlers for all visitors and pools; values are those of `Controls.choice`, the pool first.

    Histograms and explanation are of the choice that the page was shown for, also where the controls have moved.
    """

    def __init__(self, of_pool: Callable[[str], AgreementPage], jobs: Jobs) -> None:
        self._of_pool = of_pool
        self.subject = PageSubject(self._of, RequestTracker())
        self.explaining = JobButtons(self._explain, "nm-explain", jobs, self.subject)

    def show(self, request: gr.Request, number: Any, of: object, *choice: Any) -> Iterator[Any]:
        """[pieces of `Shown`, the choice that they are of, cancel] while votes are counted, and once they are."""
        before, is_still = self.subject.turn(request, number, *choice)
        pool, *values = choice
        blank, kept = [gr.skip(), "", "", "", "", gr.skip()], [gr.skip()] * 6
        if not before:
            yield "", *blank, gr.Button(visible=False)
        try:
            for news in self._of_pool(pool).count(session(request), *values):
                if not is_still():
                    yield gr.skip()
                    return
                yield render("unlearn.card", news), *kept, gr.Button(visible=True)
        except CancelledError:
            yield notice(CANCELLED, "hint"), *kept, gr.Button(visible=False)
            return
        answer = self._of_pool(pool).show(of, *values)
        yield (*answer, list(choice), gr.Button(visible=False)) if is_still() else gr.skip()

    def leave(self, request: gr.Request, pool: str) -> None:
        """Count no further."""
        self._of_pool(pool).leave(session(request))

    def votes(self, request: gr.Request, of: object, named: list[Any]) -> Any:
        """The histogram of another layer for the choice that is shown."""
        if not named:
            raise ParameterError("no choice is shown here yet: go to Unlearn and come back.")
        pool, *values = named
        answer = self._of_pool(pool).votes(of, *values)
        return answer if self.subject.tracker.is_at(session(request), self._of(*named)) else gr.skip()

    def _of(self, pool: str, *values: Any) -> object:
        return self._of_pool(pool).of(*values)

    def _explain(self, visitor: str, pool: str, *values: Any) -> Iterator[tuple[str, str]]:
        yield from self._of_pool(pool).explain(visitor, *values)
