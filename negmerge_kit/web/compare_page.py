"""The Compare page: a floor, one button, and what every rule forgets above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.lab.comparison.comparison import Comparison, is_classifier
from negmerge_kit.lab.comparison.entrants import find_entrants
from negmerge_kit.merging.alike import BUFFERS
from negmerge_kit.scoring.scale import KEEP
from negmerge_kit.views import svg
from negmerge_kit.views.frontier import frontier_finding, rule_frontier
from negmerge_kit.web import fragments
from negmerge_kit.web.compare_table import LOAD, compare_table
from negmerge_kit.web.comparing import Compare
from negmerge_kit.web.dials import DIALS, buffers_of
from negmerge_kit.web.job_buttons import LIGHT, connect, told_by
from negmerge_kit.web.jobs import Done, Jobs, Progress
from negmerge_kit.web.page import Controls
from negmerge_kit.web.told import told

EMPTY = (
    f"All {len(find_entrants())} rules and searches are held against each other on this pool’s candidates at the floor "
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

    def begin() -> Iterator[Progress | Done]:
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


def lay_out(of_pool: Callable[[str], Compare], jobs: Jobs, controls: Controls, tabs: gr.Tabs, tab: gr.Tab) -> None:
    """Build the page within its tab and connect it; a row that is clicked moves the controls of Unlearn.

    `of_pool` gives the comparisons of the pool that a visitor is on.
    """
    with gr.Column(elem_classes="nm-page"):
        with gr.Column(elem_classes="nm-card nm-bar-of-controls"):
            gr.HTML("<h2>Which rule forgets most at equal retention?</h2>")
            keep = gr.Slider(
                0.8, 1.0, value=KEEP, step=0.01, label="keep at least", buttons=[], elem_id="nm-floor",
                info="Share of the base's retain accuracy that every rule must keep, on validation.",
            )  # fmt: skip
            with gr.Row(elem_classes="nm-buttons"):
                start = gr.Button("Compare all rules", variant="primary", elem_id="nm-compare")
                stop = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-compare-stop")
        progress = gr.HTML("", elem_id="nm-compare-progress", elem_classes="nm-told")
        content = gr.HTML("", elem_id="nm-compare-content", js_on_load=LOAD)

    def show(keep: Any, pool: str, buffers: Any, request: gr.Request) -> Iterator[Any]:
        try:
            compare, at = of_pool(pool), (floor_of(keep), buffers_of(buffers))
            if compare.known(*at) is None and compare.ready(*at):
                yield from follow(compare, str(request.session_hash), *at)
                return
        except NegmergeError as error:
            yield fragments.notice(str(error)), gr.skip()
            return
        yield "", shown_first(compare, keep, buffers)

    def run(visitor: str, keep: Any, pool: str, buffers: Any) -> Iterator[tuple[str, str]]:
        yield from follow(of_pool(pool), visitor, keep, buffers)

    def load(keep: Any, pool: str, buffers: Any, event: gr.EventData) -> list[Any]:
        data = event._data if isinstance(event._data, dict) else {}
        row = of_pool(pool).load(data.get("row"), data.get("which"), floor_of(keep), buffers_of(buffers))
        dials = [row.params[name] if owner == row.rule else gr.skip() for owner, name in DIALS]
        return [gr.Tabs(selected="unlearn"), list(row.candidates), row.rule, row.scale, keep, *dials]

    asked = [keep, controls.pool, controls.buffers]
    gr.on([tab.select, keep.release], show, asked, [progress, content], trigger_mode="always_last", **LIGHT)
    connect(start, stop, run, asked, [progress, content], jobs.cancel)
    moved = [tabs, controls.picker, controls.rule, controls.scale, controls.keep, *controls.dials]
    content.click(told(load), asked, moved, **LIGHT)


def _first(compare: Compare, keep: float) -> str:
    count = len(compare.bench.pool.ids)
    if count < 2:
        return f"There is nothing to compare yet: the pool has {count} finished candidates, and it takes two."
    return f"{EMPTY} {CLASSIFIER}" if is_classifier(compare.bench.pool) else EMPTY
