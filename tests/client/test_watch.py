"""Watching through everything that can happen to a stream."""

from __future__ import annotations

import asyncio
import random
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from runwire import errors
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_pb2
from runwire.client import AgentClient, Discontinuity, ResumePolicy, RunStream, ScorerClient, ScorerRun, sync
from runwire.client.resume import Delays
from runwire.scorer.v1 import scorer_service_pb2 as scorer_pb
from runwire.scorer.v1 import scorer_service_pb2_grpc
from tests.client.conftest import QUICK, Watch
from tests.client.scripted import (
    ScriptedAgentService,
    frames,
    play,
    refuse,
    seconds,
    serving,
    text_log,
)
from tests.servers import program

ALL = list(range(1, 13))


async def test_whole_log(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A stream that nothing happens to gives every event once and ends."""
    watched = await watch(address)
    assert watched.error is None
    assert watched.events == service.events
    assert watched.state == run_pb2.RUN_STATE_SUCCEEDED
    assert watched.cursor == service.cursor(12)
    assert [request.WhichOneof("start") for request in service.requests] == [None]


@pytest.mark.parametrize(
    "cut",
    [
        play(4, code=grpc.StatusCode.UNAVAILABLE, details="Socket closed"),
        play(4, code=grpc.StatusCode.INTERNAL, details="Received RST_STREAM with error code 2"),
        play(4, code=grpc.StatusCode.INTERNAL, details="Unexpected EOS on DATA frame"),
        play(4, code=grpc.StatusCode.UNKNOWN, details="Stream removed"),
        play(4, ok=True),
        play(4, error=errors.ServerDraining("draining", 0.0), closing_seconds=0.0),
        play(4, error=errors.StreamMaxAge("old", 0.0)),
        play(4, error=errors.StoreUnavailable("no store", 0.0)),
        play(4, error=errors.SlowConsumer("slow", 0.0)),
        play(4, error=errors.TooManyStreams("full", 0.0)),
    ],
    ids=["unavailable", "rst", "eos", "removed", "ok", "draining", "max-age", "store", "slow", "full"],
)
async def test_resumes(watch: Watch, service: ScriptedAgentService, address: str, cut: object) -> None:
    """Whatever is a cut and no end is resumed from the last cursor, without a gap or a duplicate."""
    service.parts.append(cut)  # type: ignore[arg-type]
    watched = await watch(address)
    assert watched.error is None
    assert watched.sequences == ALL
    assert watched.reconnects == 1
    assert [request.cursor for request in service.requests] == ["", "e1-4"]


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest({"max_batch_size": "is 300"}),
        errors.CursorMalformed("checksum differs"),
        errors.CursorMismatch("another run's"),
        errors.CursorExpired("gone", earliest_sequence=7, latest_sequence=12, earliest_cursor="e1-6"),
        errors.CursorAhead("ahead"),
        errors.CursorEpochMismatch("another log"),
        errors.EventsLost("gone"),
        errors.RunNotFound("no run"),
        errors.RunExpired("purged", final_state="succeeded"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_never_resumes(
    watch: Watch, service: ScriptedAgentService, address: str, error: errors.RunwireError
) -> None:
    """What cannot be mended by trying again is raised at once, as the class and with the data that the service sent."""
    service.parts.append(play(4, error=error))
    watched = await watch(address)
    assert type(watched.error) is type(error)
    assert str(watched.error) == str(error)
    assert watched.error.metadata.items() >= error.metadata.items()  # type: ignore[union-attr]
    assert watched.sequences == ALL[:4]
    assert len(service.requests) == 1
    if isinstance(error, errors.InvalidRequest):
        assert watched.error.violations == error.violations  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "code, kind",
    [
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDenied),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.INTERNAL, errors.RunwireError),
    ],
)
async def test_other_statuses(
    watch: Watch, service: ScriptedAgentService, address: str, code: grpc.StatusCode, kind: type[errors.RunwireError]
) -> None:
    """A status that no policy names ends the stream and says its name, also where it comes without a reason."""
    service.parts.append(play(2, code=code, details="no"))
    watched = await watch(address)
    assert type(watched.error) is kind
    assert watched.error.metadata["code"] == code.name  # type: ignore[union-attr]
    assert len(service.requests) == 1


async def test_random_cuts(watch: Watch) -> None:
    """Two hundred streams cut at random places with random batches join to the log."""
    chance = random.Random(7)
    service = ScriptedAgentService(text_log(400))
    async with serving(service) as address:
        for _ in range(200):
            service.parts.append(
                play(chance.randrange(4), batch=chance.randint(1, 3), code=grpc.StatusCode.UNAVAILABLE)
            )
        watched = await watch(address, policy=ResumePolicy(first_delay_seconds=0.0))
    assert watched.error is None
    assert watched.events == service.events


async def test_cursor_follows_what_was_handled(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """Inside the loop the cursor never covers the event at hand, and it moves with whole frames."""
    service.parts.append(play(batch=5))
    watched = await watch(address)
    assert watched.cursors == ["e1-0"] * 5 + ["e1-5"] * 5 + ["e1-10"] * 2
    assert watched.cursor == "e1-12"


async def test_resumes_exactly_inside_a_frame(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A reader that stored cursor and last sequence inside a frame gets the rest of the frame and nothing twice."""
    service.parts += [play(batch=5), play(batch=5)]
    before = await watch(address, stop_after=7)
    after = await watch(address, after=before.cursor, last_sequence=7)
    assert before.cursor == "e1-5"
    assert after.sequences == ALL[7:]


async def test_second_drop_before_any_event(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A cut before the resumed stream brought anything does not lose the place."""
    cut = {"code": grpc.StatusCode.UNAVAILABLE}
    service.parts += [play(4, **cut), play(0, **cut), refuse(errors.StoreUnavailable("no", 0.0)), play(0, **cut)]  # type: ignore[arg-type]
    watched = await watch(address)
    assert watched.sequences == ALL
    assert [request.cursor for request in service.requests] == ["", *["e1-4"] * 4]


async def test_repeated_events_are_dropped(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A service that sends events again after a resumption does not make the reader see them twice."""
    service.parts += [
        play(6, ok=True),
        frames(
            lambda s: s.opened(s.requests[-1]),
            lambda s: s.batch(s.events[3:8]),
            lambda s: s.batch(s.events[7:]),
            lambda s: s.ended(),
        ),
    ]
    watched = await watch(address)
    assert watched.sequences == ALL


async def test_hole_is_an_error(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A service that leaves events out is caught, not believed."""
    service.parts.append(
        frames(
            lambda s: s.opened(s.requests[-1]),
            lambda s: s.batch(s.events[:3]),
            lambda s: s.batch(s.events[4:]),
            lambda s: s.ended(),
        )
    )
    watched = await watch(address)
    assert isinstance(watched.error, errors.EventsLost)
    assert watched.sequences == [1, 2, 3]


async def test_hole_inside_a_frame_hides_nothing(service: ScriptedAgentService, address: str) -> None:
    """A reader that continues after the error gets all of the frame once the service sends it whole."""
    service.parts.append(
        frames(
            lambda s: s.opened(s.requests[-1]), lambda s: s.batch([*s.events[:2], *s.events[3:]]), lambda s: s.ended()
        )
    )
    async with AgentClient(address, resume=QUICK) as client, client.watch("run-1") as stream:
        with pytest.raises(errors.EventsLost):
            await anext(stream)
        assert [event.sequence async for event in stream] == ALL


async def test_close_while_a_stream_is_opened(service: ScriptedAgentService, address: str) -> None:
    """A synchronous stream that is closed at the moment in which it opens a call does not wait for that call."""
    service.parts.append(play(0, freeze=True))

    def close() -> list[tuple[str, str]]:
        stream.close()
        return []

    with sync.AgentClient(address, metadata=close) as client:
        stream = client.watch("run-1")
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(list, stream) == []


async def test_end_before_the_last_event_is_an_error(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """An end frame that names a later event than the last one received is not an end."""
    service.parts.append(
        frames(lambda s: s.opened(s.requests[-1]), lambda s: s.batch(s.events[:3]), lambda s: s.ended())
    )
    watched = await watch(address)
    assert isinstance(watched.error, errors.EventsLost)


async def test_new_epoch_is_a_discontinuity(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A log under another epoch is never joined to the old one, although its sequences would fit."""

    def reopen(s: ScriptedAgentService) -> pb.WatchRunResponse:
        s.epoch = "e2"
        return s.opened(s.requests[-1])

    service.parts += [play(4, ok=True), frames(reopen, lambda s: s.batch(s.events[4:]), lambda s: s.ended())]
    watched = await watch(address)
    assert isinstance(watched.error, errors.CursorEpochMismatch)
    assert watched.sequences == ALL[:4]


async def test_goes_on_after_a_discontinuity(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """With on_discontinuity, a new log is read from its beginning and an expired cursor continues at the oldest
    event."""
    told: list[Discontinuity] = []
    expired = errors.CursorExpired("gone", earliest_sequence=7, latest_sequence=12, earliest_cursor="e1-6")
    service.parts += [play(4, error=errors.CursorEpochMismatch("another log")), play(2, ok=True), refuse(expired)]
    watched = await watch(address, on_discontinuity=told.append)
    assert watched.error is None
    assert watched.sequences == [1, 2, 3, 4, 1, 2, *ALL[6:]]
    assert [(each.last_sequence, each.new_log) for each in told] == [(4, True), (2, False)]


async def test_discontinuity_may_be_refused(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """An exception out of on_discontinuity ends the stream with that exception."""

    def refuse_it(discontinuity: Discontinuity) -> None:
        raise LookupError("start over")

    service.parts.append(play(4, error=errors.EventsLost("gone")))
    watched = await watch(address, on_discontinuity=refuse_it)
    assert isinstance(watched.error, LookupError)


async def test_watchdog(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A stream that is silent for 2.5 heartbeats is left, on a new connection, and resumed."""
    service.heartbeat_seconds = 0.04
    service.parts.append(play(4, freeze=True))
    watched = await watch(address)
    assert watched.error is None
    assert watched.sequences == ALL
    assert watched.reconnects >= 1
    assert service.requests[1].cursor == "e1-4"


async def test_retry_info_is_honoured(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A client does not come back before the time that the service asked for, by RetryInfo or by `closing`."""
    service.parts += [
        play(4, error=errors.StoreUnavailable("no", 0.2)),
        play(4, ok=True, closing_seconds=0.2),
    ]
    began = time.monotonic()
    watched = await watch(address)
    assert watched.sequences == ALL
    assert time.monotonic() - began >= 0.4


async def test_only_progress_makes_the_next_wait_short(
    watch: Watch, service: ScriptedAgentService, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that accepts streams and ends them at once, even with OK, is not asked again and again without a
    pause: the bound of the pauses grows until a new event comes."""
    bounds: list[float] = []
    delay = Delays.delay

    def record(self: Delays, error: errors.Unavailable, now: float, *, at_least: float = 0.0) -> float:
        self._uniform = lambda low, high: bounds.append(high) or 0.0  # type: ignore[func-returns-value]
        return delay(self, error, now, at_least=at_least)

    monkeypatch.setattr(Delays, "delay", record)
    service.parts += [play(4, ok=True), *[play(0, ok=True)] * 3, play(1, ok=True), play(0, heartbeat=True, ok=True)]
    watched = await watch(address, policy=ResumePolicy())
    assert watched.sequences == ALL
    assert bounds == pytest.approx([0.05, 0.08, 0.128, 0.2048, 0.05, 0.08])


async def test_gives_up(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """When nothing useful comes for as long as the policy says, the last error is raised."""
    service.parts += [refuse(errors.StoreUnavailable("no store", 0.0))] * 500
    watched = await watch(address, policy=ResumePolicy(first_delay_seconds=0.01, growth=1.0, give_up_seconds=0.1))
    assert isinstance(watched.error, errors.StoreUnavailable)


async def test_latest(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """A reader from now on gets nothing of the past, and keeps its place through a cut before the first event."""
    service.parts += [play(0, ok=True), play()]
    watched = await watch(address, latest=True)
    assert watched.error is None
    assert watched.sequences == []
    assert [request.WhichOneof("start") for request in service.requests] == ["position", "cursor"]
    assert service.requests[1].cursor == "e1-12"


async def test_unknown_frames_and_payloads_are_skipped(
    watch: Watch, service: ScriptedAgentService, address: str
) -> None:
    """Frames and payloads of a newer service move the cursor and do no harm."""
    unknown = pb.WatchRunResponse.FromString(pb.WatchRunResponse(cursor="e1-0").SerializeToString() + b"\xfa\x01\x00")
    service.events[5].ClearField("text_delta")
    service.parts.append(
        frames(
            lambda s: s.opened(s.requests[-1]),
            lambda s: unknown,
            lambda s: s.batch(s.events),
            lambda s: s.ended(),
        )
    )
    watched = await watch(address)
    assert watched.error is None
    assert watched.sequences == ALL


async def test_arguments_reach_the_service(watch: Watch, service: ScriptedAgentService, address: str) -> None:
    """Heartbeat, batch size and run id are asked for at every connection."""
    service.parts.append(play(4, ok=True))
    await watch(address, run_id="run-9", heartbeat_seconds=2.5, max_batch_size=7)
    for request in service.requests:
        assert request.run_id == "run-9"
        assert request.heartbeat_interval == seconds(2.5)
        assert request.max_batch_size == 7
        assert request.gap_policy == pb.GAP_POLICY_FAIL


async def test_batches(service: ScriptedAgentService, address: str) -> None:
    """Batches come with the cursor after them, which resumes exactly behind them."""
    service.parts += [play(7, batch=3, ok=True)]
    async with AgentClient(address, resume=QUICK) as client, client.watch("run-1") as stream:
        seen = [([event.sequence for event in batch], stream.next_cursor) async for batch in stream.batches()]
    assert [sequences for sequences, _ in seen] == [[1, 2, 3], [4, 5, 6], [7], *[[n] for n in ALL[7:]]]
    assert all(cursor == service.cursor(sequences[-1]) for sequences, cursor in seen)


async def test_cancelled_wait_loses_nothing(service: ScriptedAgentService, address: str) -> None:
    """A time-out around one event leaves the stream usable, at the same place."""
    service.parts.append(play(4, freeze=True))
    async with AgentClient(address, resume=QUICK) as client, client.watch("run-1") as stream:
        got = [(await anext(stream)).sequence for _ in range(4)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(stream)
        got += [event.sequence async for event in stream]
    assert got == ALL


async def test_leaving_early_ends_the_call(service: ScriptedAgentService, address: str) -> None:
    """Leaving the block cancels the call on the service's side."""
    left = asyncio.Event()

    async def wait(s: ScriptedAgentService, request: pb.WatchRunRequest, context: object) -> None:
        try:
            await play(2, freeze=True)(s, request, context)  # type: ignore[arg-type]
        finally:
            left.set()

    service.parts.append(wait)
    async with AgentClient(address, resume=QUICK) as client, client.watch("run-1") as stream:
        await anext(stream)
    async with asyncio.timeout(5):
        await left.wait()


async def test_close_from_another_task(service: ScriptedAgentService, address: str) -> None:
    """Closing a stream ends the loop of the task that waits in it; closing its client is an error there, and neither
    looks like a cancellation of that task."""
    waits = asyncio.Event()

    async def freeze(s: ScriptedAgentService, request: pb.WatchRunRequest, context: Any) -> None:
        waits.set()
        await play(2, freeze=True)(s, request, context)

    async def read(stream: RunStream) -> list[int]:
        return [event.sequence async for event in stream]

    for close_client in (False, True):
        waits.clear()
        service.parts.append(freeze)
        client = AgentClient(address, resume=QUICK)
        stream = client.watch("run-1")
        async with asyncio.timeout(10):
            reading = asyncio.create_task(read(stream))
            await waits.wait()
            await (client.close() if close_client else stream.aclose())
            if close_client:
                with pytest.raises(RuntimeError, match="this client is closed"):
                    await reading
            else:
                assert await reading in ([], [1], [1, 2])
            await client.close()


async def test_close_from_another_thread(service: ScriptedAgentService, address: str) -> None:
    """Closing a synchronous stream ends the loop of the thread that waits in it, and leaves no thread behind."""
    service.parts.append(play(2, freeze=True))
    seen: list[int] = []
    handled = threading.Event()

    def read(stream: sync.RunStream) -> None:
        for event in stream:
            seen.append(event.sequence)
            if len(seen) == 2:
                handled.set()

    with sync.AgentClient(address, resume=QUICK) as client:
        stream = client.watch("run-1")
        reading = asyncio.create_task(asyncio.to_thread(read, stream))
        assert await asyncio.to_thread(handled.wait, 10)
        await asyncio.to_thread(stream.close)
        async with asyncio.timeout(10):
            await reading
    assert seen == [1, 2]
    for thread in threading.enumerate():
        if thread.name == "runwire-watchdog":
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


@pytest.mark.parametrize("client", ["async", "sync"])
async def test_scorer_runs_resume(client: str) -> None:
    """A stream of scorer runs is resumed from its cursor as well, and ends with `ended` alone."""

    class Scripted(scorer_service_pb2_grpc.ScorerServiceServicer):
        cursors: list[str] = []  # noqa: RUF012 - of this test alone

        async def WatchScorerRuns(self, request: scorer_pb.WatchScorerRunsRequest, context: Any) -> None:
            self.cursors.append(request.cursor)
            last = len(self.cursors) == 3
            runs = scorer_pb.ScorerRunBatch(scorer_runs=[ScorerRun(scorer_run_id=f"s{len(self.cursors)}")])
            await context.write(scorer_pb.WatchScorerRunsResponse(cursor=f"c{len(self.cursors)}", batch=runs))
            if last:
                await context.write(scorer_pb.WatchScorerRunsResponse(ended=scorer_pb.ScorerRunsEnded()))

    def read(address: str) -> list[str]:
        with sync.ScorerClient(address, resume=QUICK) as scorers:
            return [each.scorer_run_id for each in scorers.watch_scorer_runs("run-1")]

    server = grpc.aio.server()
    scorer_service_pb2_grpc.add_ScorerServiceServicer_to_server(Scripted(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        if client == "sync":
            found = await asyncio.to_thread(read, f"127.0.0.1:{port}")
        else:
            async with ScorerClient(f"127.0.0.1:{port}", resume=QUICK) as scorers:
                found = [each.scorer_run_id async for each in scorers.watch_scorer_runs("run-1")]
    finally:
        await server.stop(None)
    assert found == ["s1", "s2", "s3"]
    assert Scripted.cursors == ["", "c1", "c2"]


@pytest.mark.parametrize("client", ["async", "sync"])
async def test_tls(service: ScriptedAgentService, tmp_path: Path, client: str) -> None:
    """With credentials the client speaks TLS, and trusts whom it is told to trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    openssl = await asyncio.create_subprocess_exec(
        str(program("openssl")), *made, "-keyout", str(key), "-out", str(certificate), *name, stderr=subprocess.DEVNULL
    )
    assert await openssl.wait() == 0
    server = grpc.aio.server()
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(service, server)
    pairs = [(key.read_bytes(), certificate.read_bytes())]
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials(pairs))
    await server.start()
    trusted = grpc.ssl_channel_credentials(certificate.read_bytes())

    def read() -> list[int]:
        with sync.AgentClient(f"localhost:{port}", credentials=trusted) as agents:
            return [event.sequence for event in agents.watch("run-1")]

    try:
        if client == "sync":
            assert await asyncio.to_thread(read) == ALL
        else:
            async with AgentClient(f"localhost:{port}", credentials=trusted) as agents:
                assert [event.sequence async for event in agents.watch("run-1")] == ALL
        async with AgentClient(f"localhost:{port}", timeout=0.5) as plain:
            with pytest.raises(errors.Unavailable):
                await plain.start_run("scripted")
    finally:
        await server.stop(None)
