"""The server: uvicorn in a thread over gradio's app, with our own gate in front of everything that gradio does.

gradio's `launch` would put its own layers in front of ours, believe a proxy's headers from any program of this
machine, and call the page once by itself, which goes astray where HTTP_PROXY is set.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from negmerge_kit.errors import ParameterError
from negmerge_kit.web.bodies import SmallBodies
from negmerge_kit.web.forwarded import Forwarded, Network
from negmerge_kit.web.origin import OwnPagesOnly, host_of
from negmerge_kit.web.passwords import SlowGuesses
from negmerge_kit.web.streams import LastingStreams
from negmerge_kit.web.uploads import RefuseUploads

CLOSE_SECONDS = 2.0
ANSWER_SECONDS = 1.0
BACKLOG = 2048


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
