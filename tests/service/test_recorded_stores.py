"""Stores as earlier releases left them: everything in them is read, and continues, by this one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from agent_service.log.record import FORMAT_VERSION
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_pb2
from runwire.fold import fold
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer_requests import QUEUE
from tests.recorded.record import AGENTS, FOLDER, IDS, answer, restore
from tests.redis.places import any_binary
from tests.servers import start_redis
from tests.service.replica import Replica, dense, replica, value

RELEASES = sorted(path.name for path in FOLDER.iterdir() if (path / "runs.db").exists())


@pytest.fixture(params=["sqlite", "redis"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=RELEASES)
def left_url(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> Iterator[str]:
    """A copy of what that release left."""
    folder = FOLDER / request.param
    if engine == "sqlite":
        shutil.copy(folder / "runs.db", tmp_path / "runs.db")
        yield f"sqlite:///{tmp_path}/runs.db"
        return
    server = start_redis(any_binary())
    try:
        with redis.Redis(port=server.port) as client:
            restore(client, json.loads((folder / "redis.json").read_text()))
        yield server.url
    finally:
        server.close()


async def runs_of(it: Replica) -> dict[str, run_pb2.Run]:
    """By the name that each was started with."""
    found = (await it.stub.ListRuns(pb.ListRunsRequest())).runs
    return {run.input.string_value: run for run in found}


async def test_what_an_earlier_release_left_goes_on(left_url: str) -> None:
    """Ended runs are read to the byte, suspended ones take their answer and repeat no step, queued ones are begun, a
    conversation hears its next message, and what scorers were asked is still asked."""
    async with replica(left_url, *AGENTS) as it:
        runs = await runs_of(it)
        assert sorted(runs) == sorted(IDS)
        ended = await it.log(runs["ended"].run_id)
        assert dense(ended)
        assert fold(ended).output == "first of ended, well"
        (delivery,) = await it.store.receive(QUEUE, consumer="test", limit=9, lease_seconds=60.0)
        asked = scorer_run_requested_pb2.ScorerRunRequested.FromString(delivery.body)
        assert asked.sample.run_id == runs["ended"].run_id

        await it.resume(runs["suspended"].run_id, answer("good"))
        done = await it.ended(runs["suspended"].run_id)
        assert (done.state, done.output.string_value) == (
            run_pb2.RUN_STATE_SUCCEEDED,
            "first of suspended, good",
        )
        steps = [e for e in await it.log(done.run_id) if e.step_started.name == "first"]
        assert len(steps) == 1, "what was finished is not begun again"

        assert (await it.suspended(runs["queued"].run_id)).attempt == 1

        talk = runs["waiting"]
        async with it.watch(talk.run_id, cursor=talk.cursor) as watch:
            message = pb.SendMessageRequest(run_id=talk.run_id, message=value("again"))
            assert (await it.stub.SendMessage(message)).message_number == 2
            await watch.until_event("turn_finished")
        assert fold(await it.log(talk.run_id)).text.endswith("heard again")


def test_this_release_is_recorded() -> None:
    """There is a recorded store for the format that this release writes."""
    assert RELEASES
    assert len(RELEASES) >= FORMAT_VERSION
