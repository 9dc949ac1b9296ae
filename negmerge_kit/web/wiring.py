"""What happens when a control moves. Page events are private, and validated all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError
from negmerge_kit.merging.rules import RULES
from negmerge_kit.views.plots import LARGEST_SCALE
from negmerge_kit.web import candidates
from negmerge_kit.web.address import READ, Address, remember, restored
from negmerge_kit.web.dials import explanation, statistics_dial
from negmerge_kit.web.examples import EXAMPLES
from negmerge_kit.web.fragments import device_chip, notice
from negmerge_kit.web.job_buttons import LIGHT, PRESS
from negmerge_kit.web.page import Controls, Shown
from negmerge_kit.web.pools import OpenPool, Pools
from negmerge_kit.web.told import told, told_on_the_way
from negmerge_kit.web.unlearn import Moved

FIND = "Find the best scale"


def wire(blocks: gr.Blocks, pools: Pools, controls: Controls, shown: Shown, tabs: gr.Tabs) -> None:
    """Connect controls to answers."""
    arriving = _arriving(blocks, pools, controls, shown, tabs)
    _picking(pools, controls, shown)
    _merging(controls, shown)
    _subtracting(pools, controls, shown, arriving)
    _taking(pools, controls, shown)
    moved = [controls.picker, controls.rule, controls.scale, controls.keep, controls.buffers, *controls.dials]
    state = [controls.pool, *moved]
    gr.on([control.change for control in moved], None, state, None, js=remember(pools.ids[0]),
          api_visibility="private")  # fmt: skip


def standing(opened: OpenPool, picked: list[str], sweep_line: str = "") -> list[Any]:
    """[picker, known, style, device, progress, timer] of a pool that has just come onto the page."""
    pool, growing = opened.bench.pool, opened.sweep is not None and not opened.sweep.status().finished
    return [
        gr.CheckboxGroup(choices=candidates.choices(pool), value=picked), list(pool.ids),
        opened.unlearn.gallery.style(), device_chip(opened.device), sweep_line,
        gr.Timer(active=growing),
    ]  # fmt: skip


def _arriving(blocks: gr.Blocks, pools: Pools, controls: Controls, shown: Shown, tabs: gr.Tabs) -> list[Any]:
    """What an address asks for, and another pool: the events after which the choice is shown anew."""
    stands = [controls.picker, shown.known, shown.style, shown.device, shown.progress, shown.timer]
    steps = [controls.rule, controls.scale, controls.keep, *controls.dials, controls.buffers]

    def put(found: Address, opened: OpenPool) -> list[Any]:
        buffers = statistics_dial(opened.bench.policies, found.buffers)
        return [found.rule, found.scale, found.keep, *found.dials(), buffers]

    def asked_for(query: Any) -> Address:
        return restored(
            query, pools.ids, lambda id: pools.open(id).bench.refresh().ids, LARGEST_SCALE,
            buffers_of=lambda id: pools.open(id).bench.policies,
        )  # fmt: skip

    def restore(query: Any) -> list[Any]:
        ids = pools.ids
        try:
            found = asked_for(query)
            opened = pools.open(found.pool)
            known = opened.bench.refresh().ids
        except NegmergeError as error:
            return [gr.Dropdown(choices=ids), notice(str(error)), *map(_skip, [*stands, *steps])]
        wrong = "; ".join(found.problems)
        said = notice(f"This link asks for what is not there, so that was left out: {wrong}.", "hint") if wrong else ""
        picked = known if found.candidates is None else found.candidates
        chooser = gr.Dropdown(choices=ids, value=found.pool)
        return [chooser, said, *standing(opened, picked), *put(found, opened)]

    def turn(query: Any) -> gr.Tabs:
        return gr.Tabs(selected=asked_for(query).tab)

    def switch(pool: Any) -> Iterator[list[Any]]:
        rest = list(map(_skip, [*stands, *steps]))
        if pool not in pools.opened:
            yield [gr.skip(), notice("Opening this pool…", "hint"), *rest]
        try:
            opened = pools.open(pool)
            known = opened.bench.refresh().ids
        except NegmergeError as error:
            yield [gr.skip(), notice(str(error)), *rest]
            return
        yield [gr.Tabs(selected="unlearn"), "", *standing(opened, known), *put(Address(opened.id), opened)]

    asked = gr.Textbox(visible=False)
    arrived = blocks.load(restore, asked, [controls.pool, shown.told, *stands, *steps], js=READ, **LIGHT)
    arrived.then(told(turn), asked, tabs, js=READ, **LIGHT)  # afterwards: other pages show what stands on this one
    switched = controls.pool.input(switch, controls.pool, [tabs, shown.told, *stands, *steps], **LIGHT)
    return [arrived, switched]


def _picking(pools: Pools, controls: Controls, shown: Shown) -> None:
    paces: dict[str, candidates.Pace] = {}

    def look(pool: str, selected: list[str] | None, known: list[str], scale: float) -> tuple[Any, ...]:
        try:
            opened = pools.open(pool)
            status = opened.sweep.status() if opened.sweep else None
            pace = paces.setdefault(opened.id, candidates.Pace(status))
            ids = opened.bench.refresh().ids if status else opened.bench.pool.ids
        except NegmergeError as error:
            return gr.skip(), known, notice(str(error)), gr.Timer(active=False)
        timer = gr.Timer(active=False) if status is None or status.finished else gr.skip()
        line = candidates.status_line(status, pace)
        if ids == known:
            return gr.skip(), ids, line, timer
        picked = candidates.selected_after(selected or [], known, ids, begun=bool(scale))
        return gr.CheckboxGroup(choices=candidates.choices(opened.bench.pool), value=picked), ids, line, timer

    outputs = [controls.picker, shown.known, shown.progress, shown.timer]
    shown.timer.tick(look, [controls.pool, controls.picker, shown.known, controls.scale], outputs, **LIGHT)
    for button, pick in (
        (controls.every, lambda pool: pool.ids), (controls.none, lambda pool: []), (controls.best, candidates.best),
    ):  # fmt: skip

        def picked(pool: str, pick: Any = pick) -> Any:
            return pick(pools.open(pool).bench.pool)

        button.click(told(picked), controls.pool, controls.picker, **LIGHT)


def _merging(controls: Controls, shown: Shown) -> None:
    def ruled(rule: str) -> list[Any]:
        return [explanation(rule), *(gr.Column(visible=name == rule) for name in RULES)]

    controls.rule.change(ruled, controls.rule, [shown.explains, *controls.dial_groups.values()], **LIGHT)


def _subtracting(pools: Pools, controls: Controls, shown: Shown, arriving: list[Any]) -> None:
    pieces, busy = shown.chosen, [controls.find, controls.stop, shown.chosen.result, controls.scale]
    at_scale = list(pieces[: len(Moved._fields)])
    numbered = {"inputs": [shown.number, *controls.model], "js": _numbers(len(controls.model)), **LIGHT}

    def choose(request: gr.Request, number: Any, pool: str, *values: Any) -> Any:
        visitor = _session(request)
        pools.visitors.asked(visitor, number, chooses=True)
        answer = pools.open(pool).unlearn.chosen(visitor, *values, number=number)
        if pools.visitors.overtaken(visitor, number, by_choice=True):
            return list(map(_skip, answer))
        late = pools.visitors.overtaken(visitor, number)  # by a move of this very choice
        return [*(map(_skip, at_scale) if late else answer[: len(at_scale)]), *answer[len(at_scale) :]]

    def fill(request: gr.Request, pool: str, *values: Any) -> Iterator[Any]:
        yield gr.skip()  # a generator that yields nothing would empty the curve
        yield from pools.open(pool).unlearn.fill(_session(request), *values)

    def move(request: gr.Request, number: Any, pool: str, *values: Any) -> Any:
        visitor = _session(request)
        pools.visitors.asked(visitor, number, chooses=False)
        answer = pools.open(pool).unlearn.moved(*values)
        return list(map(_skip, answer)) if pools.visitors.overtaken(visitor, number) else answer

    def find(request: gr.Request, pool: str, *values: Any) -> Iterator[Any]:
        pressed = gr.Button("Searching…", interactive=False), gr.Button(visible=True)  # each time, as in job_buttons
        yield *pressed, gr.skip(), gr.skip()
        for result, scale in pools.open(pool).unlearn.find(_session(request), *values):
            yield *pressed, result, gr.skip() if scale is None else scale
        yield *release(), gr.skip(), gr.skip()

    def release() -> tuple[gr.Button, gr.Button]:
        return gr.Button(FIND, interactive=True), gr.Button(visible=False)

    def cancel(request: gr.Request) -> None:
        pools.visitors.chose(_session(request), None)

    def show(trigger: Callable[..., Any], **options: Any) -> None:
        shown_now = trigger(told(choose), outputs=list(pieces), **options, **numbered)
        shown_now.then(told_on_the_way(fill), controls.floored, pieces.curve, trigger_mode="multiple",
                       concurrency_limit=4, **LIGHT)  # fmt: skip

    def search(trigger: Callable[..., Any]) -> None:
        searching = trigger(told_on_the_way(find), controls.floored, busy, concurrency_limit=2,
                            concurrency_id="heavy", **LIGHT)  # fmt: skip
        searching.then(release, None, busy[:2], **LIGHT)
        show(searching.success)

    changes = [control.change for control in (controls.picker, controls.rule, controls.keep, *controls.dials,
                                                 controls.buffers)]  # fmt: skip
    show(lambda *values, **options: gr.on(changes, *values, **options), trigger_mode="always_last")
    for arrived in arriving:
        show(arrived.then)
    controls.scale.change(told(move), outputs=at_scale, trigger_mode="always_last", concurrency_limit=4, **numbered)
    search(controls.find.click)
    controls.stop.click(cancel, None, None, **LIGHT)
    for name, button in controls.examples.items():

        def put(pool: str, name: str = name) -> list[Any]:
            opened = pools.open(pool)
            found = EXAMPLES[name](opened.id, opened.bench.pool)
            return [found.candidates, found.rule, *found.dials()]

        choice = [controls.picker, controls.rule, *controls.dials]
        search(button.click(told(put), controls.pool, choice, **LIGHT).success)


def _taking(pools: Pools, controls: Controls, shown: Shown) -> None:
    kinds = (
        ("weights", controls.take_weights, shown.weights_file),
        ("record", controls.take_record, shown.record_file),
    )
    for kind, button, file in kinds:

        def take(pool: str, ids: list[str], rule: str, keep: float, scale: float, *dials: Any, kind: str = kind) -> str:
            opened = pools.open(pool)
            page, write = opened.unlearn, getattr(opened.takeaway, kind)
            return str(write(page.choice(ids, rule, dials), page.scale(scale), page.keep(keep)))

        button.click(
            told(take), controls.model, file, api_visibility="private", show_progress="minimal",
            show_progress_on=button, concurrency_limit=2, concurrency_id="heavy",
        ).success(None, None, None, js=PRESS.format(kind=kind), api_visibility="private")  # fmt: skip


def _numbers(values: int) -> str:
    """JavaScript that numbers a request of so many values as the page sends it (see `visitors`)."""
    return f"(number, ...values) => [++negmerge.sent, ...values.slice(0, {values})]"


def _skip(_: Any) -> Any:
    return gr.skip()


def _session(request: gr.Request) -> str:
    return str(request.session_hash)
