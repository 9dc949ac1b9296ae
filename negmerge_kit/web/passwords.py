"""Guessing passwords takes long: every wrong one doubles how long its sender waits for the next answer."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FIRST_DELAY, LONGEST_DELAY = 0.25, 60.0
"""Seconds after the first wrong password, and at most."""
MOST_SENDERS = 4096
BUSY = "another password from this address is being checked: send one at a time."


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
        self._senders: OrderedDict[str, _Sender] = OrderedDict()

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
        sender = self._senders.setdefault(network, _Sender())
        self._senders.move_to_end(network)
        if len(self._senders) > MOST_SENDERS:
            self._senders.popitem(last=False)
        return sender


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
