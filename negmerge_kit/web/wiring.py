"""What happens when a control moves. Page events are private, and validated all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError
from negmerge_kit.merging.rules import RULES
from negmerge_kit.sweeps.background import BackgroundSweep
from negmerge_kit.web import candidates
from negmerge_kit.web.dials import explanation
from negmerge_kit.web.endpoints import told
from negmerge_kit.web.fragments import brief, notice
from negmerge_kit.web.job_buttons import LIGHT, PRESS
from negmerge_kit.web.page import Controls, Shown
from negmerge_kit.web.takeaway import TakeAway
from negmerge_kit.web.unlearn import Unlearn


def wire(
    blocks: gr.Blocks,
    page: Unlearn,
    controls: Controls,
    shown: Shown,
    takeaway: TakeAway,
    sweep: BackgroundSweep | None,
) -> None:
    """Connect controls to answers."""
    _picking(blocks, page, controls, shown, sweep)
    _merging(page, controls, shown)
    _subtracting(blocks, page, controls, shown)
    _taking(page, controls, shown, takeaway)


def _picking(blocks: gr.Blocks, page: Unlearn, controls: Controls, shown: Shown, sweep: BackgroundSweep | None) -> None:
    pace = candidates.Pace(sweep.status() if sweep else None)

    def look(selected: list[str] | None, known: list[str], scale: float) -> tuple[Any, ...]:
        status = sweep.status() if sweep else None
        try:
            ids = page.bench.refresh().ids if status else page.bench.pool.ids
        except NegmergeError as error:
            return gr.skip(), known, notice(str(error)), gr.Timer(active=False)
        timer = gr.Timer(active=False) if status is None or status.finished else gr.skip()
        line = candidates.status_line(status, pace)
        if ids == known:
            return gr.skip(), ids, line, timer
        picked = candidates.selected_after(selected or [], known, ids, begun=bool(scale))
        return gr.CheckboxGroup(choices=candidates.choices(page.bench.pool), value=picked), ids, line, timer

    outputs = [controls.picker, shown.known, shown.progress, shown.timer]
    for trigger in (blocks.load, shown.timer.tick):
        trigger(look, [controls.picker, shown.known, controls.scale], outputs, **LIGHT)
    controls.every.click(lambda: page.bench.pool.ids, None, controls.picker, **LIGHT)
    controls.none.click(lambda: [], None, controls.picker, **LIGHT)
    controls.best.click(lambda: candidates.best(page.bench.pool), None, controls.picker, **LIGHT)


def _merging(page: Unlearn, controls: Controls, shown: Shown) -> None:
    def ruled(rule: str) -> list[Any]:
        return [explanation(rule), *(gr.Column(visible=name == rule) for name in RULES)]

    controls.rule.change(ruled, controls.rule, [shown.explains, *controls.dial_groups.values()], **LIGHT)


def _subtracting(blocks: gr.Blocks, page: Unlearn, controls: Controls, shown: Shown) -> None:
    chosen = [controls.picker, controls.rule, controls.keep]
    at_scale = [*chosen, controls.scale, *controls.dials]
    whole = [*chosen, *controls.dials]
    pieces = shown.chosen

    def choose(request: gr.Request, *values: Any) -> Any:
        return page.chosen(_session(request), *values)

    def fill(request: gr.Request, *values: Any) -> Iterator[Any]:
        yield gr.skip()  # a generator that yields nothing would empty the curve
        yield from page.fill(_session(request), *values)

    def find(request: gr.Request, *values: Any) -> Iterator[Any]:
        yield gr.Button("Searching…", interactive=False), gr.skip(), gr.skip()
        for result, scale in page.find(_session(request), *values):
            yield gr.skip(), result, gr.skip() if scale is None else scale
        yield gr.Button("Find the best scale", interactive=True), gr.skip(), gr.skip()

    def release() -> gr.Button:
        return gr.Button("Find the best scale", interactive=True)

    changes = [control.change for control in (controls.picker, controls.rule, controls.keep, *controls.dials)]
    gr.on([blocks.load, *changes], choose, at_scale, list(pieces), trigger_mode="always_last", **LIGHT).then(
        fill, whole, pieces.curve, trigger_mode="multiple", concurrency_limit=4, **LIGHT
    )
    controls.scale.change(
        page.moved, at_scale, list(pieces[:4]), trigger_mode="always_last", concurrency_limit=4, **LIGHT
    )
    searching = controls.find.click(
        told_on_the_way(find), whole, [controls.find, pieces.result, controls.scale],
        concurrency_limit=2, concurrency_id="heavy", **LIGHT,
    )  # fmt: skip
    searching.then(release, None, controls.find, **LIGHT)
    searching.success(choose, at_scale, list(pieces), **LIGHT).then(
        fill, whole, pieces.curve, trigger_mode="multiple", concurrency_limit=4, **LIGHT
    )


def _taking(page: Unlearn, controls: Controls, shown: Shown, takeaway: TakeAway) -> None:
    inputs = [controls.picker, controls.rule, controls.keep, controls.scale, *controls.dials]
    kinds = (
        ("weights", controls.take_weights, shown.weights_file, takeaway.weights),
        ("record", controls.take_record, shown.record_file, takeaway.record),
    )
    for kind, button, file, write in kinds:

        def take(ids: list[str], rule: str, keep: float, scale: float, *dials: Any, write: Any = write) -> str:
            return str(write(page.choice(ids, rule, dials), page.scale(scale), page.keep(keep)))

        button.click(
            told(take), inputs, file, api_visibility="private", show_progress="minimal", show_progress_on=button,
            concurrency_limit=2, concurrency_id="heavy",
        ).success(None, None, None, js=PRESS.format(kind=kind), api_visibility="private")  # fmt: skip


def told_on_the_way(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`told` for handlers that answer several times."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except NegmergeError as error:
            raise gr.Error(brief(str(error)), print_exception=False) from error

    return call


def _session(request: gr.Request) -> str:
    return str(request.session_hash)
