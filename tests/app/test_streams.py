"""A page's stream stays open for what the page asks just as gradio closes it; a script's closes at once."""

import asyncio
from types import SimpleNamespace

import pytest

from negmerge_kit.app.server import LastingStreams

CLOSE = b'data: {"msg":"close_stream","event_id":null}\n\n'


def answers(agent, questions, seconds=0.1):
    """What a connection gets of an app that answers one question a stream; `questions` are asked while it waits."""
    pending, sent = {}, []
    blocks = SimpleNamespace(is_running=True, _queue=SimpleNamespace(pending_event_ids_session=pending))

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer", "more_body": True})
        pending["me"] = set()
        await send({"type": "http.response.body", "body": CLOSE, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def ask():
        for _ in range(questions):
            await asyncio.sleep(0.03)
            pending["me"] = {"question"}

    async def send(message):
        sent.append(message)

    async def both():
        headers = [(b"user-agent", agent)]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/gradio_api/queue/data",
            "query_string": b"session_hash=me",
            "headers": headers,
        }
        await asyncio.gather(LastingStreams(app, blocks, seconds)(scope, None, send), ask())

    asyncio.run(both())
    return [message.get("body", b"start") for message in sent]


@pytest.mark.parametrize("questions", [0, 1, 3])
def test_a_page_hears_what_it_asked_as_its_stream_was_closing(questions):
    assert answers(b"Mozilla/5.0", questions, 0.5) == [b"start", *[b"answer"] * (1 + questions), CLOSE, b""]


def test_a_script_s_stream_ends_with_its_answer():
    assert answers(b"python-httpx", 1) == [b"start", b"answer", CLOSE, b""]
