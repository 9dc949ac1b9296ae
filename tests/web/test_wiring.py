"""What a page is answered when its requests overtake each other, by the handlers that it really calls, over HTTP."""

import httpx
import pytest

from negmerge_kit.merging.rules import RULES
from negmerge_kit.web import serve

from .conftest import free_port

DIALS = [parameter.default for rule in RULES.values() for parameter in rule.parameters]


@pytest.fixture(scope="module")
def page(tiny_pool):
    """The app's move and choose handlers, called with (number, candidates, scale): which pieces each one renews."""
    port = free_port()
    blocks = serve(tiny_pool, device="cpu", port=port, block=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        config = http.get("/config").json()
        named = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        numbered = [event for event in config["dependencies"] if named["nm-number"] in event["inputs"]]
        (move,) = [event for event in numbered if [named["nm-scale"], "change"] in event["targets"]]
        (choose,) = [event for event in numbered if [named["nm-picker"], "change"] in event["targets"]]
        assert all("negmerge.sent" in event["js"] for event in numbered) and len(numbered) > 3

        def ask(event, number, candidates, scale=0.5):
            data = [number, tiny_pool.name, candidates, "negmerge", 0.95, scale, *DIALS, "keep"]
            body = {"data": data, "fn_index": event["id"], "session_hash": "me", "trigger_id": None, "event_data": None}
            answer = http.post("/gradio_api/run/predict", json=body)
            assert answer.status_code == 200, answer.text
            return [isinstance(piece, str) for piece in answer.json()["data"]]

        yield (lambda *asked: ask(move, *asked)), (lambda *asked: ask(choose, *asked))
    blocks.close(verbose=False)


@pytest.mark.slow
def test_an_answer_that_a_later_request_has_overtaken_is_left_out(page, bench):
    move, choose = page
    ids = list(bench.pool.ids)
    assert all(choose(10, ids)) and all(move(12, ids, 0.6))
    assert not any(move(11, ids, 0.9))  # sent before, answered after
    late = choose(11, ids, 0.9)  # a move of the same choice came between: its numbers stay, the rest is new
    assert len(late) == 8 and not any(late[:4]) and all(late[4:])
    assert all(choose(14, ids[:1])) and not any(choose(13, ids[:2])) and all(move(15, ids[:1]))


@pytest.mark.parametrize("number", [None, 0, -3, 1e300])
def test_a_script_that_counts_nothing_is_always_answered(page, bench, number):
    move, choose = page
    ids = list(bench.pool.ids)
    choose(20, ids)
    assert all(choose(number, ids[:1])) and all(move(number, ids, 0.3))
