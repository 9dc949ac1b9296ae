"""The gate in front of gradio: whose pages and proxies are believed, how large a body may be, how fast one may guess.

Five layers, each a plain ASGI app around the next, in the order in which a request meets them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from negmerge_kit.app.recent import Recent
from negmerge_kit.app.uploads import PUBLIC
from negmerge_kit.errors import ParameterError

LARGEST_BODY = 1 << 20
"""Bytes of a request's body, on every route but uploads, which have limits of their own."""
TOO_LARGE = f"a request may send {LARGEST_BODY >> 20} MB and this one sends more: send many images as one zip."
REFUSED = "this page belongs to another site: open the app at its own address."
MALFORMED = "this request names no host, or not one well-formed Host and Origin: open the app at its own address."
BUSY = "another password from this address is being checked: send one at a time."
FIRST_DELAY, LONGEST_DELAY = 0.25, 60.0
"""Seconds after the first wrong password, and at most."""
MOST_SENDERS = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>\d{1,5}))?", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*", re.ASCII)
_HOST, _USED = b"x-forwarded-host", {b"x-forwarded-for", b"x-forwarded-proto"}
_CLAIMS = {_HOST, *_USED, b"x-forwarded-prefix", b"x-forwarded-port", b"x-real-ip", b"forwarded", b"x-gradio-server"}
"""Headers in which a reverse proxy says something of a request."""


class Forwarded:
    """Puts the visitor's own address, scheme and host into a request that comes through a named proxy.

    gradio takes X-Forwarded-Host and X-Forwarded-Proto from anybody, and writes them into the page's links.

    Args:
        app: what answers.
        trusted: the proxies; without any, what is said of a request counts for nothing.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[Network] = ()) -> None:
        self._app, self._trusted = app, tuple(trusted)
        self._believing: ASGIApp = ProxyHeadersMiddleware(app, [str(network) for network in trusted])  # type: ignore

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        believed = self._trusts((scope.get("client") or ("", 0))[0])
        headers = [pair for pair in scope["headers"] if pair[0] not in _CLAIMS or (believed and pair[0] in _USED)]
        hosts = [value for name, value in scope["headers"] if name == _HOST]
        if believed and hosts:
            host = hosts[0].partition(b",")[0].strip()
            headers = [pair for pair in headers if pair[0] != b"host"] + [(b"host", host)]
        app = self._believing if believed else self._app
        await app({**scope, "headers": headers}, receive, send)

    def _trusts(self, address: str) -> bool:
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._trusted)


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


class SmallBodies:
    """Reads each body whole before anything else sees the request, and refuses one that is too large while it streams.

    Without it gradio takes any JSON into memory, before it asks for a password: 300 MB of it became 3 GB, and nobody
    else was answered meanwhile. The sentence is where gradio's page looks for one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or (scope["method"] == "POST" and scope["path"] == "/gradio_api/upload"):
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
        if not message.get("more_body", False):  # the sender may have left, too: the next reader hears of it
            return bytes(body)


@dataclass
class _Sender:
    wrong: int = 0
    free_at: float = 0.0
    busy: bool = False


class SlowGuesses:
    """Answers the login of an address one at a time, and later after each wrong password; all others are not held up.

    A network of IPv6 (/64) counts as one address. The longest silent are forgotten first, and a correct password
    forgets the wrong ones.

    Args:
        app: checks the password; its answer 400 to a login is a wrong one, as gradio's is.
        clock, sleep: seconds, for tests.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._app, self._clock, self._sleep = app, clock, sleep
        self._senders: Recent[str, _Sender] = Recent(MOST_SENDERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].strip("/") == "login":
            await self._login(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = self._of(_network((scope.get("client") or ("", 0))[0]))
        if sender.busy:  # a waiting login holds a connection: one is enough
            await PlainTextResponse(BUSY, status_code=429, headers={"Retry-After": "1"})(scope, receive, send)
            return

        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 400:
                    delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(sender.wrong, 20))
                    sender.wrong, sender.free_at = sender.wrong + 1, self._clock() + delay
                elif message["status"] == 200:
                    sender.wrong = 0
            await send(message)

        sender.busy = True
        try:
            await self._sleep(max(0.0, sender.free_at - self._clock()))
            await self._app(scope, receive, heard)
        finally:
            sender.busy = False

    def _of(self, network: str) -> _Sender:
        return self._senders.setdefault(network, _Sender)


def _network(address: str) -> str:
    """The address itself, or the IPv6 network of which anybody has a whole one.

    >>> _network("192.0.2.7"), _network("2001:db8::1") == _network("2001:db8::2")
    ('192.0.2.7', True)
    """
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if version == 6 else address


class RefuseUploads:
    """Answers gradio's own upload route with a refusal, before a byte of the body is read: for a public app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/upload"):
            await PlainTextResponse(PUBLIC, status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def networks(texts: str) -> list[Network]:
    """Addresses and networks of `ADDRESS[,ADDRESS]`.

    >>> networks("127.0.0.1, 10.0.0.0/8")
    [IPv4Network('127.0.0.1/32'), IPv4Network('10.0.0.0/8')]

    Raises:
        ParameterError: for anything else, names and * among it: whose word is taken should be plain to see.
    """
    try:
        return [ipaddress.ip_network(text.strip()) for text in texts.split(",")]
    except ValueError as error:
        raise ParameterError(
            f"--forwarded-allow-ips is {texts!r} ({error}): give the proxy's address, as 127.0.0.1, or several with "
            "commas between them."
        ) from None


def check_root_path(text: str) -> None:
    """Refuse what is neither empty, a path, nor an address.

    >>> check_root_path("/negmerge"), check_root_path("https://example.org/negmerge")
    (None, None)

    Raises:
        ParameterError: with the remedy.
    """
    scheme, _, rest = text.partition("://")
    address = scheme in ("http", "https") and host_of(rest.partition("/")[0])
    if text and not re.fullmatch(r"/[A-Za-z0-9._~/-]*", "/" + rest.partition("/")[2] if address else text):
        raise ParameterError(
            f"--root-path is {text!r}: give the path behind the proxy, as /negmerge, or the whole "
            "address, as https://example.org/negmerge."
        )


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
