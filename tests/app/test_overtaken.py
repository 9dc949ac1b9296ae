"""What comes late for something else is not shown: the page's own handlers, called in the order of a race."""

import json
import shutil
import threading
from functools import partial
from types import SimpleNamespace

import gradio as gr
import pytest

from negmerge_kit.app.buttons import ELSEWHERE, FileWriting
from negmerge_kit.app.jobs import Done, JobProgress
from negmerge_kit.app.pages.agreement import AgreementEvents
from negmerge_kit.app.pages.audit import AuditEvents
from negmerge_kit.app.pages.compare import CompareEvents, Loaded
from negmerge_kit.app.pages.finetune import FinetunePage
from negmerge_kit.app.pages.unlearn_events import PICKS, UnlearnEvents
from negmerge_kit.app.pools import Pools
from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.scoring import Accuracy, Point, ScaleSearch

from .conftest import DIALS
from .tuning import tunes_in

SKIP = gr.skip()
BASE = Point(0.0, Accuracy(80, 100, "val"), Accuracy(90, 100, "val"))
BEST = Point(0.4, Accuracy(40, 100, "val"), Accuracy(88, 100, "val"))
TABLE = "a table"


class App:
    """The pages over two pools of the same candidates, "first" and "second", as handlers for one visitor."""

    def __init__(self, tiny_pool, home):
        folders = [shutil.copytree(tiny_pool, home / name) for name in ("first", "second")]
        self.pools = pools = Pools(folders, made=home / "made", device="cpu")
        (home / "arrived").mkdir()
        self.request = SimpleNamespace(session_hash="")
        self.tunes = tunes_in(home)
        self.unlearn = UnlearnEvents(pools)
        self.compare = CompareEvents(lambda pool: pools.open(pool).compare, pools.jobs, pools.visitors)
        self.agreement = AgreementEvents(lambda pool: pools.open(pool).agreement, pools.jobs)
        self.audit = AuditEvents(lambda pool: pools.open(pool).audit, pools.jobs)
        self.finetune = FinetunePage(self.tunes)
        self.ids = self.pools.open("first").bench.pool.ids

    def by_me(self, handler):
        """The handler, for the visitor of this test."""
        return partial(handler, self.request)

    @property
    def me(self):
        return self.request.session_hash

    def model(self, pool="first", ids=None, keep=0.95, scale=0.5):
        return [pool, self.ids if ids is None else ids, "negmerge", keep, scale, *DIALS]

    def floored(self, pool="first", ids=None, keep=0.95):
        return [pool, self.ids if ids is None else ids, "negmerge", keep, *DIALS]


@pytest.fixture(scope="module")
def whole(tiny_pool, tmp_path_factory):
    return App(tiny_pool, tmp_path_factory.mktemp("app"))


@pytest.fixture
def app(whole, request):
    """The app, for a visitor of this test's own."""
    whole.request = SimpleNamespace(session_hash=request.node.name)
    return whole


def skipped(answer):
    return answer == SKIP or bool(
        isinstance(answer, (list, tuple)) and answer and all(piece == SKIP for piece in answer)
    )


# --- Unlearn ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("then", ["candidates", "floor", "pool", "cancel", "nothing"])
def test_a_search_that_ends_after_something_else_was_chosen_moves_no_slider(app, monkeypatch, then):
    scored = app.pools.open("first").unlearn.scored
    find, choose = app.by_me(app.unlearn.find), app.by_me(app.unlearn.choose)
    later = {
        "candidates": lambda: choose(3, *app.model(ids=app.ids[:1])),
        "floor": lambda: choose(3, *app.model(keep=0.9)),
        "pool": lambda: list(app.by_me(app.unlearn.switch)(3, "second", ("first", app.ids))),
        "cancel": lambda: app.by_me(app.unlearn.cancel)(3),
        "nothing": lambda: None,
    }

    def search(choice, keep):
        yield BEST
        later[then]()
        scored.known(choice).searches[keep] = ScaleSearch(keep, BASE, BEST, ())

    monkeypatch.setattr(scored, "search", search)
    choose(1, *app.model())
    scales = [getattr(answer[3], "value", None) for answer in find(2, *app.floored())]
    assert (BEST.scale in scales) is (then == "nothing")
    scored._known.clear()


def test_a_search_that_waited_in_line_while_another_choice_arrived_does_not_begin(app, monkeypatch):
    scored, begun = app.pools.open("first").unlearn.scored, []
    monkeypatch.setattr(scored, "search", lambda *values: begun.append(values) or iter(()))
    app.by_me(app.unlearn.choose)(3, *app.model(ids=app.ids[:1]))
    list(app.by_me(app.unlearn.find)(2, *app.floored()))
    assert begun == []
    assert app.pools.visitors.is_at(app.me, None) is False  # and the curve of that choice goes on


@pytest.mark.slow
def test_a_search_that_an_example_has_overtaken_leaves_it_the_buttons(app, monkeypatch):
    scored = app.pools.open("first").unlearn.scored
    find, choose, ids = app.by_me(app.unlearn.find), app.by_me(app.unlearn.choose), app.ids[:1]

    def search(choice, keep):
        yield BEST
        scored.known(choice).searches[keep] = ScaleSearch(keep, BASE, BEST, ())

    monkeypatch.setattr(scored, "search", search)
    choose(1, *app.model())
    first = find(2, *app.floored())
    next(first)
    choose(3, *app.model(ids=ids))
    second = find(4, *app.floored(ids=ids))
    assert next(second)[0].interactive is False
    assert skipped(list(first)[-1])
    assert list(second)[-1][0].interactive is True
    scored._known.clear()


def test_another_floor_ends_the_filling_of_the_curve_with_the_former_floor(app, monkeypatch):
    page = app.pools.open("first").unlearn
    monkeypatch.setattr(page.scored, "fill_live", lambda choice: iter([None] * 3))
    choose = app.by_me(app.unlearn.choose)
    choose(1, *app.model())
    filling = page.fill(app.me, *app.floored()[1:])
    assert next(filling)
    choose(2, *app.model(keep=0.9))
    assert next(filling, None) is None


def test_a_cancel_that_a_later_choice_overtook_does_not_end_it(app):
    app.by_me(app.unlearn.choose)(3, *app.model())
    app.by_me(app.unlearn.cancel)(2)
    assert not app.pools.visitors.is_at(app.me, None)


# --- which pool stands ------------------------------------------------------------------------


def test_what_a_button_puts_for_the_former_pool_is_left_out_once_another_one_is_asked_for(app):
    handlers = {name: app.unlearn.picked(name) for name in PICKS}
    handlers |= {name: app.unlearn.example(name) for name in ("uniform average", "one candidate")}
    for name, handler in handlers.items():
        request = SimpleNamespace(session_hash=name)
        assert not skipped(handler(request, 1, "first"))
        app.pools.visitors.turned(name, None, 3)
        assert skipped(handler(request, 2, "first")) and not skipped(handler(request, 4, "first"))


def test_of_two_pools_asked_for_the_later_one_stands_whichever_opens_first(app, monkeypatch):
    switch, opened, later = app.by_me(app.unlearn.switch), app.pools.open, []

    def slowly(id, **telling):
        if id == "second" and not later:
            later.extend(switch(2, "first", ("first", app.ids)))
        return opened(id, **telling)

    monkeypatch.setattr(app.pools, "open", slowly)
    assert skipped(list(switch(1, "second", ("first", app.ids)))[-1])
    assert later[-1][1] == "first" and later[-1][5] == ("first", app.ids)


def test_a_link_that_is_restored_late_does_not_undo_another_pool(app, monkeypatch):
    restore, opened = app.by_me(app.unlearn.restore), app.pools.open

    def slowly(id, **telling):
        monkeypatch.undo()
        list(app.by_me(app.unlearn.switch)(2, "first", ("first", app.ids)))
        return opened(id, **telling)

    monkeypatch.setattr(app.pools, "open", slowly)
    chooser, *rest = list(restore(1, "?pool=second&scale=0.5"))[-1]
    assert "value" not in chooser.constructor_args and skipped(rest)
    assert list(restore(3, "?pool=second"))[-1][0].value == "second"


def test_a_pool_that_cannot_be_opened_leaves_the_chooser_where_the_page_stands(app, monkeypatch):
    def broken(id, **telling):
        raise PoolError("it is damaged.")

    monkeypatch.setattr(app.pools, "open", broken)
    _, chooser, told, leave, *rest = list(app.by_me(app.unlearn.switch)(1, "second", ("first", app.ids)))[-1]
    assert chooser == "first" and "It is damaged" in told and leave.visible is False and skipped(rest)


def test_while_a_pool_is_opened_the_page_says_so_and_can_cancel(app, monkeypatch):
    monkeypatch.setattr(app.pools, "_ready", lambda id: None)  # as if it were not open yet
    go, load = threading.Event(), app.pools._load
    monkeypatch.setattr(app.pools, "_load", lambda *asked: (go.wait(10), load(*asked))[1])
    seen = []
    for answer in app.by_me(app.unlearn.switch)(1, "second", ("first", app.ids)):
        seen.append(answer)
        if "Opening this pool: " in str(answer[2]):
            assert answer[3].visible and skipped(answer[4:])
            app.by_me(app.unlearn.leave)()
    go.set()
    _, chooser, told, leave, *rest = seen[-1]
    assert "Cancelled: choose the pool again" in told and leave.visible is False
    assert chooser == "first" and skipped(rest)
    assert any("Opening this pool: " in str(answer[2]) for answer in seen)


def test_counting_votes_can_be_cancelled_and_begins_anew_on_coming_back(app, monkeypatch):
    agreeing, go = app.pools.open("first").agreement, threading.Event()
    agreeing._layers.clear()
    count = agreeing.bench.agreement
    monkeypatch.setattr(agreeing.bench, "agreement", lambda ids, **more: (go.wait(10), count(ids, **more))[1])
    show, choice = app.by_me(app.agreement.show), ["first", app.ids, "negmerge", *DIALS]
    for answer in show(1, "the whole model", *choice):
        if answer[7].visible:
            app.by_me(app.agreement.leave)("first")
    assert "Cancelled" in answer[0] and answer[7].visible is False
    go.set()
    assert "candidates as chosen on Unlearn" in list(show(2, "the whole model", *choice))[-1][0]


def test_the_list_of_candidates_does_not_grow_into_another_pool(app):
    look, request = app.pools.visitors.unless_overtaken(app.unlearn.look), app.request
    grown = look(request, 1, "first", app.ids[:1], ("first", app.ids[:1]), 0)
    assert grown[1] == ("first", app.ids)
    assert skipped(look(request, 2, "second", app.ids[:1], ("first", app.ids[:1]), 0))
    app.pools.visitors.turned(app.me, "another choice", 4)  # as a candidate was unticked meanwhile
    assert skipped(look(request, 3, "first", app.ids[:1], ("first", app.ids[:1]), 0))


# --- Compare ----------------------------------------------------------------------------------


@pytest.fixture
def comparing(app, monkeypatch):
    """Comparisons that end when told to: `done` holds those that have."""
    done = set()

    def follow(compare, visitor, keep, buffers="keep"):
        yield "under way", ""
        done.add((compare.bench.pool.folder.name, keep))
        yield "", TABLE

    monkeypatch.setattr("negmerge_kit.app.pages.compare.follow", follow)
    monkeypatch.setattr("negmerge_kit.app.pages.compare.Compare.ready", lambda compare, *at: False)
    monkeypatch.setattr(
        "negmerge_kit.app.pages.compare.Compare.load",
        lambda compare, row, which, *at: Loaded(tuple(app.ids), "uniform", {}, 0.7),
    )
    return app


@pytest.mark.parametrize("then", [(0.95, "second"), (0.9, "first"), (0.95, "first")])
def test_a_comparison_that_ends_on_another_pool_or_floor_is_not_shown_there(comparing, then):
    run, show = comparing.by_me(comparing.compare.comparing.run), comparing.by_me(comparing.compare.show)
    running = run(1, 0.95, "first", "keep")
    next(running), next(running)
    list(show(2, *then, "keep"))
    told, html = list(running)[-1][2:]
    if then == (0.95, "first"):
        assert TABLE in html
    else:
        assert skipped(html) and ELSEWHERE in told


def test_a_table_of_another_pool_is_gone_before_anything_is_worked_out(comparing):
    show = comparing.by_me(comparing.compare.show)
    list(show(1, 0.95, "first", "keep"))
    assert skipped(next(show(2, 0.95, "first", "keep"))[1])
    assert next(show(3, 0.95, "second", "keep"))[1] == ""


def test_a_click_loads_the_row_of_the_table_that_is_seen_or_says_so(comparing):
    load = comparing.by_me(comparing.compare.load)

    def clicked(of, number=2, pool="first"):
        return load(number, 0.95, pool, "keep", gr.EventData(None, {"row": "uniform", "which": "matched", "of": of}))

    seen = json.dumps(["first", 0.95, "keep"])
    rule, slider = clicked(seen)[2:4]
    assert (rule, slider.value) == ("uniform", 0.7)
    with pytest.raises(ParameterError, match="another pool"):
        clicked(seen, pool="second")
    with pytest.raises(ParameterError, match="another pool"):
        clicked({"an": "object"})
    comparing.pools.visitors.turned(comparing.me, None, 3)  # another pool is on its way
    assert skipped(clicked(seen))


# --- Agreement and Audit -----------------------------------------------------------------------


def test_the_explanation_of_a_former_choice_is_not_shown_under_another(app, monkeypatch):
    monkeypatch.setattr(
        "negmerge_kit.app.pages.agreement.AgreementPage.explanation",
        lambda *values: iter([JobProgress("half"), Done("why")]),
    )
    show, explain = app.by_me(app.agreement.show), app.by_me(app.agreement.explaining.run)
    choice, other = (["first", ids, "negmerge", *DIALS] for ids in (app.ids, app.ids[:2]))
    named = list(show(1, "the whole model", *choice))[-1][6]
    assert named == choice
    assert list(explain(2, *choice))[-1][3] == "why"
    running = explain(3, *choice)
    next(running), next(running)
    blank, *counting, shown = show(4, "the whole model", *other)
    assert blank[2:6] == ("", "", "", "") and "2 candidates" in shown[0] and shown[7].visible is False
    assert counting and all(news[7].visible and 'role="progressbar"' in news[0] for news in counting)
    told, html = list(running)[-1][2:]
    assert skipped(html) and ELSEWHERE in told


def test_votes_of_a_layer_are_of_the_choice_that_is_shown(app):
    show, votes = app.by_me(app.agreement.show), app.by_me(app.agreement.votes)
    choice, other = (["first", ids, "negmerge", *DIALS] for ids in (app.ids, app.ids[:2]))
    list(show(1, "the whole model", *choice))
    assert "<svg" in votes("b1 q", choice)
    list(show(2, "the whole model", *other))
    assert skipped(votes("b1 q", choice)) and "<svg" in votes("b1 q", other)


def test_an_audit_that_ends_under_another_models_name_is_not_shown(app, monkeypatch):
    monkeypatch.setattr("negmerge_kit.app.pages.audit.audit_html", str)
    monkeypatch.setattr(
        "negmerge_kit.app.pages.audit.AuditPage.follow", lambda *values: iter([JobProgress("one"), Done("audit")])
    )
    show, run = app.by_me(app.audit.show), app.by_me(app.audit.auditing.run)
    title, _, _, named = show(1, *app.model(scale=0.5))
    assert "scale 0.5" in title and named == app.model(scale=0.5)
    running = run(2, named, ["zero-shot"], False)
    next(running), next(running)
    assert "scale 0.6" in show(3, *app.model(scale=0.6))[0]
    told, html = list(running)[-1][2:]
    assert skipped(html) and ELSEWHERE in told
    assert list(run(4, named, ["zero-shot"], False))[-1][3] == "audit"


def test_what_the_audit_page_gives_away_is_the_model_that_it_names(app, monkeypatch):
    """A search that ends meanwhile moves the slider of Unlearn: the page still names, and gives, the model it named."""
    show = app.by_me(app.audit.show)
    named = show(1, *app.model(scale=0.5))[-1]
    given = []
    monkeypatch.setattr(
        "negmerge_kit.app.pages.audit.AuditPage.write", lambda page, *asked: given.append(asked) or "file"
    )
    press = app.by_me(FileWriting(app.audit.write, "audit-files", app.pools.files).pressed("page"))
    assert list(press(named))[-1][2:] == ("", "file")
    kind, _, *model = given[0]
    assert kind == "page" and model == app.model(scale=0.5)[1:]
    told, path = list(press([]))[-1][2:]
    assert "No model is named" in told and skipped(path)


def test_cancelling_on_one_page_leaves_the_other_pages_jobs_alone(app, monkeypatch):
    left = []
    monkeypatch.setattr(app.pools.jobs, "cancel", left.append)
    for buttons in (app.compare.comparing, app.agreement.explaining, app.audit.auditing):
        buttons.cancel(app.request)
    assert len(set(left)) == 3 and all(name.startswith(app.me) for name in left)


# --- Fine-tune --------------------------------------------------------------------------------


@pytest.fixture
def plan(app):
    """What the page has begun; its handlers are in the app."""
    plan = app.tunes.plans.of_family("colours")
    plan.write()
    return plan


def test_a_look_at_the_run_leaves_the_chosen_pool_alone(app, plan):
    other = app.tunes.plans.of_family("digits")
    look = app.finetune.watch
    for chosen in (plan.id, other.id):  # by now another one may be chosen: an answer must not put this one back
        assert "value" not in look("", chosen)[-1].constructor_args
    assert look("", None)[-1].value in (plan.id, other.id)


def test_while_something_else_is_checked_or_refused_the_page_names_what_fine_tune_would_begin(app, plan):
    use = app.by_me(app.finetune.use)
    nothing_sent = ["images of your own", None, None, [], "mine", ["digits"], "digits", None, None, "negmerge-tiny"]
    assert "colours</b> stays chosen" in list(use(*nothing_sent, plan.id))[-1][2]
    assert "stays chosen" not in list(use(*nothing_sent, ""))[-1][2]
    family = ["an embedded family", *nothing_sent[1:]]
    *progress, (_, _, summary, id, *_), _ = list(use(*family, plan.id))
    assert id != plan.id and "stays chosen" not in summary
    assert all("stays chosen" in news[2] for news in progress[1:])
