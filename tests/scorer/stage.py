"""What the tests of the scorer service share: requests, and the service itself on real gRPC."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from runwire.connect import open_store
from runwire.pubsub import Commit, Message, Schedule, Store
from runwire.scorer.v1 import scorer_run_pb2, scorer_run_requested_pb2, scorer_service_pb2_grpc
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.scorer_requests import scorer_run_id
from scorer_service import app, config

LIMIT_SECONDS = 20.0
SCORERS = "tests.scorer.scorers"
_numbers = itertools.count(1)

State = scorer_run_pb2.ScorerRunState
TERMINAL = {
    State.Value(f"SCORER_RUN_STATE_{name}") for name in ("SUCCEEDED", "FAILED", "NOT_SCORABLE", "DECLINED", "CANCELLED")
}


def request(
    scorer_id: str = "keyword-coverage",
    run_id: str = "run-1",
    *,
    input: str = "What is a cursor?",
    output: str = "A cursor is a position.",
    version: str = "",
    sampled: bool = True,
    rate: float = 1.0,
    siblings: int = 0,
    options: dict[str, Any] | None = None,
) -> scorer_run_requested_pb2.ScorerRunRequested:
    """A request as the agent service writes it."""
    message = scorer_run_requested_pb2.ScorerRunRequested(
        scorer_run_id=scorer_run_id("default", run_id, scorer_id, version),
        tenant="default",
        scorer_id=scorer_id,
        scorer_version=version,
        sampling=scorer_run_requested_pb2.SamplingDecision(rate=rate, sampled=sampled),
        sample=scorer_run_requested_pb2.Sample(run_id=run_id, agent_id="librarian", run_state="succeeded"),
        sibling_count=siblings,
    )
    message.sample.input.string_value = input
    message.sample.output.string_value = output
    if options:
        message.options.update(options)
    return message


async def send(store: Store, requests: Sequence[Any], queue: str = "scorer-requests") -> None:
    """Sends messages as the agent service does: with a commit. Bytes are sent as they are."""
    bodies = [each if isinstance(each, bytes) else each.SerializeToString() for each in requests]
    for start in range(0, len(bodies), 100):
        await store.commit(
            Commit(
                f"default/sender-{uuid.uuid4().hex}",
                create=True,
                queue="nobody",
                schedule=Schedule.NEVER,
                messages=[Message(queue, body) for body in bodies[start : start + 100]],
            )
        )


@dataclass
class Service:
    """A service that runs, and a stub that calls it."""

    address: str
    store: Store
    stub: Any
    stopping: asyncio.Event

    async def send(self, *requests: Any) -> None:
        await send(self.store, requests)

    async def get(self, scorer_run_id: str, *, include_sample: bool = False) -> scorer_run_pb2.ScorerRun:
        response = await self.stub.GetScorerRun(
            pb.GetScorerRunRequest(scorer_run_id=scorer_run_id, include_sample=include_sample)
        )
        return response.scorer_run  # type: ignore[no-any-return]

    def watch(self, run_id: str = "", **fields: Any) -> Any:
        """A stream of WatchScorerRuns."""
        return self.stub.WatchScorerRuns(pb.WatchScorerRunsRequest(run_id=run_id, **fields))

    async def until(self, scorer_run_id: str, *names: str, limit: float = LIMIT_SECONDS) -> scorer_run_pb2.ScorerRun:
        """The scorer run once it is in one of these states; by default in a terminal one."""
        wanted = {State.Value(f"SCORER_RUN_STATE_{name}") for name in names} or TERMINAL
        async with asyncio.timeout(limit):
            while True:
                try:
                    run = await self.get(scorer_run_id)
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.NOT_FOUND:
                        raise
                else:
                    if run.state in wanted:
                        return run
                await asyncio.sleep(0.02)

    async def score(self, message: scorer_run_requested_pb2.ScorerRunRequested) -> scorer_run_pb2.ScorerRun:
        """Sends a request and waits for its end."""
        await self.send(message)
        return await self.until(message.scorer_run_id)


FAST: dict[str, Any] = {
    "scorer_retry_first_seconds": 0.01,
    "scorer_retry_max_seconds": 0.02,
    "scorer_grace_seconds": 5.0,
}


@asynccontextmanager
async def service(results: str, **given: Any) -> AsyncIterator[Service]:
    """The service on a store in memory, with retries that come at once."""
    given = {"store": f"memory://{uuid.uuid4().hex}", "listen": "127.0.0.1:0", "scorers": SCORERS, **FAST, **given}
    settings = config.load(results=results, scorer_migrate=True, **given)
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stopping = asyncio.Event()
    async with open_store(settings.store) as store, asyncio.TaskGroup() as group:
        running = group.create_task(app.run(settings, address.set_result, stopping))
        await asyncio.wait([running, address], timeout=LIMIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        async with grpc.aio.insecure_channel(address.result()) as channel:
            stub = scorer_service_pb2_grpc.ScorerServiceStub(channel)
            try:
                yield Service(address.result(), store, stub, stopping)
            finally:
                stopping.set()
        async with asyncio.timeout(LIMIT_SECONDS):
            await running


async def eventually(condition: Callable[[], Awaitable[bool]], limit: float = LIMIT_SECONDS) -> None:
    """Waits until a condition holds that nobody announces."""
    async with asyncio.timeout(limit):
        while not await condition():  # noqa: ASYNC110 - what is asked is in another process, or in a database
            await asyncio.sleep(0.02)
