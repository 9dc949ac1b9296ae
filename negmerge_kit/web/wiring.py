"""What happens when a control moves. Page events are private, and validated all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError
from negmerge_kit.merging.rules import RULES
from negmerge_kit.progress import ProgressFn
from negmerge_kit.views.plots import MOST_SCALE, reach
from negmerge_kit.web import candidates
from negmerge_kit.web.address import READ, READ_TAB, Address, remember, restored
from negmerge_kit.web.dials import explanation, statistics_dial
from negmerge_kit.web.examples import EXAMPLES
from negmerge_kit.web.file_buttons import connect_files
from negmerge_kit.web.fragments import device_chip, notice
from negmerge_kit.web.job_buttons import LIGHT
from negmerge_kit.web.jobs import JobProgress
from negmerge_kit.web.numbered import numbers, session, unless_overtaken
from negmerge_kit.web.page import Controls, Shown
from negmerge_kit.web.pools import OpenPool, Pools
from negmerge_kit.web.told import told, told_on_the_way
from negmerge_kit.web.unlearn import Moved
from negmerge_kit.web.visitors import Visitors

FIND = "Find the best scale"


def wire(blocks: gr.Blocks, pools: Pools, controls: Controls, shown: Shown, tabs: gr.Tabs) -> None:
    """Connect controls to answers."""
    arriving = _arriving(blocks, pools, controls, shown, tabs)
    _picking(pools, controls, shown)
    _merging(controls, shown)
    _subtracting(pools, controls, shown, arriving)
    _taking(pools, controls)
    moved = [controls.picker, controls.rule, controls.scale, controls.keep, controls.buffers, *controls.dials]
    state = [controls.pool, *moved]
    gr.on([control.change for control in state], None, state, None, js=remember(pools.ids[0]), api_visibility="private")


def slider_at(scale: float) -> gr.Slider:
    """The scale's slider, long enough to stand there."""
    return gr.Slider(value=scale, maximum=reach(scale))


def standing(opened: OpenPool, picked: list[str], sweep_line: str = "") -> list[Any]:
    """[picker, known, style, device, progress, timer] of a pool that has just come onto the page."""
    pool, growing = opened.bench.pool, opened.sweep is not None and not opened.sweep.status().finished
    return [
        gr.CheckboxGroup(choices=candidates.choices(pool), value=picked),
        (opened.id, list(pool.distinct)),
        opened.unlearn.gallery.style(),
        device_chip(opened.device),
        sweep_line,
        gr.Timer(active=growing),
    ]


def _arriving(blocks: gr.Blocks, pools: Pools, controls: Controls, shown: Shown, tabs: gr.Tabs) -> list[Any]:
    """What an address asks for, and another pool: the events after which the choice is shown anew."""
    stands = [controls.picker, shown.known, shown.style, shown.device, shown.progress, shown.timer]
    steps = [controls.rule, controls.scale, controls.keep, *controls.dials, controls.buffers]
    rest, gone = [gr.skip() for _ in (*stands, *steps)], gr.Button(visible=False)

    def put(found: Address, opened: OpenPool) -> list[Any]:
        buffers = statistics_dial(opened.bench.policies, found.buffers)
        return [found.rule, slider_at(found.scale), found.keep, *found.dials(), buffers]

    def asked_for(query: Any) -> Address:
        return restored(
            query,
            pools.ids,
            lambda id: pools.open(id).bench.refresh().distinct,
            MOST_SCALE,
            buffers_of=lambda id: pools.open(id).bench.policies,
        )

    def opening(request: gr.Request, pool: str) -> Iterator[list[Any]]:
        """[what is told, its Cancel, everything else] until the pool is open."""
        for news in pools.follow(session(request), pool):
            if isinstance(news, JobProgress):
                yield [notice(f"{news.message}: {news.hint}", "hint"), gr.Button(visible=True), *rest]

    def restore(request: gr.Request, number: Any, query: Any) -> Iterator[list[Any]]:
        ids = pools.ids
        late = turned(request, number)
        try:
            wanted = restored(query, ids, lambda id: (), MOST_SCALE).pool
            yield from ([gr.Dropdown(choices=ids), *pieces] for pieces in opening(request, wanted))
            found = asked_for(query)
            opened = pools.open(found.pool)
            known = list(opened.bench.refresh().distinct)
        except NegmergeError as error:
            yield [gr.Dropdown(choices=ids), notice(str(error)), gone, *rest]
            return
        if late():
            yield [gr.Dropdown(choices=ids), gr.skip(), gr.skip(), *rest]
            return
        wrong = "; ".join(found.problems)
        said = notice(f"This link asks for what is not there, so that was left out: {wrong}.", "hint") if wrong else ""
        picked = known if found.candidates is None else found.candidates
        chooser = gr.Dropdown(choices=ids, value=found.pool)
        yield [chooser, said, gone, *standing(opened, picked), *put(found, opened)]

    def turn(query: Any) -> gr.Tabs:
        return gr.Tabs(selected=asked_for(query).tab)

    def switch(request: gr.Request, number: Any, pool: Any, known: tuple[str, list[str]]) -> Iterator[Any]:
        late = turned(request, number)
        try:
            yield from ([gr.skip(), gr.skip(), *pieces] for pieces in opening(request, pool) if not late())
            opened = pools.open(pool)
            everyone = list(opened.bench.refresh().distinct)
            answer = [
                gr.Tabs(selected="unlearn"),
                opened.id,
                "",
                gone,
                *standing(opened, everyone),
                *put(Address(opened.id), opened),
            ]
        except NegmergeError as error:
            answer = [gr.skip(), known[0], notice(str(error)), gone, *rest]  # the page still stands on the one before
        yield gr.skip() if late() else answer

    arrivals = Visitors()

    def turned(request: gr.Request, number: Any) -> Callable[[], bool]:
        """Nothing of the former pool stands any more; says whether another pool has been asked for since."""
        visitor = session(request)
        arrivals.asked(visitor, number, chooses=True)
        pools.visitors.turned(visitor, None, number)
        return lambda: arrivals.overtaken(visitor, number)

    asked = gr.Textbox(visible=False)
    told_there = [controls.pool, shown.told, shown.leave, *stands, *steps]
    arrived = blocks.load(restore, [shown.number, asked], told_there, js=READ, concurrency_limit=8, **LIGHT)
    arrived.then(told(turn), asked, tabs, js=READ_TAB, **LIGHT)  # afterwards: other pages show what stands on this one
    switched = controls.pool.input(
        switch,
        [shown.number, controls.pool, shown.known],
        [tabs, *told_there],
        trigger_mode="multiple",
        concurrency_limit=8,
        js=numbers(2),
        **LIGHT,
    )

    def leave(request: gr.Request) -> None:
        pools.leave(session(request))

    shown.leave.click(leave, None, None, concurrency_limit=8, **LIGHT)
    return [arrived, switched]


def _picking(pools: Pools, controls: Controls, shown: Shown) -> None:
    paces: dict[str, candidates.Pace] = {}

    def look(pool: str, selected: list[str] | None, known: tuple[str, list[str]], scale: float) -> Any:
        if pool != known[0]:
            return gr.skip()  # another pool is on its way to the page
        try:
            opened = pools.open(pool)
            status = opened.sweep.status() if opened.sweep else None
            pace = paces.setdefault(opened.id, candidates.Pace(status))
            ids = list((opened.bench.refresh() if status else opened.bench.pool).distinct)
        except NegmergeError as error:
            return gr.skip(), known, notice(str(error)), gr.Timer(active=False)
        timer = gr.Timer(active=False) if status is None or status.finished else gr.skip()
        line = candidates.status_line(status, pace)
        if ids == known[1]:
            return gr.skip(), known, line, timer
        picked = candidates.selected_after(selected or [], known[1], ids, begun=bool(scale))
        chooser = gr.CheckboxGroup(choices=candidates.choices(opened.bench.pool), value=picked)
        return chooser, (pool, ids), line, timer

    outputs = [controls.picker, shown.known, shown.progress, shown.timer]
    inputs = [shown.number, controls.pool, controls.picker, shown.known, controls.scale]
    shown.timer.tick(unless_overtaken(pools.visitors, look), inputs, outputs, js=numbers(4), **LIGHT)
    for button, pick in (
        (controls.every, lambda pool: list(pool.distinct)),
        (controls.none, lambda pool: []),
        (controls.best, candidates.best),
    ):

        def picked(pool: str, pick: Any = pick) -> Any:
            return pick(pools.open(pool).bench.pool)

        button.click(
            told(unless_overtaken(pools.visitors, picked)),
            [shown.number, controls.pool],
            controls.picker,
            js=numbers(1),
            **LIGHT,
        )


def _merging(controls: Controls, shown: Shown) -> None:
    def ruled(rule: str) -> list[Any]:
        return [explanation(rule), *(gr.Column(visible=name == rule) for name in RULES)]

    controls.rule.change(ruled, controls.rule, [shown.explains, *controls.dial_groups.values()], **LIGHT)


def _subtracting(pools: Pools, controls: Controls, shown: Shown, arriving: list[Any]) -> None:
    pieces, busy = shown.chosen, [controls.find, controls.stop, shown.chosen.result, controls.scale]
    at_scale = list(pieces[: len(Moved._fields)])
    numbered = {"inputs": [shown.number, *controls.model], "js": numbers(len(controls.model)), **LIGHT}
    searches = Visitors()

    def choose(request: gr.Request, number: Any, pool: str, *values: Any) -> Any:
        visitor = session(request)
        pools.visitors.asked(visitor, number, chooses=True)
        answer = pools.open(pool).unlearn.chosen(visitor, *values, number=number)
        if pools.visitors.overtaken(visitor, number, by_choice=True):
            return gr.skip()
        late = pools.visitors.overtaken(visitor, number)  # by a move of this very choice
        return [*(map(_skip, at_scale) if late else answer[: len(at_scale)]), *answer[len(at_scale) :]]

    def fill(request: gr.Request, pool: str, *values: Any) -> Iterator[Any]:
        yield gr.skip()  # a generator that yields nothing would empty the curve
        yield from pools.open(pool).unlearn.fill(session(request), *values)

    def move(request: gr.Request, number: Any, pool: str, *values: Any) -> Any:
        visitor = session(request)
        pools.visitors.asked(visitor, number, chooses=False)
        answer = pools.open(pool).unlearn.moved(*values)
        return gr.skip() if pools.visitors.overtaken(visitor, number) else answer

    def find(request: gr.Request, number: Any, pool: str, *values: Any) -> Iterator[Any]:
        visitor, pressed = session(request), (gr.Button("Searching…", interactive=False), gr.Button(visible=True))
        searches.asked(visitor, number, chooses=True)
        found: tuple[Any, Any] = gr.skip(), gr.skip()
        yield *pressed, *found  # each time, as in job_buttons
        for result, scale in pools.open(pool).unlearn.find(visitor, *values, number=number):
            found = result, gr.skip() if scale is None else slider_at(scale)
            yield *pressed, *found
        # An example has begun another search meanwhile: the buttons, and what was found, are that one's.
        if searches.overtaken(visitor, number):
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
        else:
            yield *release(), *found  # once more: of answers that come within one frame the page shows the last

    def release() -> tuple[gr.Button, gr.Button]:
        return gr.Button(FIND, interactive=True), gr.Button(visible=False)

    def cancel(request: gr.Request, number: Any) -> None:
        pools.visitors.chose(session(request), None, number)

    def show(trigger: Callable[..., Any], **options: Any) -> None:
        shown_now = trigger(told(choose), outputs=list(pieces), **options, **numbered)
        shown_now.then(
            told_on_the_way(fill), controls.floored, pieces.curve, trigger_mode="multiple", concurrency_limit=4, **LIGHT
        )

    def search(trigger: Callable[..., Any]) -> None:
        searching = trigger(
            told_on_the_way(find),
            [shown.number, *controls.floored],
            busy,
            concurrency_limit=2,
            concurrency_id="heavy",
            js=numbers(len(controls.floored)),
            **LIGHT,
        )
        searching.failure(release, None, busy[:2], **LIGHT)
        show(searching.success)

    changes = [
        control.change for control in (controls.picker, controls.rule, controls.keep, *controls.dials, controls.buffers)
    ]
    show(lambda *values, **options: gr.on(changes, *values, **options), trigger_mode="always_last")
    for arrived in arriving:
        show(arrived.then)
    controls.scale.change(told(move), outputs=at_scale, trigger_mode="always_last", concurrency_limit=4, **numbered)
    search(controls.find.click)
    controls.stop.click(cancel, shown.number, None, js=numbers(0), **LIGHT)
    for name, button in controls.examples.items():

        def put(pool: str, name: str = name) -> list[Any]:
            opened = pools.open(pool)
            found = EXAMPLES[name](opened.id, opened.bench.pool)
            return [found.candidates, found.rule, *found.dials()]

        choice = [controls.picker, controls.rule, *controls.dials]
        search(
            button.click(
                told(unless_overtaken(pools.visitors, put)),
                [shown.number, controls.pool],
                choice,
                js=numbers(1),
                **LIGHT,
            ).success
        )


def _taking(pools: Pools, controls: Controls) -> None:
    def take(
        kind: str, report: ProgressFn, pool: str, ids: list[str], rule: str, keep: float, scale: float, *dials: Any
    ) -> str:
        opened = pools.open(pool)
        page, write = opened.unlearn, getattr(opened.takeaway, kind)
        return str(write(page.choice(ids, rule, dials), page.scale(scale), page.keep(keep), report=report))

    connect_files(controls.takes, take, controls.model, pools.files)


def _skip(_: Any) -> Any:
    return gr.skip()
