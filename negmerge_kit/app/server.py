"""The server: uvicorn in a thread over gradio's app, with our own gate in front of everything that gradio does.

gradio's `launch` would put its own layers in front of ours, believe a proxy's headers from any program of this
machine, and call the page once by itself, which goes astray where HTTP_PROXY is set.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from negmerge_kit.app.gate import Forwarded, Network, OwnPagesOnly, RefuseUploads, SlowGuesses, SmallBodies, host_of
from negmerge_kit.errors import ParameterError

CLOSE_SECONDS = 2.0
ANSWER_SECONDS = 1.0
BACKLOG = 2048
OPEN_SECONDS = 10.0
"""A stream closes when nothing was asked for so long. Not never: a browser opens six connections to us for all tabs."""
PATH = "/queue/data"
CLOSES = b'"msg":"close_stream"'


class Server:
    """Serves a page's app on an address of this machine.

    Args:
        blocks: the page; `blocks.close()` ends this server, too.
        people: (user, password) pairs; None asks for none.
        public: takes no uploads, and answers under any name.
        root_path: the path, or the whole address, under which a reverse proxy shows the app.
        trusted: the reverse proxies whose word is taken for who asks, by which scheme and host.
        on_close: called first when the server is closed.
        options: what `gradio.mount_gradio_app` takes besides: how the page looks and what it may send.
    """

    def __init__(
        self,
        blocks: gr.Blocks,
        *,
        people: Sequence[tuple[str, str]] | None = None,
        public: bool = False,
        root_path: str = "",
        trusted: Sequence[Network] = (),
        on_close: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        gr.mount_gradio_app(outer, blocks, "/", auth=list(people) if people else None, root_path=root_path, **options)
        app: ASGIApp = LastingStreams(outer, blocks)
        if public:
            app = RefuseUploads(app)
        if people:
            app = SlowGuesses(app)
        own = host_of(root_path.partition("://")[2].partition("/")[0])
        app = OwnPagesOnly(SmallBodies(app), loopback=not (people or public), names=[own] if own else [])
        self._blocks, self._app, self._on_close = blocks, Forwarded(app, trusted), on_close
        # What Blocks.close() ends; `launch` would have set the two.
        blocks.app, blocks.server = outer.routes[-1].app, self  # type: ignore[attr-defined]

    def start(self, host: str, port: int) -> None:
        """Answer from now on.

        Raises:
            ParameterError: if the port cannot be listened on.
        """
        sockets = listening(host, port)
        self._blocks.server_name, self._blocks.server_port = host, port
        config = uvicorn.Config(
            self._app, lifespan="on", ws="none", proxy_headers=False, log_level="warning", timeout_graceful_shutdown=0
        )
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._uvicorn.run, args=(sockets,), name="server", daemon=True)
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise ParameterError("the app did not start: the terminal says why.")
            time.sleep(0.005)

    def wait(self) -> None:
        """Block until the server is closed, by whatever thread."""
        while self._thread.is_alive():
            self._thread.join(0.2)

    def finish(self) -> None:
        """Wait a moment for the answers that are on their way: a closed queue puts its own sentence in their place."""
        waited_for = self._blocks._queue.pending_event_ids_session
        until = time.monotonic() + ANSWER_SECONDS
        while any(list(waited_for.values())) and time.monotonic() < until:
            time.sleep(0.02)

    def close(self) -> None:
        """Answer no more; what is being sent just then is cut off."""
        self._on_close()
        log, said = logging.getLogger("uvicorn.error"), logging.getLogger("uvicorn.error").level
        log.setLevel(logging.CRITICAL + 1)  # a traceback for each answer that is cut off
        try:
            self._uvicorn.should_exit = True
            self._thread.join(CLOSE_SECONDS)
        finally:
            log.setLevel(said)


class LastingStreams:
    """Holds gradio's word that a stream closes back until the page has been quiet; scripts get it at once.

    gradio closes a page's stream when all that the page has asked is answered. What the page asks in that very moment
    is lost: the page still takes the stream for open, opens no other, and never hears the answer; its slider is stuck.
    """

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


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of that name.

    Raises:
        ParameterError: if there is none to be had.
    """
    sockets: list[socket.socket] = []
    why: OSError | None = None
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
        except OSError as error:
            why = error
    if not sockets:
        raise ParameterError(f"the app cannot listen on port {port} ({why}): choose another with --port.")
    return sockets
