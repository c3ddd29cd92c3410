"""The events of runs as Server-Sent Events, resumed by the last id that a reader saw.

The `id` of a message is a place in the log: the cursor after a frame, or `<cursor before the frame>.<sequence>` inside
one. So a reader that comes back with it gets every event after it, once, whatever cut it off and wherever the gateway
that serves it now is; nothing is kept here. A message without an event name is one RunEvent as protobuf JSON; `end`
comes if and only if the run has ended and all its events were sent; `problem` says why the stream cannot continue.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from gateway import sse
from gateway.hub import Frame, Hub, Key
from gateway.resources import json_of
from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.client import AgentClient, RunStream
from runwire.errors import CursorMalformed, RunwireError, Unavailable

MAX_RUNS: Final = 50
"""In one stream of many runs."""
_CHECKS_AT_ONCE: Final = 8
_ENDED: Final = "end"
_PLACE: Final = re.compile(r"([\w-]*)(?:\.(\d{1,18}|end))?", re.ASCII)
_MAX_KEPT_BYTES: Final = 4096
"""Of an event that is rendered once for all its readers."""


@dataclass(frozen=True)
class Place:
    """Where a reader of a run is."""

    cursor: str = ""
    last_sequence: int = 0
    ended: bool = False
    """It has had the end."""

    def __str__(self) -> str:
        if self.ended:
            return f"{self.cursor}.{_ENDED}"
        return f"{self.cursor}.{self.last_sequence}" if self.last_sequence else self.cursor


def place_of(text: str) -> Place:
    """The place that an id names; the beginning for an empty one. Raises CursorMalformed."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise CursorMalformed("is no id of this stream")
    cursor, inside = match[1], match[2] or "0"
    return Place(cursor, ended=True) if inside == _ENDED else Place(cursor, int(inside))


async def check(client: AgentClient, run_id: str, place: Place) -> None:
    """Raises what a stream from `place` would begin with, for an answer with a status: no such run, no such cursor.

    A service that is away is no reason: a browser would never come back from an error, and the stream waits for it.
    """
    request = agent_service_pb2.ListRunEventsRequest(run_id=run_id, cursor=place.cursor, page_size=1)
    try:
        await client.call("ListRunEvents", request)
    except Unavailable as error:
        if error.metadata.get("code") == "RESOURCE_EXHAUSTED":
            raise


async def check_all(client: AgentClient, places: Mapping[str, Place]) -> None:
    """As `check`, for several runs, a few at a time. Raises what is wrong with the first that is wrong."""
    wrong: dict[str, RunwireError] = {}
    room = asyncio.Semaphore(_CHECKS_AT_ONCE)

    async def one(run_id: str, place: Place) -> None:
        async with room:
            try:
                await check(client, run_id, place)
            except RunwireError as error:
                wrong[run_id] = error

    async with asyncio.TaskGroup() as group:
        for run_id, place in places.items():
            group.create_task(one(run_id, place))
    for run_id in places:
        if run_id in wrong:
            raise wrong[run_id]


def of_run(client: AgentClient, hub: Hub, key: Key, place: Place) -> sse.Source:
    """The messages of one run after `place`; a write for each frame of the service, or for several that have waited.

    Readers of the same run share a feed of `hub` where they can, and each has a stream of its own where it cannot.
    """
    run_id, _ = key

    async def source(write: sse.Write) -> None:
        at = str(place)
        while not place_of(at).ended:
            with hub.seat(key, at, partial(_frames, client, run_id, at)) as seat:
                if seat is not None:
                    feed, number = seat
                    async with aclosing(feed.follow(number)) as following:
                        async for frame in following:
                            await write(frame.data)
                            at = frame.place
            if place_of(at).ended:
                return
            async with aclosing(_frames(client, run_id, at)) as frames:
                async for frame in frames:
                    await write(frame.data)
                    at = frame.place
                    if hub.covers(key, at):
                        break

    return source


async def _frames(client: AgentClient, run_id: str, after: str) -> AsyncGenerator[Frame]:
    """What is sent of each frame of the service after a place; the last one is the end of the run."""
    place = place_of(after)
    async with client.watch(run_id, after=place.cursor, last_sequence=place.last_sequence) as stream:
        async for batch in stream.batches():
            places = _places(stream, batch)
            messages = [sse.message(rendered(each), id=str(at)) for each, at in zip(batch, places, strict=True)]
            yield Frame(b"".join(messages), str(places[-1]))
        end = str(Place(stream.next_cursor, ended=True))
        yield Frame(sse.message(_end(run_id, stream), id=end, event="end"), end)


def _places(stream: RunStream, batch: Sequence[run_event_pb2.RunEvent]) -> list[Place]:
    """The place after each event of a frame."""
    inside = [Place(stream.cursor, event.sequence) for event in batch[:-1]]
    return [*inside, Place(stream.next_cursor)]


def _end(run_id: str, stream: RunStream) -> str:
    return json.dumps({"runId": run_id, "state": run_pb2.RunState.Name(stream.state)})


def rendered(event: run_event_pb2.RunEvent) -> str:
    """The event as protobuf JSON; rendered once where many watch one run."""
    data = event.SerializeToString()
    return _rendered(data) if len(data) <= _MAX_KEPT_BYTES else json_of(event)


@lru_cache(maxsize=4096)
def _rendered(data: bytes) -> str:
    return json_of(run_event_pb2.RunEvent.FromString(data))


def of_runs(client: AgentClient, places: Mapping[str, Place]) -> sse.Source:
    """The messages of several runs in one stream, for browsers that open few connections at once.

    Each message is a frame, `{"runId": ..., "events": [...]}`, or the `end` of one run; its id holds the places of all
    runs, in the order of `places`. The stream ends once all runs have.
    """
    now = dict(places)

    async def source(write: sse.Write) -> None:
        async with asyncio.TaskGroup() as group:
            for run_id, place in places.items():
                if not place.ended:
                    group.create_task(follow(run_id, place, write))

    async def follow(run_id: str, place: Place, write: sse.Write) -> None:
        async with client.watch(run_id, after=place.cursor, last_sequence=place.last_sequence) as stream:
            async for batch in stream.batches():
                data = f'{{"runId": {json.dumps(run_id)}, "events": [{", ".join(map(rendered, batch))}]}}'
                await tell(run_id, Place(stream.next_cursor), data, "", write)
            await tell(run_id, Place(stream.next_cursor, ended=True), _end(run_id, stream), "end", write)

    async def tell(run_id: str, place: Place, data: str, event: str, write: sse.Write) -> None:
        async with telling:  # the id names places of which every message before has told
            now[run_id] = place
            await write(sse.message(data, id=",".join(map(str, now.values())), event=event))

    telling = asyncio.Lock()
    return source
