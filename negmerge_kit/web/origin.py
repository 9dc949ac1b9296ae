"""Whose pages may talk to the app: its own, and scripts, which are no pages at all."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

REFUSED = "this page belongs to another site: open the app at its own address."
MALFORMED = "this request names no host, or not one well-formed Host and Origin: open the app at its own address."

_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>\d{1,5}))?", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*", re.ASCII)


class OwnPagesOnly:
    """Refuses what a browser sends for another site's page, whatever that page asks; programs send no origin.

    Without it any site that somebody visits could use the app on that person's machine: gradio refuses such pages the
    answer, not the call. It is asked first of all: what comes after it reads Host and Origin as if they were in order.

    Args:
        app: what answers everything else.
        loopback: the app is for this machine only, so a name that is not this machine's is refused too; a site may
            give its own name this machine's address ("DNS rebinding"), and would then count as the app's own page.
        names: other hosts under which the app is known, as behind a reverse proxy.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, names: Collection[str] = ()) -> None:
        self._app, self._loopback, self._names = app, loopback, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        why = ""
        if scope["type"] in ("http", "websocket"):
            why = refusal(Headers(scope=scope), loopback=self._loopback, names=self._names)
        answer = PlainTextResponse(why, status_code=403) if why else self._app
        await answer(scope, receive, send)


def refusal(headers: Headers, *, loopback: bool, names: Collection[str] = ()) -> str:
    """Why a request is refused; empty where it comes from the app's own page, or from no page.

    >>> refusal(Headers({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}), loopback=True)
    ''
    >>> refusal(Headers({"host": "127.0.0.1:7860", "origin": "https://example.org"}), loopback=True) == REFUSED
    True
    >>> refusal(Headers({"host": "example.org", "origin": "http://example.org"}), loopback=True) == REFUSED
    True
    >>> refusal(Headers({"host": "[::1"}), loopback=True) == MALFORMED
    True
    """
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    name = host_of(hosts[0]) if len(hosts) == 1 else None
    if name is None or len(origins) > 1:
        return MALFORMED
    if loopback and not (is_loopback(name) or name in names):
        return REFUSED
    if not origins:
        return ""
    (origin,) = origins
    scheme, _, page = origin.partition("://")
    if origin != "null" and not (_SCHEME.fullmatch(scheme) and host_of(page)):
        return MALFORMED
    site = headers.get("sec-fetch-site")
    if site is not None:  # what browsers say themselves, also where a proxy speaks for the app under another name
        return "" if site in ("same-origin", "none") else REFUSED
    return "" if page.lower() == hosts[0].lower() else REFUSED


def host_of(authority: str) -> str | None:
    """The name or address of `HOST` or `HOST:PORT`, in small letters and without brackets; None if it is neither.

    >>> host_of("Example.org:443"), host_of("[::1]:7860"), host_of("[::1"), host_of("a b"), host_of("a:99999")
    ('example.org', '::1', None, None, None)
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None or int(match["port"] or 0) > 65535:
        return None
    name = match["host"].lower()
    if not name.startswith("["):
        return name
    try:
        return str(ipaddress.IPv6Address(name[1:-1]))
    except ValueError:
        return None


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
