"""What happens when a control of the Unlearn page moves. Page events are private, and validated all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from negmerge_kit.app.buttons import LIGHT
from negmerge_kit.app.errors import as_gradio_error, as_gradio_errors
from negmerge_kit.app.jobs import JobProgress
from negmerge_kit.app.pages import candidates
from negmerge_kit.app.pages.rule_dials import DIALS, explanation, statistics_dial
from negmerge_kit.app.pages.unlearn import Moved
from negmerge_kit.app.pages.unlearn_layout import Controls, Shown
from negmerge_kit.app.pools import OpenPool, Pools
from negmerge_kit.app.requests import RequestTracker, numbers, session
from negmerge_kit.app.templates import notice, render
from negmerge_kit.app.url_state import READ, READ_TAB, Address, remember, restored
from negmerge_kit.errors import NegmergeError
from negmerge_kit.merging.rules import RULES
from negmerge_kit.plots.scale_curve import MOST_SCALE, reach
from negmerge_kit.pools.pool import Pool
from negmerge_kit.progress import ProgressFn

FIND = "Find the best scale"
PICKS: dict[str, Callable[[Pool], list[str]]] = {
    "all": lambda pool: list(pool.distinct),
    "none": lambda pool: [],
    "best 3": candidates.best,
}
"""Name of a button to the candidates that it ticks."""

AT_SCALE = len(Moved._fields)
STATE_AND_STEPS = 6 + 4 + len(DIALS)


class UnlearnEvents:
    """The page's handlers for all visitors and pools.

    Model and choice are the values of `Controls.model` and `Controls.floored`, the pool first; `number` counts the
    page's requests.
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._arrivals, self._searches = RequestTracker(), RequestTracker()
        self._paces: dict[str, candidates.Pace] = {}

    # --- arriving: what an address asks for, and another pool -----------------------------------

    def restore(self, request: gr.Request, number: Any, query: Any) -> Iterator[list[Any]]:
        """[pool chooser, message, its cancel, state of the pool, steps] for what the address asks for."""
        ids, gone = self._pools.ids, gr.Button(visible=False)
        late = self._turned(request, number)
        try:
            wanted = restored(query, ids, lambda id: (), MOST_SCALE).pool
            yield from ([gr.Dropdown(choices=ids), *pieces] for pieces in self._opening(request, wanted))
            found = self._asked_for(query)
            opened = self._pools.open(found.pool)
            known = list(opened.bench.refresh().distinct)
        except NegmergeError as error:
            yield [gr.Dropdown(choices=ids), notice(str(error)), gone, *_rest()]
            return
        if late():
            yield [gr.Dropdown(choices=ids), gr.skip(), gr.skip(), *_rest()]
            return
        wrong = "; ".join(found.problems)
        said = notice(f"This link asks for what is not there, so that was left out: {wrong}.", "hint") if wrong else ""
        picked = known if found.candidates is None else found.candidates
        chooser = gr.Dropdown(choices=ids, value=found.pool)
        yield [chooser, said, gone, *_state(opened, picked), *_steps(found, opened)]

    def turn(self, query: Any) -> gr.Tabs:
        """The tab that the address asks for, once all else is restored: other pages show what is chosen on this one."""
        return gr.Tabs(selected=self._asked_for(query).tab)

    def switch(self, request: gr.Request, number: Any, pool: Any, known: tuple[str, list[str]]) -> Iterator[Any]:
        """[tabs, pool chooser, message, its cancel, state, steps] for another pool; `known` is what the page shows."""
        late, gone = self._turned(request, number), gr.Button(visible=False)
        try:
            yield from ([gr.skip(), gr.skip(), *pieces] for pieces in self._opening(request, pool) if not late())
            opened = self._pools.open(pool)
            everyone = list(opened.bench.refresh().distinct)
            state, steps = _state(opened, everyone), _steps(Address(opened.id), opened)
            answer = [gr.Tabs(selected="unlearn"), opened.id, "", gone, *state, *steps]
        except NegmergeError as error:
            answer = [gr.skip(), known[0], notice(str(error)), gone, *_rest()]  # the page still shows the one before
        yield gr.skip() if late() else answer

    def leave(self, request: gr.Request) -> None:
        """Wait for no pool any more."""
        self._pools.leave(session(request))

    def _opening(self, request: gr.Request, pool: str) -> Iterator[list[Any]]:
        """[message, its cancel, everything else] until the pool is open."""
        for news in self._pools.follow(session(request), pool):
            if isinstance(news, JobProgress):
                yield [notice(f"{news.message}: {news.hint}", "hint"), gr.Button(visible=True), *_rest()]

    def _asked_for(self, query: Any) -> Address:
        return restored(
            query,
            self._pools.ids,
            lambda id: self._pools.open(id).bench.refresh().distinct,
            MOST_SCALE,
            buffers_of=lambda id: self._pools.open(id).bench.policies,
        )

    def _turned(self, request: gr.Request, number: Any) -> Callable[[], bool]:
        """Nothing of the former pool is wanted any more; says whether another pool has been asked for since."""
        visitor = session(request)
        self._arrivals.asked(visitor, number, chooses=True)
        self._pools.visitors.turned(visitor, None, number)
        return lambda: self._arrivals.overtaken(visitor, number)

    # --- candidates and rule ----------------------------------------------------------------------

    def look(self, pool: str, selected: list[str] | None, known: tuple[str, list[str]], scale: float) -> Any:
        """[picker, what is known, progress, timer] while candidates are being fine-tuned."""
        if pool != known[0]:
            return gr.skip()  # another pool is on its way to the page
        try:
            opened = self._pools.open(pool)
            status = opened.sweep.status() if opened.sweep else None
            pace = self._paces.setdefault(opened.id, candidates.Pace(status))
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

    def picked(self, name: str) -> Callable[..., Any]:
        """The handler of a button of `PICKS`: which candidates are ticked."""
        return self._pools.visitors.unless_overtaken(lambda pool: PICKS[name](self._pools.open(pool).bench.pool))

    def example(self, name: str) -> Callable[..., Any]:
        """The handler of an example's button: [candidates, rule, dials...]."""

        def put(pool: str) -> list[Any]:
            opened = self._pools.open(pool)
            found = candidates.EXAMPLES[name](opened.id, opened.bench.pool)
            return [found.candidates, found.rule, *found.dials()]

        return self._pools.visitors.unless_overtaken(put)

    # --- numbers, curve and search ------------------------------------------------------------------

    def choose(self, request: gr.Request, number: Any, pool: str, *values: Any) -> Any:
        """The pieces of `Chosen` for another choice."""
        visitor = session(request)
        self._pools.visitors.asked(visitor, number, chooses=True)
        answer = self._pools.open(pool).unlearn.chosen(visitor, *values, number=number)
        if self._pools.visitors.overtaken(visitor, number, by_choice=True):
            return gr.skip()
        if self._pools.visitors.overtaken(visitor, number):  # by a move of this very choice
            return [*(gr.skip() for _ in range(AT_SCALE)), *answer[AT_SCALE:]]
        return list(answer)

    def fill(self, request: gr.Request, pool: str, *values: Any) -> Iterator[Any]:
        """The curve, scale by scale."""
        yield gr.skip()  # a generator that yields nothing would empty the curve
        yield from self._pools.open(pool).unlearn.fill(session(request), *values)

    def move(self, request: gr.Request, number: Any, pool: str, *values: Any) -> Any:
        """The pieces of `Moved` at another scale."""
        visitor = session(request)
        self._pools.visitors.asked(visitor, number, chooses=False)
        answer = self._pools.open(pool).unlearn.moved(*values)
        return gr.skip() if self._pools.visitors.overtaken(visitor, number) else answer

    def find(self, request: gr.Request, number: Any, pool: str, *values: Any) -> Iterator[Any]:
        """[find, cancel, result, scale] while the best scale is searched, and once it is found."""
        visitor, pressed = session(request), (gr.Button("Searching…", interactive=False), gr.Button(visible=True))
        self._searches.asked(visitor, number, chooses=True)
        found: tuple[Any, Any] = gr.skip(), gr.skip()
        yield *pressed, *found  # each time, as in JobButtons
        for result, scale in self._pools.open(pool).unlearn.find(visitor, *values, number=number):
            found = result, gr.skip() if scale is None else slider_at(scale)
            yield *pressed, *found
        # An example has begun another search meanwhile: the buttons, and what was found, are that one's.
        if self._searches.overtaken(visitor, number):
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
        else:
            yield *release(), *found  # once more: of answers that come within one frame the page shows the last

    def cancel(self, request: gr.Request, number: Any) -> None:
        """Search no further."""
        self._pools.visitors.chose(session(request), None, number)

    # --- files ----------------------------------------------------------------------------------------

    def take(
        self,
        kind: str,
        report: ProgressFn,
        pool: str,
        ids: list[str],
        rule: str,
        keep: float,
        scale: float,
        *dials: Any,
    ) -> str:
        """The path of the weights, or of the record, of the model that is chosen."""
        opened = self._pools.open(pool)
        page, write = opened.unlearn, getattr(opened.downloads, kind)
        return str(write(page.choice(ids, rule, dials), page.scale(scale), page.keep(keep), report=report))


def connect(blocks: gr.Blocks, pools: Pools, controls: Controls, shown: Shown, tabs: gr.Tabs) -> None:
    """Connect controls to answers."""
    events = UnlearnEvents(pools)
    arriving = _connect_arriving(events, blocks, controls, shown, tabs)
    outputs = [controls.picker, shown.known, shown.progress, shown.timer]
    inputs = [shown.number, controls.pool, controls.picker, shown.known, controls.scale]
    shown.timer.tick(pools.visitors.unless_overtaken(events.look), inputs, outputs, js=numbers(4), **LIGHT)
    of_pool = {"inputs": [shown.number, controls.pool], "js": numbers(1), **LIGHT}
    for button, name in zip((controls.every, controls.none, controls.best), PICKS, strict=True):
        button.click(as_gradio_error(events.picked(name)), outputs=controls.picker, **of_pool)
    controls.rule.change(ruled, controls.rule, [shown.explains, *controls.dial_groups.values()], **LIGHT)
    _connect_answers(events, controls, shown, arriving)
    controls.takes.connect(events.take, controls.model, pools.files)
    moved = [controls.picker, controls.rule, controls.scale, controls.keep, controls.buffers, *controls.dials]
    state = [controls.pool, *moved]
    gr.on([control.change for control in state], None, state, None, js=remember(pools.ids[0]), api_visibility="private")


def _connect_arriving(
    events: UnlearnEvents, blocks: gr.Blocks, controls: Controls, shown: Shown, tabs: gr.Tabs
) -> list[Any]:
    """The events after which the whole choice is shown again."""
    state = [controls.picker, shown.known, shown.style, shown.device, shown.progress, shown.timer]
    steps = [controls.rule, controls.scale, controls.keep, *controls.dials, controls.buffers]
    pieces, asked = [controls.pool, shown.message, shown.leave, *state, *steps], gr.Textbox(visible=False)
    arrived = blocks.load(events.restore, [shown.number, asked], pieces, js=READ, concurrency_limit=8, **LIGHT)
    arrived.then(as_gradio_error(events.turn), asked, tabs, js=READ_TAB, **LIGHT)
    switched = controls.pool.input(
        events.switch,
        [shown.number, controls.pool, shown.known],
        [tabs, *pieces],
        trigger_mode="multiple",
        concurrency_limit=8,
        js=numbers(2),
        **LIGHT,
    )
    shown.leave.click(events.leave, None, None, concurrency_limit=8, **LIGHT)
    return [arrived, switched]


def _connect_answers(events: UnlearnEvents, controls: Controls, shown: Shown, arriving: list[Any]) -> None:
    pieces, busy = shown.chosen, [controls.find, controls.stop, shown.chosen.result, controls.scale]
    numbered = {"inputs": [shown.number, *controls.model], "js": numbers(len(controls.model)), **LIGHT}

    def show(trigger: Callable[..., Any], **options: Any) -> None:
        chosen = trigger(as_gradio_error(events.choose), outputs=list(pieces), **options, **numbered)
        filled = {"trigger_mode": "multiple", "concurrency_limit": 4, **LIGHT}
        chosen.then(as_gradio_errors(events.fill), controls.floored, pieces.curve, **filled)

    def search(trigger: Callable[..., Any]) -> None:
        searching = trigger(
            as_gradio_errors(events.find),
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
    moved = {"outputs": list(pieces[:AT_SCALE]), "trigger_mode": "always_last", "concurrency_limit": 4}
    controls.scale.change(as_gradio_error(events.move), **moved, **numbered)
    search(controls.find.click)
    controls.stop.click(events.cancel, shown.number, None, js=numbers(0), **LIGHT)
    choice = [controls.picker, controls.rule, *controls.dials]
    for name, button in controls.examples.items():
        put = as_gradio_error(events.example(name))
        search(button.click(put, [shown.number, controls.pool], choice, js=numbers(1), **LIGHT).success)


def ruled(rule: str) -> list[Any]:
    """[explanation, group of dials...] of a rule."""
    return [explanation(rule), *(gr.Column(visible=name == rule) for name in RULES)]


def slider_at(scale: float) -> gr.Slider:
    """The scale's slider, long enough to reach that scale."""
    return gr.Slider(value=scale, maximum=reach(scale))


def release() -> tuple[gr.Button, gr.Button]:
    """The button that searches and its cancel as they are where nothing is searched."""
    return gr.Button(FIND, interactive=True), gr.Button(visible=False)


def _state(opened: OpenPool, picked: list[str]) -> list[Any]:
    """[picker, known, style, device, progress, timer] of a pool that has just come onto the page."""
    pool, growing = opened.bench.pool, opened.sweep is not None and not opened.sweep.status().finished
    return [
        gr.CheckboxGroup(choices=candidates.choices(pool), value=picked),
        (opened.id, list(pool.distinct)),
        opened.unlearn.gallery.style(),
        render("shared.device_chip", opened.device),
        "",
        gr.Timer(active=growing),
    ]


def _steps(found: Address, opened: OpenPool) -> list[Any]:
    """[rule, scale, floor, dials..., running statistics] as an address asks."""
    buffers = statistics_dial(opened.bench.policies, found.buffers)
    return [found.rule, slider_at(found.scale), found.keep, *found.dials(), buffers]


def _rest() -> list[Any]:
    """State and steps as they are."""
    return [gr.skip() for _ in range(STATE_AND_STEPS)]
