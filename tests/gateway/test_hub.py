"""Readers who share a feed: each gets every frame, whatever the others do, within a bounded window."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import httpx
import pytest

from gateway import events, hub
from gateway.events import Place
from gateway.hub import Frame, Hub
from runwire.client import AgentClient
from runwire.errors import NotFound, RunNotFound
from tests.client.processes import AgentProcess
from tests.gateway.conftest import messages

KEY = ("run", "token")


class Log:
    """A run whose frames are numbers, read from any place; counts its streams."""

    def __init__(self, sizes: list[int], *, error: Exception | None = None) -> None:
        said = [f"{number},".encode().ljust(size, b"-") for number, size in enumerate(sizes)]
        said = [f"{number},".encode().ljust(size, b"-") for number, size in enumerate(sizes)]
        self.frames = [Frame(data, str(place)) for place, data in enumerate(said, 1)]
        self.error = error
        self.streams = 0
        self.open = 0
        self.ahead = 0

    def after(self, place: str) -> AsyncIterator[Frame]:
        return self._read(int(place or "0"))

    async def _read(self, number: int) -> AsyncIterator[Frame]:
        self.streams += 1
        self.open += 1
        try:
            for frame in self.frames[number:]:
                await asyncio.sleep(0)
                self.ahead = int(frame.place)
                yield frame
            if self.error is not None:
                raise self.error
        finally:
            self.open -= 1


async def read(it: Hub, log: Log, place: str, pause: Callable[[], Any]) -> bytes:
    """What a reader gets who does as `events.of_run` does."""
    got, end = b"", str(len(log.frames))
    while place != end:
        with it.seat(KEY, place, partial(log.after, place)) as seat:
            if seat is not None:
                feed, number = seat
                async for frame in feed.follow(number):
                    got, place = got + frame.data, frame.place
                    await pause()
        if place == end:
            break
        async for frame in log.after(place):
            got, place = got + frame.data, frame.place
            await pause()
            if it.covers(KEY, place):
                break
    return got


@pytest.mark.parametrize("seed", range(20))
async def test_each_reader_gets_everything(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that begin anywhere, at any time and at any speed get what follows their place, each frame once."""
    chance = random.Random(seed)
    monkeypatch.setattr(hub, "MAX_WINDOW_BYTES", chance.choice([50, 500, 5000]))
    log = Log([chance.choice([5, 20, 600]) for _ in range(200)])

    async def reader() -> None:
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        begin, naps = chance.randrange(100), chance.choice([0, 1, 5])

        async def pause() -> None:
            for _ in range(chance.randrange(naps + 1)):
                await asyncio.sleep(0)

        assert await read(it, log, str(begin), pause) == b"".join(each.data for each in log.frames[begin:])

    async with Hub() as it, asyncio.TaskGroup() as group:
        for _ in range(chance.randrange(1, 12)):
            group.create_task(reader())
    assert (len(it), log.open) == (0, 0)


async def test_a_lone_reader_needs_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its feed waits for it, however slow it is, and keeps no more than the window and a frame ahead of it."""
    monkeypatch.setattr(hub, "MAX_WINDOW_BYTES", 100)
    log, had = Log([10] * 100 + [1000, 10, 1000, 1000] + [10] * 50), 0

    async def pause() -> None:
        nonlocal had
        had += 1
        for _ in range(20):
            await asyncio.sleep(0)
        assert log.ahead <= had + 12

    async with Hub() as it:
        assert await read(it, log, "0", pause) == b"".join(each.data for each in log.frames)
    assert log.streams == 1


async def test_many_readers_need_one_stream() -> None:
    """A hundred readers at one place share one stream."""
    log = Log([10] * 50)
    async with Hub() as it, asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(read(it, log, "", lambda: asyncio.sleep(0)))
    assert log.streams == 1


async def test_what_ends_a_stream_is_told_to_all() -> None:
    """An error of the service reaches each reader, after what came before it, and the next reader asks again."""
    log = Log([10] * 3, error=RunNotFound("run"))

    async def reader() -> int:
        count = 0
        with it.seat(KEY, "", lambda: log.after("")) as seat:
            assert seat is not None
            try:
                async for frame in seat[0].follow(seat[1]):
                    count = int(frame.place)
                    await asyncio.sleep(0)
            except NotFound:
                return count
        raise AssertionError("nothing was told")

    async with Hub() as it:
        assert await asyncio.gather(reader(), reader()) == [3, 3]
        assert await reader() == 3
    assert log.streams == 2


async def test_who_leaves_ends_what_nobody_reads() -> None:
    """When the last reader has left, its stream ends at once."""
    log = Log([10] * 10_000)
    async with Hub() as it:
        with it.seat(KEY, "", lambda: log.after("")) as first:
            assert first is not None
            async for _ in first[0].follow(first[1]):
                break
            with it.seat(KEY, "", lambda: log.after("")) as second:
                assert second == first
            assert len(it) == 1
        assert len(it) == 0
        for _ in range(10):  # turns of the loop, in which the stream hears that it is left
            await asyncio.sleep(0)
        assert log.open == 0


async def test_another_token_shares_nothing() -> None:
    """A reader with another token, or of another run, has a stream of its own."""
    log = Log([10] * 5)
    async with Hub() as it:
        with it.seat(KEY, "", lambda: log.after("")) as mine:
            for key in (("run", "another"), ("another", "token")):
                assert not it.covers(key, "")
                with it.seat(key, "", lambda: log.after("")) as other:
                    assert other != mine


@pytest.fixture
def counting(agent_service: AgentProcess, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were watched, a stream each."""
    watched: list[str] = []
    watch = AgentClient.watch

    def counted(self: AgentClient, run_id: str, **more: Any) -> Any:
        watched.append(run_id)
        return watch(self, run_id, **more)

    monkeypatch.setattr(AgentClient, "watch", counted)
    return watched


async def test_readers_of_a_real_run(agent_service: AgentProcess, counting: list[str]) -> None:
    """Fifty readers of a live run, and fifty that come back in its middle, share few streams, and each gets the log."""
    async with AgentClient(agent_service.address) as client, Hub() as it:
        run_id = (await client.start_run("ticker", {"count": 100, "interval_ms": 5})).run_id

        async def reader(place: Place) -> list[Any]:
            chunks: list[bytes] = []

            async def write(chunk: bytes) -> None:
                chunks.append(chunk)

            await events.of_run(client, it, (run_id, ""), place)(write)
            return list(messages(iter(b"".join(chunks).decode().split("\n"))))

        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(reader(Place())) for _ in range(50)]
        whole = reading[0].result()
        assert [int(each.data["sequence"]) for each in whole[:-1]] == list(range(1, len(whole)))
        assert whole[-1].event == "end"
        assert all(task.result() == whole for task in reading)
        assert len(counting) == 1
        middle = events.place_of(whole[40].id)
        async with asyncio.TaskGroup() as group:
            again = [group.create_task(reader(middle)) for _ in range(50)]
        for task in again:  # ids may differ: what is read later comes in larger frames
            assert [each.data for each in task.result()] == [each.data for each in whole[41:]]
        assert len(counting) == 2


def test_a_reader_without_a_call(http: httpx.Client, start: Callable[..., str]) -> None:
    """A second reader at the place of a feed is served with a status and a stream as the first is, and sees an unknown
    run refused."""
    run_id = start("asker", "who?")
    path, accept = f"/v1/runs/{run_id}/events", {"Accept": "text/event-stream"}
    with http.stream("GET", path, headers=accept) as first, http.stream("GET", path, headers=accept) as second:
        one, two = (messages(each.iter_lines()) for each in (first, second))
        assert next(one) == next(two)
    assert http.get("/v1/runs/none/events", headers=accept).status_code == 404
    http.post(f"/v1/runs/{run_id}/cancel")
