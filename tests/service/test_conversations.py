"""Conversations over the wire, on every engine: with both clients, scorers asked for each turn, and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import RunContext, ScorerRef, durable_agent, workflow
from agent_service.agents.definition import Definition
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import AgentClient, approve, sync
from runwire.errors import AlreadyExists, ConversationEnded, NotAConversation
from runwire.fold import fold
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer_requests import QUEUE, scorer_run_id
from runwire.values import from_value
from scorer_service.results.records import Job
from scorer_service.runs import Runs
from scorer_service.samples import from_wire
from tests.service.replica import TENANT, Replica, mortal_worker, refused, replica, value


async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    last = messages[-1].parts[-1]
    if last.part_kind == "user-prompt" and str(last.content).startswith("delete"):
        yield {1: DeltaToolCall("delete", json_args="{}", tool_call_id="d")}
    else:
        yield f"{len(messages)} "
        yield str(last.content) if hasattr(last, "content") else ""


def talker() -> Definition:
    agent = Agent(FunctionModel(stream_function=speak), name="talker")

    @agent.tool_plain(requires_approval=True)
    async def delete() -> str:
        return "deleted"

    return durable_agent(agent, scorers=[ScorerRef("brevity")])


TALKER = talker()


async def test_a_conversation_with_both_clients(url: str) -> None:
    """Turns, answers to approvals and the end, asynchronously and not; another client continues with the same run."""
    async with replica(url, TALKER) as it, AgentClient(it.address) as client:
        async with client.conversation("talker") as chat:
            said = [event.text_delta.text async for event in chat.send("one")]
            assert "".join(said) == "1 one"
            reply = chat.send("delete it")
            async for event in reply:
                if event.HasField("run_suspended"):
                    await chat.answer([approve(event.run_suspended.pending[0].request_id)])
            assert reply.turn is not None
            assert (reply.turn.turn, reply.turn.output) == (2, "5 deleted")

        def go_on() -> tuple[list[str], list[object], list[object]]:
            with sync.AgentClient(it.address) as other, other.conversation(run_id=chat.run_id) as same:
                words = [event.text_delta.text for event in same.send("three")]
                turn = same.ask("four")
                same.end()
                events = list(other.watch(chat.run_id))
                return (
                    words,
                    [turn.output, fold(events).output],
                    [from_value(t.message) for t in other.list_turns(chat.run_id)],
                )

        words, outputs, messages = await asyncio.to_thread(go_on)
        assert "".join(words) == "7 three"
        assert outputs == ["9 four", "9 four"]
        assert messages == ["one", "delete it", "three", "four"]
        with pytest.raises(ConversationEnded):
            await client.send_message(chat.run_id, "five")
        plain = await client.start_run("talker", "one")
        with pytest.raises(NotAConversation):
            await client.send_message(plain.run_id, "two")


async def test_each_turn_asks_its_scorers_once(url: str) -> None:
    """In the commit of its end: with the message as input, its own output, steps and id; the run asks none more."""
    async with replica(url, TALKER) as it, AgentClient(it.address) as client:
        async with client.conversation("talker") as chat:
            for word in ("one", "two"):
                await chat.ask(word)
            await chat.end()
            await it.ended(chat.run_id)
        asked = []
        for delivery in await it.store.receive(QUEUE, consumer="t", limit=10, lease_seconds=60, wait_seconds=0):
            asked.append(scorer_run_requested_pb2.ScorerRunRequested.FromString(delivery.body))
    by_turn = {each.sample.turn: each for each in asked}
    assert sorted(by_turn) == [1, 2]
    assert len(asked) == 2
    for turn, (message, output, step) in {1: ("one", "1 one", 1), 2: ("two", "3 two", 2)}.items():
        each = by_turn[turn]
        assert each.scorer_run_id == scorer_run_id(TENANT, chat.run_id, "brevity", "", turn=turn)
        assert (from_value(each.sample.input), from_value(each.sample.output)) == (message, output)
        assert [(part.step, part.text) for part in each.sample.steps] == [(step, output)]


async def test_messages_from_many_at_once(url: str) -> None:
    """Senders that meet each other get numbers without a gap, and each message is consumed once, in that order."""

    async with replica(url, TALKER) as it, AgentClient(it.address) as client:
        run = await client.start_run("talker", "0", conversation=True)
        sends = [client.send_message(run.run_id, str(number), request_id=f"r{number % 20}") for number in range(20)]
        numbers = await asyncio.gather(*sends)
        assert sorted(numbers) == list(range(2, 22))
        await client.end_conversation(run.run_id)
        view = fold(await it.watched(run.run_id))
    assert [turn.message_number for turn in view.turns.values()] == list(range(1, 22))
    by_number = dict(zip(numbers, map(str, range(20)), strict=True))
    assert [turn.message for turn in view.turns.values()][1:] == [by_number[number] for number in range(2, 22)]


def slow_talk(hangs: asyncio.Event) -> Definition:
    """Collects messages, and hangs in its first attempt at "hang"."""

    @workflow(id="slow-talk")
    async def define(ctx: RunContext, input: str) -> str:
        said = input
        async for word in ctx.messages(str):
            if word == "hang" and not hangs.is_set():
                hangs.set()
                await asyncio.Event().wait()
            said += f" {word}"
        return said

    return define


async def until(it: Replica, run_id: str, turns: int) -> None:
    async with it.watch(run_id) as watch:
        await watch.until(lambda frame: any(_ends(event, turns) for event in frame.batch.events))


def _ends(event: run_event_pb2.RunEvent, turn: int) -> bool:
    return event.HasField("turn_finished") and event.turn == turn


@pytest.mark.parametrize("url", ["sqlite", "valkey"], indirect=True)
async def test_a_turn_goes_on_after_its_worker_died(url: str) -> None:
    """The turn under way is begun again by another worker, and ended once."""
    hangs = asyncio.Event()
    talk = slow_talk(hangs)
    async with replica(url, talk, role="serve") as it, AgentClient(it.address) as client:
        async with mortal_worker(url, talk):
            run = await client.start_run("slow-talk", "a", conversation=True)
            await until(it, run.run_id, 1)
            await client.send_message(run.run_id, "b")
            await until(it, run.run_id, 2)
            await client.send_message(run.run_id, "hang")
            async with asyncio.timeout(10):
                await hangs.wait()
        async with mortal_worker(url, talk):
            await client.end_conversation(run.run_id)
            view = fold(await it.watched(run.run_id))
    assert (view.output, len(view.turns)) == ("a b hang", 3)


async def test_the_first_turn_is_listed_while_it_waits(memory_url: str) -> None:
    """A conversation whose turn waits for an approval is SUSPENDED, and its turn is shown as it is."""
    async with replica(memory_url, TALKER) as it:
        run = await it.start("talker", "delete", conversation=run_pb2.Conversation())
        run = await it.suspended(run.run_id)
        assert (run.turn.turn, run.turn.state) == (1, run_pb2.RUN_STATE_RUNNING)
        turns = await it.stub.ListTurns(pb.ListTurnsRequest(run_id=run.run_id))
        assert [turn.message for turn in turns.turns] == [value("delete")]
        refusal = await refused(it.stub.SendMessage(pb.SendMessageRequest(run_id=run.run_id)))
        assert list(refusal.violations) == ["message"]


async def test_a_failed_run_is_retried(url: str) -> None:
    """On every engine: the step that was finished is not done again."""
    done: list[str] = []
    failures: list[str] = []

    async def work() -> str:
        done.append("work")
        return "worked"

    @workflow(id="clumsy")
    async def clumsy(ctx: RunContext, input: str) -> str:
        found = await ctx.step("work", work)
        if not failures:
            failures.append("x")
            raise RuntimeError("a bug")
        return found

    async with replica(url, clumsy) as it, AgentClient(it.address) as client:
        failed = (await client.start_run("clumsy", "x")).run_id
        assert (await it.ended(failed)).state == run_pb2.RUN_STATE_FAILED
        other = await client.fork_run(failed)
        run = await it.ended(other.run_id)
    assert (run.state, from_value(run.output), done) == (run_pb2.RUN_STATE_SUCCEEDED, "worked", ["work"])
    assert run.forked_from == failed


async def test_forks_on_every_engine(url: str) -> None:
    """A run that has succeeded, at a step, and a conversation, at a turn, by both clients: what is taken over is not
    done again, a repeat returns the same run, and both say where they came from."""
    done: list[str] = []

    async def work(word: str) -> str:
        done.append(word)
        return word

    @workflow(id="two-steps")
    async def two_steps(ctx: RunContext, input: str) -> list[str]:
        return [await ctx.step(name, work, f"{name} {input}") for name in ("first", "second")]

    async with replica(url, two_steps, TALKER) as it, AgentClient(it.address) as client:
        run = await client.start_run("two-steps", "x")
        await it.ended(run.run_id)
        other = await client.fork_run(run.run_id, step="second", message="y", request_id="once")
        assert (await client.fork_run(run.run_id, step="second", message="y", request_id="once")).run_id == other.run_id
        with pytest.raises(AlreadyExists):
            await client.fork_run(run.run_id, step="second", message="z", request_id="once")
        ended = await it.ended(other.run_id)
        assert from_value(ended.output) == ["first x", "second y"]
        assert done == ["first x", "second x", "second y"]
        assert (ended.forked_from, ended.forked_from_step) == (run.run_id, 3)
        async with client.conversation("talker") as chat:
            for word in ("one", "two", "three"):
                await chat.ask(word)
            assert await chat.under_way() is None
            fork = await chat.fork(3)
            assert (await fork.ask("drei")).output == "5 drei"

        def go_on() -> list[object]:
            with sync.AgentClient(it.address) as other, other.conversation(run_id=chat.run_id) as same:
                again = same.fork(2)
                return [again.ask("zwei").output, same.ask("four").output, other.get_run(again.run_id).forked_from_turn]

        assert await asyncio.to_thread(go_on) == ["3 zwei", "7 four", 2]


async def test_whoever_comes_back_reads_the_turn_under_way(memory_url: str) -> None:
    """From its beginning, by both clients, to its end."""
    async with replica(memory_url, TALKER) as it, AgentClient(it.address) as client:
        chat = client.conversation("talker")
        await chat.ask("one")
        await client.send_message(chat.run_id, "delete it")
        run = await it.suspended(chat.run_id)
        reply = await client.conversation(run_id=chat.run_id).under_way()
        assert reply is not None
        first = await anext(reply)
        assert (first.turn, from_value(first.turn_started.message)) == (2, "delete it")

        def come_back() -> object:
            with sync.AgentClient(it.address) as other:
                same = other.conversation(run_id=chat.run_id).under_way()
                assert same is not None
                assert next(same).turn == 2
                other.resume_run(chat.run_id, [approve(run.pending[0].request_id)])
                return same.result().output

        assert await asyncio.to_thread(come_back) == (await reply.result()).output == "5 deleted"
        plain = await client.start_run("talker", "one")
        with pytest.raises(NotAConversation):
            await client.conversation(run_id=plain.run_id).under_way()


async def test_a_conversation_is_scored_as_a_whole(url: str) -> None:
    """By those that want it so, once, when it has ended; their sample has every turn, and those of turns none."""
    asks = [ScorerRef("of-turns"), ScorerRef("of-all", whole_conversation=True)]
    agent = durable_agent(Agent(FunctionModel(stream_function=speak), name="asked"), scorers=asks)
    async with replica(url, agent) as it, AgentClient(it.address) as client:
        async with client.conversation("asked") as chat:
            for word in ("one", "two"):
                await chat.ask(word)
            await chat.end()
            await it.ended(chat.run_id)
        plain = await client.start_run("asked", "three")
        await it.ended(plain.run_id)
        deliveries = await it.store.receive(QUEUE, consumer="t", limit=10, lease_seconds=60, wait_seconds=0)
        asked = [scorer_run_requested_pb2.ScorerRunRequested.FromString(each.body) for each in deliveries]
        whole = [each for each in asked if each.sample.run_id == chat.run_id and each.scorer_id == "of-all"]
        assert sorted((each.sample.run_id == chat.run_id, each.scorer_id, each.sample.turn) for each in asked) == [
            (False, "of-all", 0),
            (False, "of-turns", 0),
            (True, "of-all", 0),
            (True, "of-turns", 1),
            (True, "of-turns", 2),
        ]
        assert len({each.scorer_run_id for each in asked}) == 5
        runs = Runs(max_fetched_bytes=1 << 20)
        runs.open(it.store)
        job = SimpleNamespace(tenant=TENANT, sample=whole[0].sample.SerializeToString())
        sample = from_wire(scorer_run_requested_pb2.Sample.FromString(await runs.fetch(cast(Job, job))))
    turns = [(turn.turn, turn.message, turn.output, turn.state) for turn in sample.turns]
    assert turns == [(1, "one", "1 one", "succeeded"), (2, "two", "3 two", "succeeded")]
    assert (sample.input, sample.output, sample.turn) == ("one", "3 two", 0)
    of_turn = next(each.sample for each in asked if each.sample.turn == 2)
    assert (from_wire(of_turn).turn, from_wire(of_turn).turns) == (2, [])
