"""Every row of the error table, each through real gRPC with its details."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_pb2
from runwire.cursor import CursorCodec
from runwire.pubsub import Position
from tests.service.faults import FaultyStore
from tests.service.replica import (
    LIMIT_SECONDS,
    Refusal,
    Replica,
    Watch,
    eventually,
    refusal_of,
    refused,
    replica,
    topic_of,
)
from tests.service.test_frames import Held, bulk, speak, steps

DOMAIN = "runwire.dev"


def is_refusal(refusal: Refusal, code: grpc.StatusCode, reason: str) -> None:
    assert (refusal.code, refusal.reason, refusal.domain) == (code, reason, DOMAIN), refusal
    assert refusal.message
    assert "Traceback" not in refusal.message


async def both(it: Replica, run_id: str, cursor: str) -> list[Refusal]:
    """How WatchRun and ListRunEvents refuse a cursor."""
    listing = it.stub.ListRunEvents(pb.ListRunEventsRequest(run_id=run_id, cursor=cursor))
    return [await it.refusal(run_id, cursor=cursor), await refused(listing)]


# Cursors


def damaged(cursor: str) -> dict[str, str]:
    """A good cursor, spoiled in every way there is."""
    data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))

    def encoded(changed: bytes) -> str:
        return base64.urlsafe_b64encode(changed).rstrip(b"=").decode()

    return {
        "no base64": "not a cursor!",
        "no ASCII": "çürsör" + cursor[6:],
        "too long": cursor + "A" * 300,
        "shorter": encoded(data[:-1]),
        "longer": encoded(data + b"\0"),
        "only a version": encoded(data[:1]),
        "another version": encoded(b"\x02" + data[1:]),
        "a bit of the epoch": encoded(data[:3] + bytes([data[3] ^ 1]) + data[4:]),
        "a bit of the sequence": encoded(data[:16] + bytes([data[16] ^ 1]) + data[17:]),
        "a bit of the checksum": encoded(data[:-1] + bytes([data[-1] ^ 1])),
        "an odd character": cursor[:-1],
    }


async def test_cursor_malformed(url: str) -> None:
    """Bytes that are no cursor are refused with a violation of the field, in whatever way they are wrong."""
    async with replica(url, speak) as it:
        run = await it.do("speak", ["a"])
        spoiled = damaged(run.cursor)
        for what, cursor in spoiled.items():
            for refusal in await both(it, run.run_id, cursor):
                is_refusal(refusal, grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_MALFORMED")
                assert set(refusal.violations) == {"cursor"}, what
                assert refusal.violations["cursor"], what
        problems = {(await it.refusal(run.run_id, cursor=cursor)).violations["cursor"] for cursor in spoiled.values()}
        assert problems >= {
            "not URL-safe base64",
            "longer than 255 characters",
            "wrong length",
            "unknown version",
            "checksum differs",
        }


async def test_an_empty_cursor_is_no_cursor(url: str) -> None:
    """A cursor that is set and empty is refused by WatchRun: it is not taken for a fresh start."""
    async with replica(url, speak) as it:
        run = await it.do("speak", ["a"])
        refusal = await it.refusal(run.run_id, cursor="")
    is_refusal(refusal, grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_MALFORMED")


async def test_cursor_mismatch(url: str) -> None:
    """The cursor of another run is refused, also where that run has as many events."""
    async with replica(url, speak) as it:
        one, two = await it.do("speak", ["a"]), await it.do("speak", ["a"])
        for refusal in await both(it, one.run_id, two.cursor):
            is_refusal(refusal, grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_MISMATCH")


async def test_cursor_expired(url: str) -> None:
    """Where events after the cursor are gone the error says what is left, and gives the cursor to continue from."""
    async with replica(url, steps) as it:
        run = await it.do("steps", 8)
        frames = await it.frames(run.run_id, max_batch_size=1)
        whole = [event for frame in frames for event in frame.batch.events]
        old = frames[1].cursor
        await it.store.trim(topic_of(run.run_id), 9)
        head = (await it.store.heads([topic_of(run.run_id)]))[0]
        assert head is not None
        assert head.earliest > 2
        for refusal in await both(it, run.run_id, old):
            is_refusal(refusal, grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
            assert refusal.metadata["earliest_sequence"] == str(head.earliest)
            assert refusal.metadata["latest_sequence"] == str(head.last)
            assert set(refusal.metadata) == {"earliest_sequence", "latest_sequence", "earliest_cursor"}
            left = await it.watched(run.run_id, cursor=refusal.metadata["earliest_cursor"])
            assert left == whole[head.earliest - 1 :]


async def test_a_cursor_before_the_oldest_event_is_good(url: str) -> None:
    """A cursor is expired only if an event after it is gone: right before the oldest one it still serves."""
    async with replica(url, steps) as it:
        run = await it.do("steps", 8)
        frames = await it.frames(run.run_id, max_batch_size=1)
        cursors = {frame.batch.events[0].sequence: frame.cursor for frame in frames if frame.HasField("batch")}
        await it.store.trim(topic_of(run.run_id), 9)
        head = (await it.store.heads([topic_of(run.run_id)]))[0]
        assert head is not None
        events = await it.watched(run.run_id, cursor=cursors[head.earliest - 1])
        assert events[0].sequence == head.earliest
        is_refusal(
            await it.refusal(run.run_id, cursor=cursors[head.earliest - 2]),
            grpc.StatusCode.OUT_OF_RANGE,
            "CURSOR_EXPIRED",
        )


async def test_cursor_ahead(url: str) -> None:
    """A cursor beyond the newest event is refused at once, and not waited for."""
    async with replica(url, speak) as it:
        run = await it.do("speak", ["a"])
        head = (await it.store.heads([topic_of(run.run_id)]))[0]
        assert head is not None
        codec = CursorCodec(topic_of(run.run_id))
        for refusal in await both(it, run.run_id, codec.encode(Position(head.epoch, head.last + 1, bytes(8)))):
            is_refusal(refusal, grpc.StatusCode.OUT_OF_RANGE, "CURSOR_AHEAD")
            assert refusal.metadata["latest_sequence"] == str(head.last)


async def test_cursor_of_a_log_that_was_recreated(url: str) -> None:
    """The same run id with a new log: the old cursor is refused although the new log has an event there."""
    async with replica(url, speak) as it:
        run = await it.start("speak", ["a", "b"], request_id="again")
        old = (await it.ended(run.run_id)).cursor
        await it.store.clear(topic_of(run.run_id))
        again = await it.do("speak", ["a", "b"], request_id="again")
        assert again.run_id == run.run_id
        for refusal in await both(it, run.run_id, old):
            is_refusal(refusal, grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EPOCH_MISMATCH")


async def test_cursor_of_an_event_that_was_replaced(url: str) -> None:
    """Another event at that sequence, as after a failover that lost some: the cursor is refused."""
    async with replica(url, speak) as it:
        run = await it.do("speak", ["a", "b"])
        head = (await it.store.heads([topic_of(run.run_id)]))[0]
        assert head is not None
        codec = CursorCodec(topic_of(run.run_id))
        for sequence in (1, 3, head.last):
            for refusal in await both(it, run.run_id, codec.encode(Position(head.epoch, sequence, b"replaced"))):
                is_refusal(refusal, grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EPOCH_MISMATCH")


# Logs that are not there


@pytest.mark.parametrize("recreated", [False, True], ids=["cleared", "recreated"])
async def test_events_lost(url: str, recreated: bool) -> None:
    """A log that vanishes under a live stream ends it with an error, not in silence."""
    held = Held()
    async with replica(url, held.definition, role="serve", check_seconds=0.1) as it:
        run = await it.start("held", request_id="same")
        async with it.watch(run.run_id) as watch:
            await watch.until_kind("caught_up")
            await it.store.clear(topic_of(run.run_id))
            if recreated:
                assert (await it.start("held", request_id="same")).run_id == run.run_id
            refusal = await watch.refusal()
    is_refusal(refusal, grpc.StatusCode.DATA_LOSS, "EVENTS_LOST")
    assert "ended" not in watch.kinds


async def test_events_lost_when_the_log_is_purged(url: str) -> None:
    """A log whose retention passes under a stream that has not read it all ends the stream with an error."""
    async with replica(url, bulk, retention_seconds=1.0, check_seconds=0.1) as it:
        run = await it.start("bulk", [200_000] * 60)
        async with it.watch(run.run_id) as watch:
            await watch.next()
            await eventually(lambda: is_refused(it.get(run.run_id), "RUN_EXPIRED"))
            refusal = await watch.refusal()
    is_refusal(refusal, grpc.StatusCode.DATA_LOSS, "EVENTS_LOST")


async def is_refused(call: Awaitable[Any], reason: str) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason == reason
    return False


def calls_of_a_run(it: Replica, run_id: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every call that names a run."""
    return {
        "GetRun": lambda: it.stub.GetRun(pb.GetRunRequest(run_id=run_id)),
        "ListRunEvents": lambda: it.stub.ListRunEvents(pb.ListRunEventsRequest(run_id=run_id)),
        "CancelRun": lambda: it.stub.CancelRun(pb.CancelRunRequest(run_id=run_id)),
        "ResumeRun": lambda: it.stub.ResumeRun(pb.ResumeRunRequest(run_id=run_id, answers=[{"request_id": "a"}])),
        "WatchRun": lambda: it.frames(run_id),
        "WatchRun latest": lambda: it.frames(run_id, position=pb.START_POSITION_LATEST),
    }


async def test_run_not_found(url: str) -> None:
    """A run that never was is named in the error of every call."""
    async with replica(url, speak) as it:
        for name, call in calls_of_a_run(it, "nobody").items():
            refusal = await refused(call())
            is_refusal(refusal, grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
            assert refusal.metadata == {"run_id": "nobody"}, name


async def test_run_expired_and_then_unknown(url: str) -> None:
    """After the retention a run is known to have ended, and how; after the tombstone it is not known any more."""
    async with replica(url, speak, retention_seconds=0.3, tombstone_seconds=1.5) as it:
        run = await it.start("speak", ["a"])
        await eventually(lambda: is_refused(it.get(run.run_id), "RUN_EXPIRED"))
        for call in calls_of_a_run(it, run.run_id).values():
            refusal = await refused(call())
            is_refusal(refusal, grpc.StatusCode.NOT_FOUND, "RUN_EXPIRED")
            assert refusal.metadata["final_state"] == "RUN_STATE_SUCCEEDED"
        await eventually(lambda: is_refused(it.get(run.run_id), "RUN_NOT_FOUND"))


async def test_a_live_run_does_not_expire(url: str) -> None:
    """Retention counts from the end: a run that waits is there however short the retention is."""
    held = Held()
    async with replica(url, held.definition, retention_seconds=0.05, tombstone_seconds=0.05) as it:
        run = await it.start("held")
        async with it.watch(run.run_id, heartbeat_interval=duration_pb2.Duration(seconds=1)) as watch:
            await watch.until_kind("heartbeat")
            assert (await it.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING


# The server's side


async def test_server_draining(url: str) -> None:
    """SIGTERM: health says NOT_SERVING, streams get `closing` with a delay and a cursor, then UNAVAILABLE."""
    held = Held()
    async with replica(url, held.definition) as it, replica(url, held.definition) as other:
        run = await it.start("held")
        held.words.put_nowait("a")
        health = health_pb2_grpc.HealthStub(it.channel)
        states: Any = health.Watch(health_pb2.HealthCheckRequest(service="runwire.agent.v1.AgentService"))
        assert (await states.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
            it.stopping.set()
            assert (await states.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            refusal = await watch.refusal()
        is_refusal(refusal, grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        assert refusal.retry_seconds is not None
        assert watch.kinds[-1] == "closing"
        closing = watch.frames[-1].closing
        assert closing.reason == pb.CLOSE_REASON_DRAINING
        assert closing.retry_delay.ToNanoseconds() == pytest.approx(refusal.retry_seconds * 1e9)
        held.words.put_nowait("b")
        held.words.put_nowait("")
        rest = await other.watched(run.run_id, cursor=watch.cursor)
    assert rest[0].sequence == watch.events[-1].sequence + 1
    assert rest[-1].HasField("run_finished")


async def test_streams_that_come_while_draining(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is opened while the server drains is told so, and not cut off without a word."""
    monkeypatch.setattr("agent_service.app._COMING_IN_SECONDS", 0.5)
    held = Held()
    async with replica(url, held.definition) as it:
        run = await it.start("held")
        it.stopping.set()
        await asyncio.sleep(0)
        for _ in range(20):
            async with it.watch(run.run_id) as watch:
                refusal = await watch.refusal()
            is_refusal(refusal, grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
            assert watch.kinds[0] == "opened"
            assert watch.kinds[-1] == "closing"


async def test_stream_max_age(url: str) -> None:
    """A stream that is as old as the server allows gets `closing` and UNAVAILABLE, and continues from its cursor."""
    held = Held()
    async with replica(url, held.definition, stream_max_age_seconds=0.2) as it:
        run = await it.start("held")
        async with it.watch(run.run_id, heartbeat_interval=duration_pb2.Duration(seconds=1)) as watch:
            refusal = await watch.refusal()
        is_refusal(refusal, grpc.StatusCode.UNAVAILABLE, "STREAM_MAX_AGE")
        assert refusal.retry_seconds is not None
        assert watch.kinds[-1] == "closing"
        assert watch.frames[-1].closing.reason == pb.CLOSE_REASON_MAX_AGE
        assert watch.frames[-1].closing.HasField("retry_delay")
        held.words.put_nowait("a")
        held.words.put_nowait("")
        rest = await it.watched(run.run_id, cursor=watch.cursor)
    assert [event.sequence for event in watch.events + rest] == list(range(1, 1 + len(watch.events) + len(rest)))


async def test_store_unavailable(url: str) -> None:
    """While the store does not answer every call says so, with a delay to try again after; then all continues."""
    async with replica(url, speak, wrap=FaultyStore) as it:
        run = await it.do("speak", ["a"])
        it.store.down = True  # type: ignore[attr-defined]
        start = pb.StartRunRequest(agent_id="speak", input={"list_value": {"values": []}})
        calls = calls_of_a_run(it, run.run_id) | {
            "StartRun": lambda: it.stub.StartRun(start),
            "ListRuns": lambda: it.stub.ListRuns(pb.ListRunsRequest()),
        }
        for call in calls.values():
            refusal = await refused(call())
            is_refusal(refusal, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert refusal.retry_seconds == 2.0
        it.store.down = False  # type: ignore[attr-defined]
        assert (await it.do("speak", ["b"])).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_store_unavailable_under_a_live_stream(url: str) -> None:
    """A stream whose log cannot be read any more is told so; from its cursor it continues without a gap."""
    async with replica(url, bulk, wrap=FaultyStore) as it:
        run = await it.do("bulk", [200_000] * 60)
        async with it.watch(run.run_id) as watch:
            await watch.next()
            it.store.down = True  # type: ignore[attr-defined]
            refusal = await watch.refusal()
        is_refusal(refusal, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert refusal.retry_seconds == 2.0
        it.store.down = False  # type: ignore[attr-defined]
        rest = await it.watched(run.run_id, cursor=watch.cursor)
        assert watch.events + rest == await it.watched(run.run_id)


async def test_health_follows_the_store(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store does not answer health says NOT_SERVING, and SERVING again afterwards."""
    monkeypatch.setattr("agent_service.app._HEALTH_SECONDS", 0.05)
    async with replica(url, speak, wrap=FaultyStore) as it:
        states: Any = health_pb2_grpc.HealthStub(it.channel).Watch(health_pb2.HealthCheckRequest())
        async with asyncio.timeout(LIMIT_SECONDS):
            assert (await states.read()).status == health_pb2.HealthCheckResponse.SERVING
            it.store.down = True  # type: ignore[attr-defined]
            assert (await states.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            it.store.down = False  # type: ignore[attr-defined]
            assert (await states.read()).status == health_pb2.HealthCheckResponse.SERVING
        states.cancel()


async def test_slow_consumer(url: str) -> None:
    """A client that does not read is cut off after the write timeout, others are not held up, and it can resume."""
    async with replica(url, bulk, write_timeout_seconds=0.5) as it:
        run = await it.start("bulk", [1_000_000] * 40)
        async with grpc.aio.insecure_channel(it.address, options=[("grpc.http2.bdp_probe", 0)]) as channel:
            call: Any = agent_service_pb2_grpc.AgentServiceStub(channel).WatchRun(pb.WatchRunRequest(run_id=run.run_id))
            watch = Watch(call)
            await watch.next()
            done = await it.ended(run.run_id)
            assert done.state == run_pb2.RUN_STATE_SUCCEEDED
            await asyncio.sleep(1.5)  # the point: not to read for longer than the write timeout
            refusal = await watch.refusal()
            call.cancel()
        is_refusal(refusal, grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")
        assert refusal.retry_seconds is not None
        assert "ended" not in watch.kinds
        rest = await it.watched(run.run_id, cursor=watch.cursor)
        assert len(watch.events) + len(rest) == done.last_sequence
        assert rest[0].sequence == len(watch.events) + 1


async def test_too_many_streams(url: str) -> None:
    """One stream more than allowed is refused at once; a place that gets free is given again."""
    held = Held()
    async with replica(url, held.definition, max_streams=2) as it:
        run = await it.start("held")
        async with it.watch(run.run_id) as one, it.watch(run.run_id) as two:
            await one.next()
            await two.next()
            refusal = await it.refusal(run.run_id)
            is_refusal(refusal, grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
            assert refusal.retry_seconds is not None
            two.call.cancel()
            await eventually(lambda: opens(it, run.run_id))
            # Other calls are no streams.
            assert (await it.get(run.run_id)).run_id == run.run_id


async def opens(it: Replica, run_id: str) -> bool:
    async with it.watch(run_id) as watch:
        try:
            return await watch.next() is not None
        except grpc.aio.AioRpcError:
            return False


# Wrong fields


WRONG_WATCHES: dict[str, dict[str, Any]] = {
    "run_id": {"run_id": ""},
    "heartbeat_interval": {"heartbeat_interval": duration_pb2.Duration(seconds=61)},
    "max_batch_size": {"max_batch_size": 4097},
    "position": {"position": 9},
    "gap_policy": {"gap_policy": 9},
}


@pytest.mark.parametrize("field", WRONG_WATCHES)
async def test_a_wrong_field_of_watch(sqlite_url: str, field: str) -> None:
    """Each field of WatchRunRequest that is wrong is named, with what is wrong about it."""
    async with replica(sqlite_url, speak, role="serve") as it:
        run = await it.start("speak", ["a"])
        refusal = await it.refusal(**{"run_id": run.run_id} | WRONG_WATCHES[field])
    is_refusal(refusal, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert set(refusal.violations) == {field}
    assert refusal.violations[field]


async def test_all_wrong_fields_are_told_at_once(sqlite_url: str) -> None:
    """One violation for each wrong field, not only for the first."""
    async with replica(sqlite_url, speak, role="serve") as it:
        run = await it.start("speak", ["a"])
        refusal = await it.refusal(
            run.run_id,
            heartbeat_interval=duration_pb2.Duration(nanos=1),
            max_batch_size=-1,
            gap_policy=77,
        )
    assert set(refusal.violations) == {"heartbeat_interval", "max_batch_size", "gap_policy"}


async def test_what_can_be_no_run_id(sqlite_url: str) -> None:
    """Every call that names a run refuses what can be no run id, before it looks for it."""
    async with replica(sqlite_url, speak) as it:
        for run_id in ("", "a/b", "a" * 129, "a b", "ü", "a\n"):
            for call in calls_of_a_run(it, run_id).values():
                refusal = await refused(call())
                is_refusal(refusal, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
                assert set(refusal.violations) == {"run_id"}, run_id


async def test_wrong_pages(sqlite_url: str) -> None:
    """Negative sizes and tokens of another request, or of nothing, are refused by every list."""
    async with replica(sqlite_url, speak) as it:
        run = await it.do("speak", ["a", "b", "c"])
        await it.do("speak", ["d"])
        page = await it.stub.ListRunEvents(pb.ListRunEventsRequest(run_id=run.run_id, page_size=1))
        runs = await it.stub.ListRuns(pb.ListRunsRequest(page_size=1))
        lists: dict[str, tuple[Any, Any]] = {
            "ListRunEvents": (pb.ListRunEventsRequest, {"run_id": run.run_id}),
            "ListRuns": (pb.ListRunsRequest, {}),
            "ListAgents": (pb.ListAgentsRequest, {}),
        }
        for name, (request, fields) in lists.items():
            call = getattr(it.stub, name)
            wrong = await refused(call(request(**fields, page_size=-1)))
            is_refusal(wrong, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert set(wrong.violations) == {"page_size"}
            foreign = runs.next_page_token if name != "ListRuns" else page.next_page_token
            for token in ("no token", "!", "AAAA", foreign):
                wrong = await refused(call(request(**fields, page_token=token)))
                is_refusal(wrong, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
                assert set(wrong.violations) == {"page_token"}, (name, token)
        other = pb.ListRunsRequest(agent_id="speak", page_token=runs.next_page_token)
        assert set((await refused(it.stub.ListRuns(other))).violations) == {"page_token"}
