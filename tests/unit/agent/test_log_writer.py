"""LogWriter: whatever the store does, the log is dense, each event is in it once, and gathered take effect once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_service.log import writer
from agent_service.log.writer import Changes, EventTooLarge, LogWriter, OwnershipLost
from runwire import frames
from runwire.agent.v1 import run_event_pb2
from runwire.caching_pubsub import CachingPubSub
from runwire.errors import StoreUnavailable
from runwire.memory import MemoryStore
from runwire.pubsub import MAX_COMMIT_BYTES, MAX_COMMIT_EVENTS, MAX_EVENT_BYTES, Commit, Committed, Message, Schedule

TOPIC = "default/run"
LIMIT_SECONDS = 20.0


class FlakyStore(MemoryStore):
    """Fails as the script says: before a commit takes effect, after it, or not at all; then never more."""

    def __init__(self, script: Sequence[str] = ()) -> None:
        super().__init__()
        self.script = list(script)
        self.commits: list[Commit] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, commit: Commit) -> Committed:
        if commit.attempt is None:
            return await super().commit(commit)
        await self.gate.wait()
        fate = self.script.pop(0) if self.script else "good"
        if fate == "before":
            raise StoreUnavailable("not now")
        committed = await super().commit(commit)
        if fate == "after":
            raise StoreUnavailable("it is done, and nobody hears of it")
        self.commits.append(commit)
        return committed


@dataclass
class Desk:
    """A writer at work on a run of its own."""

    store: FlakyStore = field(default_factory=FlakyStore)

    async def __aenter__(self) -> "Desk":
        await self.store.commit(Commit(TOPIC, create=True, queue="q", schedule=Schedule.DUE))
        [self.claim] = await self.store.claim(["q"], holder="somebody", limit=1, lease_seconds=60)
        self.log = CachingPubSub(self.store.pubsub, self.store)
        self.writer = LogWriter(self.log, self.claim, lambda: 1.0)
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._running = self._group.create_task(self.writer.run())
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._running.cancel()
        await self._group.__aexit__(*error)

    async def emit(self, text: str) -> None:
        await self.writer.emit(1, text_delta=run_event_pb2.TextDelta(text=text))

    async def flush(self) -> None:
        """Waits until all that was emitted is stored."""
        await self.writer.write(Changes())

    async def texts(self) -> list[str]:
        """The texts in the log, which must be dense."""
        page = await self.store.read(TOPIC, 0, max_events=10**6, max_bytes=1 << 30)
        events = [run_event_pb2.RunEvent.FromString(e) for entry in page.entries for e in frames.events(entry.body)]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert {event.attempt for event in events} <= {self.claim.head.attempt}
        return [event.text_delta.text for event in events]

    async def steal(self) -> None:
        """Gives the run to another worker."""
        await self.store.commit(Commit(TOPIC, schedule=Schedule.DUE))
        [claim] = await self.store.claim(["q"], holder="somebody", limit=1, lease_seconds=60)
        assert claim.head.attempt == self.claim.head.attempt + 1


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that failed is repeated without a pause."""
    monkeypatch.setattr(writer, "_RETRY_SECONDS", (0.0,))


OPERATIONS = st.lists(
    st.one_of(
        st.just(("emit",)),
        st.just(("yield",)),
        st.tuples(st.just("write"), st.sampled_from("abc"), st.booleans()),
        st.tuples(st.just("delete"), st.sampled_from("abc")),
        st.just(("send",)),
    ),
    max_size=40,
)
FATES = st.lists(st.sampled_from(["good", "before", "after"]), max_size=30)


@settings(max_examples=150)
@given(OPERATIONS, FATES)
def test_each_event_and_each_change_once(operations: list[tuple[Any, ...]], fates: list[str]) -> None:
    """Emits, writes, deletions and messages in any order, on a store that fails before or after a commit took effect:
    the log holds each event once in order, fields are as the last changes left them, each message was sent once, and a
    write has returned only once it was stored."""
    asyncio.run(asyncio.wait_for(_each_once(operations, fates), LIMIT_SECONDS))


async def _each_once(operations: list[tuple[Any, ...]], fates: list[str]) -> None:
    async with Desk(FlakyStore(fates)) as desk, asyncio.TaskGroup() as group:
        told: list[str] = []
        fields: dict[str, bytes] = {}
        sent: list[bytes] = []
        for number, operation in enumerate(operations):
            text = str(number)
            delta = {"text_delta": run_event_pb2.TextDelta(text=text)}
            if operation[0] == "emit":
                told.append(text)
                await desk.emit(text)
            elif operation[0] == "yield":
                await asyncio.sleep(0)
            elif operation[0] == "write":
                _, name, with_event = operation
                fields[name] = text.encode()
                told += [text] * with_event
                group.create_task(_written(desk, name, text.encode(), delta if with_event else {}))
                await asyncio.sleep(0)
            elif operation[0] == "delete":
                fields.pop(operation[1], None)
                group.create_task(desk.writer.write(Changes(deletes=[operation[1]])))
                await asyncio.sleep(0)
            else:
                sent.append(text.encode())
                told.append(text)
                changes = Changes(messages=[Message("mail", text.encode())])
                group.create_task(desk.writer.write(changes, **delta))
                await asyncio.sleep(0)
        await desk.flush()
        assert await desk.texts() == told
        stored = await desk.store.get(TOPIC)
        assert stored is not None
        assert stored.fields == fields
        mail = await desk.store.receive("mail", consumer="c", limit=1000, lease_seconds=60)
        assert [delivery.body for delivery in mail] == sent


async def _written(desk: Desk, name: str, data: bytes, payload: dict[str, Any]) -> None:
    await desk.writer.write(Changes(puts={name: data}), **payload)
    stored = await desk.store.get(TOPIC)
    assert stored is not None
    # It, or what a later writer made of it: but not what was there before.
    assert stored.fields.get(name, data) >= data or len(stored.fields[name]) > len(data)


@settings(max_examples=60)
@given(st.integers(0, 20), st.integers(0, 20), FATES)
def test_a_writer_that_is_fenced_off_stops(before: int, after: int, fates: list[str]) -> None:
    """What is emitted before another worker took the run may be stored, a prefix of it; nothing of what comes later
    is, every waiting write is told, and so is every emitter from then on."""
    asyncio.run(asyncio.wait_for(_fenced(before, after, fates), LIMIT_SECONDS))


async def _fenced(before: int, after: int, fates: list[str]) -> None:
    async with Desk(FlakyStore(fates)) as desk:
        for number in range(before):
            await desk.emit(str(number))
        await desk.steal()
        stored = await desk.texts()
        assert stored == [str(number) for number in range(len(stored))]
        with pytest.raises(OwnershipLost):
            await _late(desk, after)
        assert await desk.texts() == stored
        kept = await desk.store.get(TOPIC)
        assert kept is not None
        assert "late" not in kept.fields
        with pytest.raises(OwnershipLost):
            await desk.emit("later still")


async def _late(desk: Desk, count: int) -> None:
    await _emit_all(desk, [f"late {number}" for number in range(count)])
    await desk.writer.write(Changes(puts={"late": b""}))


async def test_events_gather_while_a_commit_is_in_flight() -> None:
    """The first event goes at once; all that comes while it is being written goes with the next commit."""
    async with Desk() as desk:
        desk.store.gate.clear()
        await desk.emit("first")
        await asyncio.sleep(0.01)
        for number in range(100):
            await desk.emit(str(number))
        desk.store.gate.set()
        await desk.flush()
        assert [(commit.first, commit.last) for commit in desk.store.commits if commit.events] == [(1, 1), (2, 101)]


async def test_a_commit_is_bounded() -> None:
    """No commit has more than 256 events or 256 KiB, except for one event that is larger by itself."""
    async with Desk() as desk:
        desk.store.gate.clear()
        await desk.emit("first")
        await asyncio.sleep(0.01)
        emitting = [str(number) for number in range(600)] + ["x" * 100_000] * 6 + ["y" * 400_000] + ["z"]
        async with asyncio.TaskGroup() as group:
            filling = group.create_task(_emit_all(desk, emitting))
            await asyncio.sleep(0.01)
            desk.store.gate.set()
            await filling
        await desk.flush()
        assert await desk.texts() == ["first", *emitting]
        for commit in desk.store.commits:
            count = commit.last - commit.first + 1 if commit.events else 0
            assert count <= MAX_COMMIT_EVENTS
            assert count <= 1 or len(commit.events) <= MAX_COMMIT_BYTES


async def test_what_rides_along_is_bounded_too() -> None:
    """Large results of many steps that end at once go in several commits: none has more than 256 KiB in all, except
    for one write that is larger by itself."""
    async with Desk() as desk:
        desk.store.gate.clear()
        await desk.emit("first")
        async with asyncio.TaskGroup() as group:
            for number in range(9):
                size = 400_000 if number == 4 else 100_000
                group.create_task(desk.writer.write(Changes(puts={f"result {number}": b"x" * size})))
            await asyncio.sleep(0.01)
            desk.store.gate.set()
        for commit in desk.store.commits:
            size = len(commit.events) + sum(map(len, commit.puts.values()))
            assert len(commit.puts) <= 1 or size <= MAX_COMMIT_BYTES
        assert sum(len(commit.puts) for commit in desk.store.commits) == 9


async def _emit_all(desk: Desk, texts: Sequence[str]) -> None:
    for text in texts:
        await desk.emit(text)


@pytest.mark.parametrize("size, most", [(1, 1100), (100_000, 12)])
async def test_an_emitter_waits_where_too_much_is_unwritten(size: int, most: int) -> None:
    """A store that does not take events slows down who emits them: memory is bounded in events and in bytes."""
    async with Desk() as desk:
        desk.store.gate.clear()
        emitted = 0

        async def endless() -> None:
            nonlocal emitted
            while True:
                await desk.emit("x" * size)
                emitted += 1
                if not emitted % 10:
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            emitting = group.create_task(endless())
            await asyncio.sleep(0.2)
            stuck = emitted
            await asyncio.sleep(0.05)
            assert emitted == stuck <= most
            desk.store.gate.set()
            await asyncio.sleep(0.2)
            assert emitted > stuck
            emitting.cancel()


async def test_a_waiting_emitter_is_told_of_the_loss() -> None:
    """An emitter that waits for room learns that the run is another's, and does not wait for ever."""
    async with Desk() as desk:
        desk.store.gate.clear()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_until_lost(desk))
            await asyncio.sleep(0.1)
            await desk.steal()
            desk.store.gate.set()
            async with asyncio.timeout(LIMIT_SECONDS):
                assert await waiting


async def _until_lost(desk: Desk) -> bool:
    try:
        while True:
            await desk.emit("x" * 10_000)
    except OwnershipLost:
        return True


async def test_an_event_too_large_leaves_nothing() -> None:
    """It raises, takes no sequence, and the writer continues."""
    async with Desk() as desk:
        with pytest.raises(EventTooLarge, match=str(MAX_EVENT_BYTES)):
            await desk.emit("x" * MAX_EVENT_BYTES)
        with pytest.raises(EventTooLarge):
            await desk.writer.write(
                Changes(puts={"a": b""}), text_delta=run_event_pb2.TextDelta(text="x" * MAX_EVENT_BYTES)
            )
        await desk.emit("good")
        await desk.flush()
        assert await desk.texts() == ["good"]
        stored = await desk.store.get(TOPIC)
        assert stored is not None
        assert "a" not in stored.fields


async def test_nothing_rides_behind_what_ends_the_lease() -> None:
    """What ends the lease is the last of its commit: what comes after it is refused as the run is not owned."""
    async with Desk() as desk:
        desk.store.gate.clear()
        await desk.emit("first")
        await asyncio.sleep(0.01)
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(
                desk.writer.write(Changes(schedule=Schedule.NEVER), text_delta=run_event_pb2.TextDelta(text="last"))
            )
            await asyncio.sleep(0)
            await desk.emit("after")
            desk.store.gate.set()
            await ending
        assert desk.store.commits[1].last == 2
        assert desk.store.commits[1].schedule is Schedule.NEVER


async def test_a_put_before_a_deletion_in_one_commit() -> None:
    """Changes of one commit take effect in their order: what an earlier one put, a later one deletes."""
    async with Desk() as desk:
        desk.store.gate.clear()
        await desk.emit("first")
        await asyncio.sleep(0.01)
        async with asyncio.TaskGroup() as group:
            for changes in (Changes(puts={"a": b"1", "b": b"1"}), Changes(deletes=["a"]), Changes(puts={"c": b"1"})):
                group.create_task(desk.writer.write(changes))
                await asyncio.sleep(0)
            desk.store.gate.set()
        stored = await desk.store.get(TOPIC)
        assert stored is not None
        assert set(stored.fields) == {"b", "c"}


async def test_a_writer_that_is_stopped_lets_nobody_wait() -> None:
    """Whoever waits for a write of a writer that ends is told."""
    async with Desk() as desk, asyncio.TaskGroup() as group:
        desk.store.gate.clear()
        waiting = group.create_task(_lost(desk))
        await asyncio.sleep(0.01)
        desk._running.cancel()
        async with asyncio.timeout(LIMIT_SECONDS):
            assert await waiting


async def _lost(desk: Desk) -> bool:
    try:
        await desk.flush()
    except OwnershipLost:
        return True
    return False


async def test_a_caller_that_is_cancelled_does_not_stop_the_write() -> None:
    """Cancelling who waits for a write takes nothing back: it may be stored, and the log continues."""
    async with Desk() as desk:
        desk.store.gate.clear()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(
                desk.writer.write(Changes(puts={"a": b"1"}), text_delta=run_event_pb2.TextDelta(text="one"))
            )
            await asyncio.sleep(0.01)
            waiting.cancel()
        await desk.emit("two")
        desk.store.gate.set()
        await desk.flush()
        assert await desk.texts() == ["one", "two"]
