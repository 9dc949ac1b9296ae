"""A visitor's browser as the server sees it: the page's own hidden events, through the page's own queue, over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from negmerge_kit.errors import NegmergeError
from negmerge_kit.types import Json

SCALE, PICKER, NUMBER = "nm-scale", "nm-picker", "nm-number"
BETWEEN_EVENTS = 0.05
"""Seconds between two input events of a hand that drags a slider."""


class VisitError(NegmergeError):
    """The app refused a visitor, or answered with an error."""


@dataclass(frozen=True)
class Move:
    """A slider move: from the hand's last event to its answer.

    Attributes:
        scale: where the hand let go.
        seconds: from then to the answer for that scale.
        made: input events of the move.
        sent: how many of them the page sent; the others were stale before they could be.
        answer: the page's new pieces, as it received them.
    """

    scale: float
    seconds: float
    made: int
    sent: int
    answer: str


class Visitor:
    """One tab: what gradio's script does with the page's controls, without drawing it.

    A slider sends its newest value once the answer to the one before has come (`always_last`); what lay between is
    dropped. An event's followers (`.then`, `.success`) are sent when it has been answered, as the script does.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http, self._session = http, uuid.uuid4().hex[:12]
        self._answers: dict[str, asyncio.Future[Json]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stream: asyncio.Task[None] | None = None
        self.values: dict[int, Any] = {}

    async def arrive(self) -> None:
        """Load the page and all that it asks for by itself.

        Raises:
            VisitError: if any of it is refused.
        """
        (await self._http.get("/")).raise_for_status()
        config = (await self._http.get("/config")).raise_for_status().json()
        self.values = {part["id"]: part["props"].get("value") for part in config["components"]}
        self._ids = {part["props"]["elem_id"]: part["id"] for part in config["components"] if _named(part)}
        self._events: list[Json] = [event for event in config["dependencies"] if event["backend_fn"]]
        self._begin(self._heartbeat())
        await asyncio.gather(*(self._run(event) for event in self._events if _on(event, "load")))

    async def choose(self, candidates: list[str]) -> None:
        """Tick these candidates, wait for what follows at once, and leave the curve to fill in by itself.

        Raises:
            VisitError: if the app answers with an error.
        """
        self.values[self._ids[PICKER]] = candidates
        await asyncio.gather(*(self._run(event) for event in self._at(PICKER, "change")))

    @property
    def candidates(self) -> list[str]:
        """The ticked ones."""
        return list(self.values[self._ids[PICKER]])

    async def drag(self, scales: Sequence[float]) -> Move:
        """Move the slider through these scales and wait for the answer to the last.

        Raises:
            VisitError: if the app answers with an error, or its slider is not `always_last`.
        """
        (event,) = self._at(SCALE, "change")
        if event["trigger_mode"] != "always_last":
            raise VisitError(f"the page's slider sends stale moves, too: its trigger mode is {event['trigger_mode']}.")
        waiting: asyncio.Task[Json] | None = None
        sent = 0
        for index, scale in enumerate(scales):
            if index:
                await asyncio.sleep(BETWEEN_EVENTS)
            self.values[self._ids[SCALE]] = scale
            if waiting is None or waiting.done():
                waiting, sent, sent_scale = asyncio.ensure_future(self._call(event)), sent + 1, scale
        empty_cache = time.perf_counter()
        assert waiting is not None
        answer = await waiting
        if sent_scale != scales[-1]:
            answer, sent = await self._call(event), sent + 1
        return Move(scales[-1], time.perf_counter() - empty_cache, len(scales), sent, json.dumps(answer["data"]))

    async def leave(self) -> None:
        """Close the tab, whatever is still on its way.

        Raises:
            VisitError: if anything that nobody waited for has failed.
        """
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, VisitError):
                raise error

    def _at(self, name: str, what: str) -> list[Json]:
        return [event for event in self._events if [self._ids[name], what] in event["targets"]]

    async def _run(self, event: Json) -> None:
        """Send an event, and then its followers while the next events go on."""
        await self._call(event)
        for follower in self._events:
            if follower["trigger_after"] == event["id"]:
                self._begin(self._run(follower))

    async def _call(self, event: Json) -> Json:
        self.values[self._ids[NUMBER]] += 1  # as the page's script does
        body = {
            "data": [self.values.get(id) for id in event["inputs"]],
            "event_data": None,
            "fn_index": event["id"],
            "trigger_id": event["targets"][0][0] if event["targets"] else None,
            "session_hash": self._session,
        }
        joined = await self._http.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            raise VisitError(f"{event['api_name']} was refused with {joined.status_code}: {joined.text[:300]}.")
        answer = self._answer(joined.json()["event_id"])
        if self._stream is None or self._stream.done():
            self._stream = self._begin(self._listen())
        message = await answer
        if not message.get("success"):
            raise VisitError(f"{event['api_name']} ended in an error: {json.dumps(message)[:300]}.")
        output: Json = message["output"]
        return output

    async def _listen(self) -> None:
        """Hear the answers to all that was sent; the server closes the stream with the last of them."""
        while any(not answer.done() for answer in self._answers.values()):
            params = {"session_hash": self._session}
            async with self._http.stream("GET", "/gradio_api/queue/data", params=params) as stream:
                async for line in stream.aiter_lines():
                    message = json.loads(line[5:]) if line.startswith("data:") else {}
                    if message.get("msg") in ("process_completed", "unexpected_error"):
                        for id in [message["event_id"]] if message.get("event_id") else list(self._answers):
                            answer = self._answer(id)
                            if not answer.done():
                                answer.set_result(message)
        self._answers = {id: answer for id, answer in self._answers.items() if not answer.done()}

    def _answer(self, id: str) -> asyncio.Future[Json]:
        return self._answers.setdefault(id, asyncio.get_running_loop().create_future())

    async def _heartbeat(self) -> None:
        with suppress(httpx.HTTPError):
            async with self._http.stream("GET", f"/gradio_api/heartbeat/{self._session}") as beat:
                async for _ in beat.aiter_bytes():
                    pass

    def _begin(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        return task


def _named(part: Json) -> bool:
    return bool(part["props"].get("elem_id"))


def _on(event: Json, what: str) -> bool:
    return any(trigger == what for _, trigger in event["targets"])
