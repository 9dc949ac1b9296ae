"""How much a request may send: a megabyte, but for uploads, which have limits of their own."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from negmerge_kit.web.uploads import is_upload

LARGEST_BODY = 1 << 20
"""Bytes of a request's body, on every route but uploads."""
TOO_LARGE = f"a request may send {LARGEST_BODY >> 20} MB and this one sends more: send many images as one zip."


class SmallBodies:
    """Reads each body whole before anything else sees the request, and refuses one that is too large while it streams.

    Without it gradio takes any JSON into memory, before it asks for a password: 300 MB of it became 3 GB, and nobody
    else was answered meanwhile. The sentence is where gradio's page looks for one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or is_upload(scope):
            await self._app(scope, receive, send)
            return
        body = None if _announced(Headers(scope=scope)) > LARGEST_BODY else await _read(receive)
        if body is None:
            await JSONResponse({"detail": TOO_LARGE}, status_code=413)(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, again, send)


def _announced(headers: Headers) -> int:
    """What the sender says it will send; what it does send is counted besides."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


async def _read(receive: Receive) -> bytes | None:
    """The body, or None as soon as more than the limit has come."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body", False):  # the sender may have left, too: whoever asks again hears of it
            return bytes(body)
