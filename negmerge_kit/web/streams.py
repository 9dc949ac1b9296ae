"""A page's stream of answers, kept open for a while after its last answer.

gradio closes a page's stream when all that the page has asked is answered. What the page asks in that very moment is
lost: the page still takes the stream for open, opens no other, and never hears the answer; its slider is stuck.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import parse_qs

import gradio as gr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_SECONDS = 10.0
"""A stream closes when nothing was asked for so long. Not never: a browser opens six connections to us for all tabs."""
PATH = "/queue/data"
CLOSES = b'"msg":"close_stream"'


class LastingStreams:
    """Holds gradio's word that a stream closes back until the page has been quiet; scripts get it at once."""

    def __init__(self, app: ASGIApp, blocks: gr.Blocks, open_seconds: float = OPEN_SECONDS) -> None:
        self._app, self._blocks, self._open_seconds = app, blocks, open_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # `gradio_client` waits for the end of its stream; browsers all name themselves Mozilla.
        if (
            scope["type"] != "http"
            or not scope["path"].endswith(PATH)
            or "Mozilla" not in Headers(scope=scope).get("user-agent", "")
        ):
            await self._app(scope, receive, send)
            return
        (session,) = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[:1]
        begun = False
        closing: list[Message] = []
        end: list[Message] = []

        async def pass_on(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                if not begun:
                    begun = True
                    await send(message)
            elif CLOSES in message.get("body", b""):
                closing.append(message)
            elif not message.get("more_body", False):
                end.append(message)
            else:
                await send(message)

        while True:
            closing.clear()
            end.clear()
            await self._app(scope, receive, pass_on)
            if not closing or not await self._asked(session):
                for message in (*closing, *end):
                    await send(message)
                return

    async def _asked(self, session: str) -> bool:
        """Wait for the page to ask for something else; whether it did."""
        until = time.monotonic() + self._open_seconds
        while time.monotonic() < until and self._blocks.is_running:
            if self._blocks._queue.pending_event_ids_session.get(session):
                return True
            await asyncio.sleep(0.01)
        return False
