"""The Agreement page: on which weights the candidates chosen on Unlearn agree, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.web import fragments
from negmerge_kit.web.agreeing import WHOLE, Agreeing
from negmerge_kit.web.job_buttons import LIGHT, connect, told_by
from negmerge_kit.web.jobs import CancelledError, JobProgress, Jobs
from negmerge_kit.web.numbered import Standing, numbers, session
from negmerge_kit.web.page import Controls
from negmerge_kit.web.told import told, told_on_the_way
from negmerge_kit.web.unlearn import Unlearn
from negmerge_kit.web.visitors import Visitors

CANCELLED = "Cancelled: come back to this page to count the votes."


class AgreementPage:
    """The page's handlers over the controls of Unlearn: candidates, rule and dials."""

    def __init__(self, page: Unlearn, agreeing: Agreeing) -> None:
        self.page, self.agreeing = page, agreeing

    def show(self, of: object, ids: list[str], rule: str, *dials: Any) -> tuple[str, Any, str, str, str, str]:
        """(notice, layers to choose from, histogram, map, table, explanation) of the choice on Unlearn."""
        try:
            choice = self.page.choice(ids, rule, dials)
            seen = self.agreeing.see(choice, of if isinstance(of, str) else WHOLE)
        except NegmergeError as error:
            return fragments.notice(str(error)), gr.skip(), "", "", "", ""
        chosen = of if of in seen.layers else WHOLE
        what = f"{fragments.plural(len(choice.candidates), 'candidate')} as chosen on Unlearn. {seen.finding}."
        odd = "".join(fragments.notice(sentence, "hint") for sentence in self.agreeing.odd(choice))
        return (
            f'<p class="nm-card nm-fine" role="status">{what}</p>{odd}',
            gr.Dropdown(choices=seen.layers, value=chosen),
            seen.histogram,
            seen.map,
            seen.table,
            self.agreeing.explained(choice),
        )

    def count(self, visitor: str, ids: list[str], rule: str, *dials: Any) -> Iterator[str]:
        """How far the count for this choice is, as HTML; what goes wrong is said by `show`.

        Raises:
            CancelledError: if the visitor waits for it no longer.
        """
        try:
            for news in self.agreeing.count(visitor, self.page.choice(ids, rule, dials)):
                if isinstance(news, JobProgress):
                    yield fragments.progress(news.message, news.fraction or 0.0, news.hint)
        except CancelledError:
            raise
        except NegmergeError:
            return

    def of(self, ids: list[str], rule: str, *dials: Any) -> object:
        """What the page is about with these controls: a choice of this pool.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        return self.page.bench.pool.folder, self.page.choice(ids, rule, dials)

    def votes(self, of: object, ids: list[str], rule: str, *dials: Any) -> str:
        """The histogram of another layer."""
        try:
            return self.agreeing.histogram(self.page.choice(ids, rule, dials), of)
        except NegmergeError as error:
            return fragments.notice(str(error))

    def explain(self, visitor: str, ids: list[str], rule: str, *dials: Any) -> Iterator[tuple[str, str]]:
        """(progress or notice, figures) until they are there."""
        yield from told_by(lambda: self.agreeing.explain(visitor, self.page.choice(ids, rule, dials)))


def lay_out(
    of_pool: Callable[[str], AgreementPage], jobs: Jobs, controls: Controls, tab: gr.Tab, number: gr.Number
) -> None:
    """Build the page within its tab and connect it; `of_pool` gives the handlers of the pool that a visitor is on.

    Histograms and explanation are of the choice that the page was shown for, also where the controls have moved.
    """

    def show(request: gr.Request, number: Any, of: object, *choice: Any) -> Iterator[Any]:
        before, stands = standing.turn(request, number, *choice)
        pool, *values = choice
        blank, kept = [gr.skip(), "", "", "", "", gr.skip()], [gr.skip()] * 6
        if not before:
            yield "", *blank, gr.Button(visible=False)
        try:
            for told in of_pool(pool).count(session(request), *values):
                if not stands():
                    yield gr.skip()
                    return
                yield f'<div class="nm-card">{told}</div>', *kept, gr.Button(visible=True)
        except CancelledError:
            yield fragments.notice(CANCELLED, "hint"), *kept, gr.Button(visible=False)
            return
        answer = of_pool(pool).show(of, *values)
        yield (*answer, list(choice), gr.Button(visible=False)) if stands() else gr.skip()

    def leave(request: gr.Request, pool: str) -> None:
        of_pool(pool).agreeing.leave(session(request))

    def about(pool: str, *values: Any) -> object:
        return of_pool(pool).of(*values)

    def votes(request: gr.Request, of: object, named: list[Any]) -> Any:
        pool, *values = _checked(named)
        answer = of_pool(pool).votes(of, *values)
        return answer if standing.visitors.stands_at(session(request), about(*named)) else gr.skip()

    def explain(visitor: str, pool: str, *values: Any) -> Iterator[tuple[str, str]]:
        yield from of_pool(pool).explain(visitor, *values)

    standing, named = Standing(about, Visitors()), gr.State([])
    with gr.Column(elem_classes="nm-page"):
        notice = gr.HTML("", elem_id="nm-agreed")
        leaving = gr.Button("Cancel", size="sm", visible=False, elem_id="nm-agreed-stop")
        with gr.Row(elem_classes="nm-pair"):
            with gr.Column(elem_classes="nm-card"):
                gr.HTML("<h2>How the signs vote <small>filled: enough votes to be kept</small></h2>")
                of = gr.Dropdown([WHOLE], value=WHOLE, label="Votes of", interactive=True, elem_id="nm-votes-of")
                histogram = gr.HTML("", elem_id="nm-votes", elem_classes="nm-paper")
            with gr.Column(elem_classes="nm-card"):
                gr.HTML("<h2>By block and kind <small>share of what moved</small></h2>")
                heat = gr.HTML("", elem_id="nm-map")
        with gr.Column(elem_classes="nm-card"):
            gr.HTML("<h2>Tensor by tensor <small>a block opens to its tensors</small></h2>")
            table = gr.HTML("", elem_id="nm-tree")
        with gr.Column(elem_classes="nm-card"):
            gr.HTML(
                "<h2>Why signs agree, and what that is good for</h2>"
                '<p class="nm-fine">Zeros as candidates join, agreement beside what cosines alone predict, and '
                "steps of equal length along consensus and along conflict. Half a minute on the embedded pool.</p>"
            )
            with gr.Row(elem_classes="nm-buttons"):
                start = gr.Button("Explain this choice", variant="primary", elem_id="nm-explain")
                stop = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-explain-stop")
            progress = gr.HTML("", elem_id="nm-explain-progress", elem_classes="nm-told")
            why = gr.HTML("", elem_id="nm-why")
    pieces = [notice, of, histogram, heat, table, why, named, leaving]
    tab.select(
        told_on_the_way(show),
        [number, of, *controls.choice],
        pieces,
        trigger_mode="multiple",
        concurrency_limit=8,
        js=numbers(1 + len(controls.choice)),
        **LIGHT,
    )
    leaving.click(told(leave), controls.pool, None, concurrency_limit=8, **LIGHT)
    of.input(told(votes), [of, named], histogram, trigger_mode="always_last", **LIGHT)
    connect(start, stop, explain, [number, *controls.choice], [progress, why], jobs, standing)


def _checked(named: list[Any]) -> list[Any]:
    if not named:
        raise ParameterError("no choice is shown here yet: go to Unlearn and come back.")
    return named
