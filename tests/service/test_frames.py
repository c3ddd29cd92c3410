"""The frames of WatchRun: which come, in what order, with what in them."""

import asyncio
from typing import Any

from google.protobuf import duration_pb2

from agent_service import RunContext, workflow
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.pubsub import Commit
from tests.service.replica import dense, mortal_worker, replica, topic_of


@workflow(id="speak")
async def speak(ctx: RunContext, words: list[str]) -> str:
    for word in words:
        await ctx.emit_text(word)
    return " ".join(words)


@workflow(id="bulk")
async def bulk(ctx: RunContext, sizes: list[int]) -> int:
    """A text of each size."""
    for size in sizes:
        await ctx.emit_text("x" * size)
    return len(sizes)


@workflow(id="steps")
async def steps(ctx: RunContext, count: int) -> int:
    """So many steps, and so at least as many commits."""
    for number in range(count):
        await ctx.step(f"step {number}", _nothing)
    return count


async def _nothing() -> None:
    return None


class Held:
    """A workflow that says a word whenever it is told to."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str] = asyncio.Queue()
        words = self.words

        @workflow(id="held")
        async def held(ctx: RunContext, input: Any) -> str:
            while word := await words.get():
                await ctx.emit_text(word)
            return "done"

        self.definition = held


async def test_a_whole_run(url: str) -> None:
    """A stream opens with `opened`, brings each event once in order, catches up once and ends with `ended` and OK."""
    async with replica(url, speak) as it:
        run = await it.start("speak", ["a", "b", "c"])
        async with it.watch(run.run_id) as watch:
            frames = await watch.rest()
            assert (await watch.call.code()).name == "OK"
    assert watch.kinds[0] == "opened"
    assert watch.kinds[-1] == "ended"
    assert watch.kinds.count("opened") == watch.kinds.count("ended") == watch.kinds.count("caught_up") == 1
    assert dense(watch.events)
    payloads = [event.WhichOneof("payload") for event in watch.events]
    assert payloads == ["run_started", "step_started", *["text_delta"] * 3, "step_finished", "run_finished"]
    assert frames[-1].ended == pb.Ended(state=run_pb2.RUN_STATE_SUCCEEDED, last_sequence=7)
    assert [event.attempt for event in watch.events] == [1] * 7
    assert all(event.HasField("create_time") for event in watch.events)


async def test_opened_comes_at_once_on_an_empty_log(url: str) -> None:
    """A run that no worker has begun answers with metadata, `opened` and `caught_up` and no events."""
    async with replica(url, speak, role="serve") as it:
        run = await it.start("speak", ["a"])
        async with it.watch(run.run_id, heartbeat_interval=duration_pb2.Duration(seconds=7)) as watch:
            await asyncio.wait_for(watch.call.initial_metadata(), 5)
            opened = await watch.next()
            caught_up = await watch.next()
    assert opened is not None
    assert caught_up is not None
    assert watch.kinds == ["opened", "caught_up"]
    assert not opened.opened.resumed
    assert len(opened.opened.epoch) == 16
    assert (opened.opened.earliest_sequence, opened.opened.latest_sequence) == (0, 0)
    assert opened.opened.heartbeat_interval.seconds == 7
    assert opened.cursor == caught_up.cursor == run.cursor


async def test_the_cursor_of_every_frame_resumes_after_it(url: str) -> None:
    """From the cursor of any frame a second stream continues exactly there, and says whether it resumed."""
    async with replica(url, steps) as it:
        run = await it.start("steps", 6)
        frames = await it.frames(run.run_id, max_batch_size=3)
        whole = [event for frame in frames for event in frame.batch.events]
        seen = 0
        for frame in frames:
            seen += len(frame.batch.events)
            again = await it.frames(run.run_id, cursor=frame.cursor)
            assert again[0].opened.resumed == (seen > 0)
            assert again[0].cursor == frame.cursor
            assert [event for frame in again for event in frame.batch.events] == whole[seen:]
            assert again[-1].WhichOneof("frame") == "ended"


async def test_a_batch_is_no_larger_than_asked_for(url: str) -> None:
    """`max_batch_size` bounds every batch, also where a commit held more events."""
    async with replica(url, speak) as it:
        run = await it.start("speak", [str(number) for number in range(50)])
        await it.ended(run.run_id)
        for size in (1, 7, 256):
            frames = await it.frames(run.run_id, max_batch_size=size)
            batches = [frame.batch for frame in frames if frame.HasField("batch")]
            assert max(len(batch.events) for batch in batches) == min(size, 54)
            assert dense([event for batch in batches for event in batch.events])


async def test_a_batch_is_at_most_256_kib(url: str) -> None:
    """Large events are sent in batches of at most 256 KiB; one that is larger by itself goes alone."""
    async with replica(url, bulk) as it:
        run = await it.start("bulk", [100_000] * 6 + [400_000] + [1] * 3)
        await it.ended(run.run_id)
        frames = await it.frames(run.run_id)
    sizes = [(len(frame.batch.events), frame.batch.ByteSize()) for frame in frames if frame.HasField("batch")]
    assert dense([event for frame in frames for event in frame.batch.events])
    assert all(size <= 256 * 1024 or count == 1 for count, size in sizes)
    assert any(count > 1 and size > 150_000 for count, size in sizes)


async def test_live_events_follow_what_is_stored(url: str) -> None:
    """`caught_up` comes after all that was stored before the call, and live events after it."""
    held = Held()
    async with replica(url, held.definition) as it:
        run = await it.start("held")
        for word in "ab":
            held.words.put_nowait(word)
        async with it.watch(run.run_id) as first:
            await first.until(lambda frame: any(e.text_delta.text == "b" for e in frame.batch.events))
            async with it.watch(run.run_id) as second:
                await second.until_kind("caught_up")
                assert [e.text_delta.text for e in second.events if e.HasField("text_delta")] == ["a", "b"]
                held.words.put_nowait("c")
                held.words.put_nowait("")
                await second.rest()
            await first.rest()
    assert first.events == second.events
    assert dense(second.events)


async def test_latest_begins_after_the_newest_event(url: str) -> None:
    """START_POSITION_LATEST leaves out what is stored, EARLIEST and nothing at all begin at the first event."""
    held = Held()
    async with replica(url, held.definition) as it:
        run = await it.start("held")
        held.words.put_nowait("a")
        async with it.watch(run.run_id, position=pb.START_POSITION_EARLIEST) as first:
            await first.until_event("text_delta")
            async with it.watch(run.run_id, position=pb.START_POSITION_LATEST) as latest:
                opened = await latest.next()
                assert opened is not None
                assert opened.opened.latest_sequence == 3
                await latest.until_kind("caught_up")
                held.words.put_nowait("b")
                held.words.put_nowait("")
                await latest.rest()
            await first.rest()
    assert dense(first.events)
    assert latest.events == first.events[3:]


async def test_latest_on_a_run_that_has_ended(url: str) -> None:
    """There is nothing to come: it opens, has caught up, and ends."""
    async with replica(url, speak) as it:
        run = await it.do("speak", ["a"])
        async with it.watch(run.run_id, position=pb.START_POSITION_LATEST) as watch:
            await watch.rest()
    assert watch.kinds == ["opened", "caught_up", "ended"]
    assert watch.frames[-1].ended.last_sequence == run.last_sequence


async def test_heartbeats_carry_the_cursor(url: str) -> None:
    """An idle stream is heard from in the interval asked for, with the cursor after the last event, and continues."""
    held = Held()
    async with replica(url, held.definition) as it:
        run = await it.start("held")
        held.words.put_nowait("a")
        async with it.watch(run.run_id, heartbeat_interval=duration_pb2.Duration(seconds=1)) as watch:
            beat = await watch.until_kind("heartbeat")
            last = [frame.cursor for frame in watch.frames if frame.HasField("batch")][-1]
            assert beat.cursor == last
            assert beat.heartbeat.HasField("send_time")
            held.words.put_nowait("b")
            held.words.put_nowait("")
            await watch.rest()
    assert watch.kinds.count("caught_up") == 1
    assert dense(watch.events)


async def test_the_heartbeat_is_ten_seconds_by_default(url: str) -> None:
    """The interval in force is told."""
    async with replica(url, speak, role="serve") as it:
        run = await it.start("speak", ["a"])
        async with it.watch(run.run_id) as watch:
            opened = await watch.next()
    assert opened is not None
    assert opened.opened.heartbeat_interval.seconds == 10


async def test_a_gap_is_told_where_asked_for(url: str) -> None:
    """With GAP_POLICY_NOTIFY a trimmed log gives a `gap` that names what is gone, then all that is left."""
    async with replica(url, steps) as it:
        run = await it.do("steps", 8)
        cursor = (await it.frames(run.run_id, max_batch_size=1))[1].cursor
        await it.store.trim(topic_of(run.run_id), 7)
        head = (await it.store.heads([topic_of(run.run_id)]))[0]
        assert head is not None
        earliest = head.earliest
        assert 1 < earliest <= 7
        async with it.watch(run.run_id, cursor=cursor, gap_policy=pb.GAP_POLICY_NOTIFY) as watch:
            await watch.rest()
        assert watch.kinds[:3] == ["opened", "gap", "batch"]
        assert watch.frames[0].opened.earliest_sequence == earliest
        assert watch.frames[1].gap == pb.Gap(first_sequence=2, last_sequence=earliest - 1)
        assert dense(watch.events, after=earliest - 1)
        assert watch.frames[-1].ended.last_sequence == run.last_sequence
        # The cursor of the gap is a place from which nothing is missing.
        assert await it.watched(run.run_id, cursor=watch.frames[1].cursor) == watch.events


async def test_the_earliest_event_is_the_oldest_that_is_kept(url: str) -> None:
    """Without a cursor a trimmed log is read from its oldest event, and nothing is called a gap."""
    async with replica(url, steps) as it:
        run = await it.do("steps", 4)
        await it.store.trim(topic_of(run.run_id), 5)
        frames = await it.frames(run.run_id)
        earliest = frames[0].opened.earliest_sequence
        assert 1 < earliest <= 5
        events = [event for frame in frames for event in frame.batch.events]
        assert dense(events, after=earliest - 1)


async def test_two_replicas_show_the_same(url: str) -> None:
    """A run that one replica executes is followed live on another, event for event."""
    held = Held()
    async with replica(url, held.definition) as one, replica(url, held.definition, role="serve") as two:
        run = await two.start("held")
        async with one.watch(run.run_id) as here, two.watch(run.run_id) as there:
            for word in ("a", "b", ""):
                held.words.put_nowait(word)
            await there.rest()
            await here.rest()
    assert here.events == there.events
    assert dense(here.events)


async def test_an_unknown_payload_is_passed_on(url: str) -> None:
    """A batch leaves as the bytes that are stored: a payload that this version does not know reaches the client."""
    unknown = run_event_pb2.RunEvent(sequence=1, attempt=1).SerializeToString() + b"\xfa\x3f\x03abc"
    from runwire import frames as framing

    async with replica(url, speak, role="serve") as it:
        run = await it.start("speak", ["a"])
        [claim] = await it.store.claim(["agent/speak@"], holder="somebody", limit=1, lease_seconds=30)
        body = framing.frame(unknown)
        commit = Commit(claim.topic, attempt=1, first=1, last=1, events=body, check=framing.event_check(unknown))
        await it.store.commit(commit)
        async with it.watch(run.run_id) as watch:
            frame = await watch.until_kind("batch")
    assert frame.batch.events[0].SerializeToString() == unknown
    assert frame.batch.events[0].WhichOneof("payload") is None


async def test_a_reader_attached_through_a_crash(url: str) -> None:
    """While a worker dies and another one takes over, a stream on a third replica sees one dense log to its end."""
    held = Held()
    async with replica(url, held.definition, role="serve") as it:
        run = await it.start("held")
        async with it.watch(run.run_id) as watch:
            async with mortal_worker(url, held.definition):
                held.words.put_nowait("lost")
                await watch.until_event("text_delta")
            async with mortal_worker(url, held.definition):
                held.words.put_nowait("kept")
                held.words.put_nowait("")
                await watch.rest()
    assert dense(watch.events)
    assert {event.attempt for event in watch.events} == {1, 2}
