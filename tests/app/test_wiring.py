"""What a page is answered when its requests overtake each other, by the handlers that it really calls, over HTTP."""

import httpx
import pytest

from negmerge_kit.app import serve
from negmerge_kit.merging.rules import RULES

from .conftest import free_port

DIALS = [parameter.default for rule in RULES.values() for parameter in rule.parameters]


@pytest.fixture(scope="module")
def http(tiny_pool):
    port = free_port()
    blocks = serve(tiny_pool, device="cpu", port=port, block=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        yield http
    blocks.close(verbose=False)


class Events:
    """Which events of which components the page listens to."""

    def __init__(self, config):
        self.all = config["dependencies"]
        self.named = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self.buttons = {part["props"]["value"]: part["id"] for part in config["components"] if part["type"] == "button"}

    def of(self, part, what):
        part = self.named.get(part) or self.buttons[part]
        (event,) = (event for event in self.all if [part, what] in event["targets"] and event["backend_fn"])
        return event

    def after(self, event):
        return next(other for other in self.all if other["trigger_after"] == event["id"])


@pytest.fixture(scope="module")
def events(http):
    return Events(http.get("/config").json())


@pytest.fixture(scope="module")
def page(tiny_pool, http, events):
    """The app's move and choose handlers, called with (number, candidates, scale): which pieces each one renews."""
    move, choose = events.of("nm-scale", "change"), events.of("nm-picker", "change")
    numbered = [event for event in events.all if events.named["nm-number"] in event["inputs"]]
    assert all("negmerge.sent" in event["js"] for event in numbered) and len(numbered) > 3

    def ask(event, number, candidates, scale=0.5):
        data = [number, tiny_pool.name, candidates, "negmerge", 0.95, scale, *DIALS, "keep"]
        body = {"data": data, "fn_index": event["id"], "session_hash": "me", "trigger_id": None, "event_data": None}
        answer = http.post("/gradio_api/run/predict", json=body)
        assert answer.status_code == 200, answer.text
        return [isinstance(piece, str) for piece in answer.json()["data"]]

    return (lambda *asked: ask(move, *asked)), (lambda *asked: ask(choose, *asked))


def test_what_the_audit_page_gives_away_is_no_control_of_unlearn(events):
    """A search that ends meanwhile moves the slider of Unlearn: the page still gives the model that it names."""
    for file in ("card: unlearned.md", "all: unlearned.zip"):
        (named,) = events.of(file, "click")["inputs"]
        assert named not in events.named.values()


def test_a_refused_start_or_stop_shows_what_another_tab_has_begun(events):
    for button in ("nm-finetune", "nm-finetune-stop", "nm-resume"):
        follower = events.after(events.of(button, "click"))
        assert events.named["nm-finetune-progress"] in follower["outputs"] and not follower["trigger_only_on_success"]


def test_a_later_pool_link_or_choice_is_asked_for_though_an_older_one_is_still_answered(events):
    """gradio holds requests of one event back while one is answered, unless that is said."""
    for part in ("nm-pool", "nm-floor"):
        assert events.of(part, "input" if part == "nm-pool" else "change")["trigger_mode"] == "multiple"
    for part in ("nm-picker", "nm-scale"):
        assert events.of(part, "change")["trigger_mode"] == "always_last"


@pytest.mark.slow
def test_an_answer_that_a_later_request_has_overtaken_is_left_out(page, bench):
    move, choose = page
    ids = list(bench.pool.ids)
    assert all(choose(10, ids)) and all(move(12, ids, 0.6))
    assert not any(move(11, ids, 0.9))  # sent before, answered after
    late = choose(11, ids, 0.9)  # a move of the same choice came between: its numbers stay, the rest is new
    assert len(late) == 8 and not any(late[:4]) and all(late[4:])
    assert all(choose(14, ids[:1])) and not any(choose(13, ids[:2])) and all(move(15, ids[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("number", [None, 0, -3, 1e300])
def test_a_script_that_counts_nothing_is_always_answered(page, bench, number):
    move, choose = page
    ids = list(bench.pool.ids)
    choose(20, ids)
    assert all(choose(number, ids[:1])) and all(move(number, ids, 0.3))
