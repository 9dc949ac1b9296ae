"""The Compare page: a floor, one button, and what every rule forgets above it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.lab.comparison.comparison import Comparison, is_classifier
from negmerge_kit.lab.comparison.methods import find_methods
from negmerge_kit.merging.alike import BUFFERS
from negmerge_kit.scoring.scale_search import KEEP
from negmerge_kit.views import svg
from negmerge_kit.views.frontier import frontier_finding, rule_frontier
from negmerge_kit.views.plots import reach
from negmerge_kit.web import fragments
from negmerge_kit.web.compare_table import LOAD, compare_table
from negmerge_kit.web.comparing import Compare
from negmerge_kit.web.dials import DIALS, buffers_of
from negmerge_kit.web.job_buttons import LIGHT, connect, told_by
from negmerge_kit.web.jobs import Done, JobProgress, Jobs
from negmerge_kit.web.numbered import Standing, numbers, session
from negmerge_kit.web.page import Controls
from negmerge_kit.web.told import told
from negmerge_kit.web.visitors import Visitors

EMPTY = (
    f"All {len(find_methods())} rules and searches are held against each other on this pool’s candidates at the floor "
    "above; on the embedded pool that takes a minute or two. What is finished is kept."
)
CLASSIFIER = (
    "Baselines such as retraining, and the membership attacks, are in `negmerge compare POOL --baselines all`: they "
    "train networks of their own."
)


def compare_html(comparison: Comparison) -> str:
    """Finding, table and figure of a finished comparison."""
    finding = frontier_finding([comparison])
    figure = svg.inline(rule_frontier([comparison]), finding, name="frontier", marks=True)
    return (
        f'<div class="nm-stack"><section class="nm-card" id="nm-compared">{compare_table(comparison)}</section>'
        '<section class="nm-card"><h2>Forget against retain <small>a filled or hollow mark loads its row</small></h2>'
        f'<div class="nm-scroll" tabindex="0" role="region" aria-label="figure"><div class="nm-paper nm-broad">{figure}'
        "</div></div></section></div>"
    )


def shown_first(compare: Compare, keep: object, buffers: object = BUFFERS[0]) -> str:
    """What the page shows before anything is pressed: what is known, or what to do."""
    try:
        floor = floor_of(keep)
        found = compare.known(floor, buffers_of(buffers))
        return compare_html(found) if found else fragments.notice(_first(compare, floor), "hint")
    except NegmergeError as error:
        return fragments.notice(str(error))


def follow(compare: Compare, visitor: str, keep: object, buffers: object = BUFFERS[0]) -> Iterator[tuple[str, str]]:
    """(progress, content) again and again until the comparison is there; errors are sentences in the first."""

    def begin() -> Iterator[JobProgress | Done]:
        for news in compare.follow(visitor, floor_of(keep), buffers_of(buffers)):
            yield Done(compare_html(news.result)) if isinstance(news, Done) else news

    return told_by(begin)


def floor_of(value: object) -> float:
    """The floor that the page's slider sent: whole hundredths only, so that what is kept of them stays little.

    Raises:
        ParameterError: for anything else.

    >>> floor_of(0.9500000001)
    0.95
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.8 <= value <= 1:
        raise ParameterError(f"keep at least is {str(value)[:40]}: give a share from 0.8 to 1, such as 0.95.")
    return round(float(value), 2)


def lay_out(
    of_pool: Callable[[str], Compare],
    jobs: Jobs,
    controls: Controls,
    tabs: gr.Tabs,
    tab: gr.Tab,
    number: gr.Number,
    unlearn: Visitors,
) -> None:
    """Build the page within its tab and connect it; a row that is clicked moves the controls of Unlearn.

    `of_pool` gives the comparisons of the pool that a visitor is on; `unlearn` knows what visitors chose on that page.
    """
    with gr.Column(elem_classes="nm-page"):
        with gr.Column(elem_classes="nm-card nm-bar-of-controls"):
            gr.HTML("<h2>Which rule forgets most at equal retention?</h2>")
            keep = gr.Slider(
                0.8,
                1.0,
                value=KEEP,
                step=0.01,
                label="keep at least",
                buttons=[],
                elem_id="nm-floor",
                info="Share of the base's retain accuracy that every rule must keep, on validation.",
            )
            with gr.Row(elem_classes="nm-buttons"):
                start = gr.Button("Compare all rules", variant="primary", elem_id="nm-compare")
                stop = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-compare-stop")
        progress = gr.HTML("", elem_id="nm-compare-progress", elem_classes="nm-told")
        content = gr.HTML("", elem_id="nm-compare-content", js_on_load=LOAD)

    def about(keep: Any, pool: Any, buffers: Any) -> list[Any]:
        return [pool, floor_of(keep), buffers_of(buffers)]

    def marked(news: Iterator[tuple[str, str]], *asked: Any) -> Iterator[tuple[str, str]]:
        """Content says what it is of, so that a click on it cannot load another comparison's row."""
        for how_far, html in news:
            of = escape(json.dumps(about(*asked)), quote=True) if html else ""
            yield how_far, f'<div data-of="{of}">{html}</div>' if html else ""

    def show(request: gr.Request, number: Any, *asked: Any) -> Iterator[Any]:
        before, stands = standing.turn(request, number, *asked)
        yield "", gr.skip() if before else ""
        for news, html in marked(look(session(request), *asked), *asked):
            if not stands():
                return
            yield news, html or gr.skip()

    def look(visitor: str, keep: Any, pool: str, buffers: Any) -> Iterator[tuple[str, str]]:
        try:
            compare, at = of_pool(pool), (floor_of(keep), buffers_of(buffers))
            if compare.known(*at) is None and compare.ready(*at):
                yield from follow(compare, visitor, *at)
            else:
                yield "", shown_first(compare, *at)
        except NegmergeError as error:
            yield fragments.notice(str(error)), ""

    def run(visitor: str, keep: Any, pool: str, buffers: Any) -> Iterator[tuple[str, str]]:
        yield from marked(follow(of_pool(pool), visitor, keep, buffers), keep, pool, buffers)

    def load(request: gr.Request, number: Any, keep: Any, pool: str, buffers: Any, event: gr.EventData) -> Any:
        data = event._data if isinstance(event._data, dict) else {}
        at = about(keep, pool, buffers)
        if data.get("of") != json.dumps(at):
            raise ParameterError("that row is of another pool or floor than stands here now: compare again.")
        row = of_pool(pool).load(data.get("row"), data.get("which"), *at[1:])
        if unlearn.overtaken(session(request), number, by_choice=True):
            return gr.skip()
        slider = gr.Slider(value=row.scale, maximum=reach(row.scale))
        dials = [row.params[name] if owner == row.rule else gr.skip() for owner, name in DIALS]
        return [gr.Tabs(selected="unlearn"), list(row.candidates), row.rule, slider, keep, *dials]

    asked = [number, keep, controls.pool, controls.buffers]
    numbered = {"inputs": asked, "js": numbers(len(asked) - 1), **LIGHT}
    standing = Standing(about, Visitors())
    gr.on(
        [tab.select, keep.change],
        show,
        outputs=[progress, content],
        trigger_mode="multiple",
        concurrency_limit=8,
        **numbered,
    )
    connect(start, stop, run, asked, [progress, content], jobs, standing)
    moved = [tabs, controls.picker, controls.rule, controls.scale, controls.keep, *controls.dials]
    content.click(told(load), outputs=moved, **numbered)


def _first(compare: Compare, keep: float) -> str:
    count = len(compare.bench.pool.distinct)
    if count < 2:
        return f"There is nothing to compare yet: the pool has {count} finished candidates, and it takes two."
    return f"{EMPTY} {CLASSIFIER}" if is_classifier(compare.bench.pool) else EMPTY
