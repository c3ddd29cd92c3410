"""The synchronous client on a channel of grpcio-testing: what it asks for, call by call, with no server and no wire."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import grpc
import grpc_testing
import pytest

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.client import ResumePolicy
from runwire.client.sync import AgentClient
from tests.client.scripted import RUN_ID, text_log

LIMIT_SECONDS = 20.0
SERVICE = pb.DESCRIPTOR.services_by_name["AgentService"]
WATCH = SERVICE.methods_by_name["WatchRun"]


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> grpc_testing.Channel:
    """Takes the place of the connection to a service."""
    made = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
    monkeypatch.setattr(grpc, "insecure_channel", lambda target, options=None: made)
    return made


def test_a_cut_is_resumed_after_the_last_whole_frame(channel: grpc_testing.Channel) -> None:
    """The first call asks from the beginning, each next one with the cursor of the last frame; OK without `ended` is a
    cut like any other."""
    events, seen, asked = text_log(6), Queue[int](), []
    client = AgentClient("anywhere:1", resume=ResumePolicy(first_delay_seconds=0.0))

    def read() -> None:
        for event in client.watch(RUN_ID):
            seen.put(event.sequence)

    with ThreadPoolExecutor(1) as pool, client:
        reading = pool.submit(read)
        for first, status in [(1, grpc.StatusCode.UNAVAILABLE), (3, grpc.StatusCode.OK), (5, None)]:
            _, request, call = channel.take_unary_stream(WATCH)
            asked.append(request.cursor)
            cursor = f"after {first + 1}"
            call.send_initial_metadata(())
            call.send_response(pb.WatchRunResponse(cursor=request.cursor, opened={"epoch": "e1"}))
            call.send_response(pb.WatchRunResponse(cursor=cursor, batch={"events": events[first - 1 : first + 1]}))
            assert [seen.get(timeout=LIMIT_SECONDS) for _ in range(2)] == [first, first + 1]
            if status is None:
                call.send_response(pb.WatchRunResponse(cursor=cursor, ended={"last_sequence": 6}))
                reading.result(LIMIT_SECONDS)
            call.terminate((), status or grpc.StatusCode.OK, "")
    assert asked == ["", "after 2", "after 4"]
