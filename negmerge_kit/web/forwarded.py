"""What a reverse proxy says of a request is believed where the proxy is one that was named, and dropped otherwise."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from negmerge_kit.errors import ParameterError
from negmerge_kit.web.origin import host_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = b"x-forwarded-host"
_SAID = {
    _HOST,
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-prefix",
    b"x-forwarded-port",
    b"x-real-ip",
    b"forwarded",
    b"x-gradio-server",
}
_USED = {b"x-forwarded-for", b"x-forwarded-proto"}


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
        headers = [pair for pair in scope["headers"] if pair[0] not in _SAID or (believed and pair[0] in _USED)]
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
