"""Whose pages may talk to the app: its own, and scripts, which are no pages at all."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

REFUSED = "this page belongs to another site: open the app at its own address."


class OwnPagesOnly:
    """Refuses what a browser sends for another site's page, whatever that page asks; programs send no origin.

    Without it any site that somebody visits could use the app on that person's machine: gradio refuses such pages the
    answer, not the call.

    Args:
        app: what answers everything else.
        loopback: the app is for this machine only, so a name that is not this machine's is refused too; a site may
            give its own name this machine's address ("DNS rebinding"), and would then count as the app's own page.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self._app, self._loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] in ("http", "websocket") and not own(Headers(scope=scope), loopback=self._loopback):
            await PlainTextResponse(REFUSED, status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def own(headers: Headers, *, loopback: bool) -> bool:
    """Whether a request comes from the app's own page, or from no page.

    >>> own(Headers({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}), loopback=True)
    True
    >>> own(Headers({"host": "127.0.0.1:7860", "origin": "https://example.org"}), loopback=True)
    False
    >>> own(Headers({"host": "example.org:7860", "origin": "http://example.org:7860"}), loopback=True)
    False
    """
    host = headers.get("host", "")
    if loopback and not is_loopback(urlsplit(f"//{host}").hostname or ""):
        return False
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is None:
        return True
    if site is not None:  # what browsers say themselves, also where a proxy speaks for the app under another name
        return site in ("same-origin", "none")
    return urlsplit(origin).netloc.lower() == host.lower()


def is_loopback(host: str) -> bool:
    """Whether this name or address never leaves the machine.

    >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
