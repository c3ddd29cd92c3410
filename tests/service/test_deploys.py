"""Two incompatible versions of one agent, deployed one after the other under load: each run is finished by the version
that it was accepted with, and none fails for a deploy."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from google.protobuf import struct_pb2

from agent_service import Definition, RunContext, fleet, workflow
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.pubsub import Commit, Schedule
from tests.service.replica import Replica, eventually, mortal_worker, replica, topic_of, value

STEPS: Final = {"1": ("pick", "pack"), "2": ("scan", "bill", "send")}


@pytest.fixture(autouse=True)
def quick_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "SAY_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "SILENT_SECONDS", 1.0)


@dataclass
class Load:
    """Runs that are started at whatever serves now, and what was executed of them."""

    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    started: list[tuple[str, str]] = field(default_factory=list)
    """Run id and version."""

    def version(self, version: str, **settings: Any) -> Definition:
        """An agent whose steps no other version has, and whose runs hold no worker for a part of their time."""

        @workflow(id="ship", version=version, **settings)
        async def ship(ctx: RunContext, input: Any) -> str:
            for name in STEPS[version]:
                await ctx.step(name, self._work, ctx.run_id, name)
            await ctx.suspend("continue", answer_type=bool)
            await ctx.step("last", self._work, ctx.run_id, "last")
            return version

        return ship

    async def _work(self, run_id: str, name: str) -> str:
        self.done[run_id, name] += 1
        await asyncio.sleep(0.01)
        return name

    async def start(self, it: Replica, version: str, count: int) -> None:
        for _ in range(count):
            self.started.append(((await it.start("ship")).run_id, version))

    async def answer(self, it: Replica, run_id: str) -> None:
        await it.suspended(run_id)
        await it.resume(run_id, run_event_pb2.Answer(request_id="suspend/continue", data=value(True)))


async def versions(it: Replica) -> dict[str, pb.RunQueueVersion]:
    (queue,) = (await it.stub.ListQueues(pb.ListQueuesRequest())).queues
    return {each.version: each for each in queue.by_version}


async def drained(it: Replica, version: str) -> bool:
    found = (await versions(it)).get(version)
    return found is None or not (found.due or found.ahead or found.running)


async def deploy(url: str, deploys: int, runs: int) -> None:
    """Each deploy starts the other version, sends the load there, and stops the old one once nothing of it is left."""
    load = Load()
    async with AsyncExitStack() as last:
        old: tuple[AsyncExitStack, Replica, str] | None = None
        for number in range(deploys):
            version = "1" if number % 2 == 0 else "2"
            stack = AsyncExitStack()
            it = await stack.enter_async_context(replica(url, load.version(version), check_seconds=0.2))
            await load.start(it, version, runs)
            if old is not None:
                before, _, name = old
                # Answered by whoever serves now, executed by whoever can.
                async with asyncio.TaskGroup() as group:
                    for run_id, _ in load.started[-2 * runs : -runs]:
                        group.create_task(load.answer(it, run_id))
                await eventually(lambda it=it, name=name: drained(it, name))
                await before.aclose()
                assert [worker.agents[0].version for worker in await listed(it)] == [version]
            old = stack, it, version
        assert old is not None
        await last.enter_async_context(old[0])
        it = old[1]
        for run_id, _ in load.started[-runs:]:
            await load.answer(it, run_id)
        for run_id, version in load.started:
            run = await it.ended(run_id)
            assert (run.state, run.output, run.agent_version) == (
                run_pb2.RUN_STATE_SUCCEEDED,
                struct_pb2.Value(string_value=version),
                version,
            )
            assert {name: load.done[run_id, name] for name in (*STEPS[version], "last")} == dict.fromkeys(
                (*STEPS[version], "last"), 1
            )


async def listed(it: Replica) -> list[pb.Worker]:
    return list((await it.stub.ListWorkers(pb.ListWorkersRequest())).workers)


async def test_deploys_fail_no_run_and_repeat_no_step(url: str) -> None:
    """Over rolling deploys every run ends well with its version, no finished step is done again, and the old version's
    workers have nothing left when they go."""
    await deploy(url, 3, 3)


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_twenty_deploys(url: str) -> None:
    """The same, twenty times, under more load."""
    await deploy(url, 20, 20)


async def test_a_deploy_leaves_runs_to_the_version_that_began_them(url: str) -> None:
    """What a killed worker had is not touched by workers of another version; it continues when its version is back."""
    load = Load()
    async with replica(url, load.version("2")) as it:
        async with replica(url, load.version("1"), role="serve") as before:
            await load.start(before, "1", 1)
        run_id = load.started[0][0]
        async with mortal_worker(url, load.version("1")):
            await it.suspended(run_id)
        await it.resume(run_id, run_event_pb2.Answer(request_id="suspend/continue", data=value(True)))

        async def waits() -> bool:
            found = await versions(it)
            return bool(found["1"].due == 1 and not found["1"].workers)

        await eventually(waits)
        await load.start(it, "2", 1)
        await it.suspended(load.started[1][0])
        assert (await it.get(run_id)).state == run_pb2.RUN_STATE_SUSPENDED
        assert [load.done[run_id, name] for name in ("pick", "pack", "last")] == [1, 1, 0]
        async with replica(url, load.version("1"), role="work"):
            assert (await it.ended(run_id)).output.string_value == "1"


async def test_a_version_that_waits_is_left_alone(url: str) -> None:
    """With on_version_change="wait" the runs of another version wait for it, however long, and can be cancelled."""
    load = Load()
    new = load.version("2", on_version_change="wait", orphan_after=0.05)
    other = load.version("3" if "3" in STEPS else "1")
    async with replica(url, new) as it:
        async with replica(url, other, role="serve") as before:
            await load.start(before, "1", 2)
        first, second = (run_id for run_id, _ in load.started)
        await load.start(it, "2", 1)
        await it.suspended(load.started[2][0])
        assert (await it.get(first)).state == run_pb2.RUN_STATE_QUEUED
        await it.cancel(first)
        assert (await it.ended(first)).state == run_pb2.RUN_STATE_CANCELLED, "to end it, any version will do"
        assert (await it.get(second)).state == run_pb2.RUN_STATE_QUEUED


async def test_a_conversation_goes_on_with_the_version_there_is(url: str) -> None:
    """Between two turns a conversation is bound to no version: the next message is answered by the new one at once."""

    def talks(version: str) -> Definition:
        @workflow(id="talks", version=version)
        async def talk(ctx: RunContext, input: Any) -> None:
            while (message := await ctx.receive()) is not None:
                await ctx.emit_text(f"{version}:{message} ")

        return talk

    async with replica(url, talks("1")) as it:
        run = await it.start("talks", "a", conversation=run_pb2.Conversation())
        async with it.watch(run.run_id) as watch:
            await watch.until_event("turn_finished")
    async with replica(url, talks("2")) as it, it.watch(run.run_id, cursor=(await it.get(run.run_id)).cursor) as watch:
        await it.stub.SendMessage(pb.SendMessageRequest(run_id=run.run_id, message=value("b")))
        await watch.until_event("turn_finished")
        assert (await it.get(run.run_id)).agent_version == "2"


async def test_what_a_later_release_wrote_is_left_to_it(url: str) -> None:
    """A run whose journal has a later format is not executed, nor failed, by this release."""
    load = Load()
    async with replica(url, load.version("1"), role="serve") as it:
        await load.start(it, "1", 1)
        run_id = load.started[0][0]
        await it.store.commit(Commit(topic_of(run_id), puts={"format": b"2"}, schedule=Schedule.WAKE))
        async with mortal_worker(url, load.version("1")):

            async def was_claimed() -> bool:
                stored = await it.store.get(topic_of(run_id))
                return stored is not None and stored.head.attempt > 0

            await eventually(was_claimed)
        assert (await it.get(run_id)).state == run_pb2.RUN_STATE_QUEUED
        assert not load.done
