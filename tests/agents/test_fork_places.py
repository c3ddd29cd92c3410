"""Forks at any step of a run that has ended, and at any turn of a conversation: what is taken over, and what is not."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf import duration_pb2
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import RunContext, config, durable_agent, workflow
from agent_service.agents.definition import Definition
from agent_service.agents.registry import Registry
from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.errors import CursorEpochMismatch, EventsLost, InvalidRequest, JournalGone, NotForkable
from runwire.fold import fold
from runwire.identity.principal import ANONYMOUS
from runwire.values import from_value, to_value
from tests.agents.stage import Stage
from tests.agents.test_conversations import Shortener, consistent, outputs, speaker, told
from tests.agents.test_forks import told as told_of_steps

SUCCEEDED, FAILED, WAITING = run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_WAITING


class Ledger(Counter[str]):
    """How often each thing was done."""

    def since(self, before: Counter[str]) -> Counter[str]:
        return Counter(self) - before


def walker(calls: list[int], done: Ledger) -> Definition:
    """An agent whose k-th request calls `calls[k - 1]` tools at once."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        step = 1 + sum(message.kind == "response" for message in messages)
        done[f"model {step}"] += 1
        yield f"step {step}. "
        if step <= len(calls):
            yield {
                n: DeltaToolCall("work", json_args=f'{{"what": "{step}.{n}"}}', tool_call_id=f"t{n}")
                for n in range(1, calls[step - 1] + 1)
            }

    agent = Agent(FunctionModel(stream_function=speak), name="walker")

    @agent.tool_plain
    async def work(what: str) -> str:
        done[f"tool {what}"] += 1
        await asyncio.sleep(0)
        return f"did {what}"

    return durable_agent(agent)


def weaver(widths: list[int], done: Ledger) -> Definition:
    """A workflow that does some steps at once, then some more, and talks between them."""

    async def work(what: str) -> str:
        done[f"step {what}"] += 1
        await asyncio.sleep(0)
        return f"did {what}"

    @workflow(id="weaver")
    async def weave(ctx: RunContext, input: str) -> list[str]:
        found: list[str] = []
        for row, width in enumerate(widths):
            await ctx.emit_text(f"row {row}. ")
            names = [f"{row}.{column}" for column in range(width)]
            found += (await ctx.gather(**{name: ctx.step(name, work, name) for name in names})).values()
        return found

    return weave


async def forked_at_random(chance: random.Random) -> None:
    """One run, and one fork of it."""
    done, shape = Ledger(), [chance.randint(1, 3) for _ in range(chance.randint(1, 6))]
    is_agent = chance.random() < 0.5
    stage = Stage(walker(shape, done) if is_agent else weaver(shape, done))
    before_view = await stage.finish("x")
    assert before_view.state == SUCCEEDED
    last = max(before_view.steps)
    step = chance.randint(1, last)
    before = Counter(done)
    other = await stage.fork(step=step, message=chance.choice([None, "another input"]))
    if chance.random() < 0.3:
        await other.attempt(die_after=chance.randint(1, 3))
    await other.settle_after_death()
    run, view = await other.run(), await other.view()
    assert (run.state, view.output) == (SUCCEEDED, before_view.output)
    assert (run.forked_from, run.forked_from_step) == (stage.run_id, step)
    first = 1 if is_agent else 2
    names = {number: each.name for number, each in before_view.steps.items()}
    kept = [f"model {n}" if is_agent else f"step {names[n]}" for n in range(first, step)]
    assert not [name for name in done.since(before) if name in kept or _is_of(name, step)]
    prefix = [event for event in await stage.events() if event.step >= first]
    copied = [event for event in await other.events() if event.step >= first]
    assert told_of_steps(copied, step - 1) == told_of_steps(prefix, step - 1)
    begun = [event.sequence for event in await stage.events() if event.step == step and event.HasField("step_started")]
    assert run.forked_from_sequence == begun[0] - 1


def _is_of(name: str, step: int) -> bool:
    return name.startswith("tool ") and int(name[5:].partition(".")[0]) < step


@pytest.mark.parametrize("seed", range(12))
async def test_a_fork_at_a_random_step(seed: int) -> None:
    """Runs of many shapes, forked anywhere, by workers that may die meanwhile: no finished step before the place is
    done again, and the log begins with what was told of them."""
    await forked_at_random(random.Random(seed))


@pytest.mark.chaos
async def test_two_hundred_forks() -> None:
    """As above, 200 times."""
    for seed in range(200):
        await forked_at_random(random.Random(1000 + seed))


async def test_the_first_attempt_of_a_fork_dies_anywhere() -> None:
    """Whichever commit it dies with, the log of the fork tells what was taken over once."""
    expected: object = None
    for number in range(60):
        done = Ledger()
        stage = Stage(walker([2, 1, 2], done))
        await stage.finish("x")
        other = await stage.fork(step=4)
        died = await other.attempt(die_after=number or None)
        await other.settle_after_death()
        said = (
            [(event.step, event.WhichOneof("payload")) for event in await other.events() if 0 < event.step < 4],
            fold(await other.events()).output,
        )
        expected = expected or said
        assert said == expected, number
        if number and not died:
            break
    assert number > 3


@workflow(id="asks-twice")
async def asks_twice(ctx: RunContext, input: str) -> list[Any]:
    """Asks, works, asks again, works again."""
    first = await ctx.suspend("first")
    one = await ctx.step("one", echo, f"one {first}")
    await ctx.sleep(5, name="pause")
    second = await ctx.suspend("second")
    two = await ctx.step("two", echo, f"two {second}")
    return [one, two]


async def echo(word: str) -> str:
    return word


async def answered(stage: Stage, **words: str) -> None:
    """Answers whatever the run waits for, until it waits for nothing more."""
    while (await stage.run()).state != SUCCEEDED:
        while await stage.is_due():
            await stage.attempt()
        run = await stage.run()
        for request in run.pending:
            if request.kind == run_pb2.PENDING_KIND_TIME:
                stage.clock.seconds += 10
            else:
                data = to_value(words.pop(request.name))
                await stage.resume(run_event_pb2.Answer(request_id=request.request_id, data=data))
    assert not words


async def test_answers_before_the_place_are_taken_over() -> None:
    """What was answered before the step is not asked again, and what was asked after it is, also by its name."""
    stage = Stage(asks_twice)
    await stage.start("x")
    await answered(stage, first="a", second="b")
    early = await stage.fork(step_name="one")
    await answered(early, second="c")
    assert (await early.view()).output == ["one a", "two c"]
    late = await stage.fork(step_name="two")
    await answered(late)
    assert (await late.view()).output == ["one a", "two b"]
    again = await stage.fork(step=1)
    await answered(again, first="d", second="e")
    assert (await again.view()).output == ["one d", "two e"]


async def test_a_fork_of_a_fork() -> None:
    """Is as one of the run itself: what is taken over twice is not done either."""
    done = Ledger()
    stage = Stage(walker([1, 1, 1], done))
    await stage.finish("x")
    other = await stage.fork(step=4)
    await other.attempt()
    third = await other.fork(step=3)
    before = Counter(done)
    await third.attempt()
    assert (await third.view()).output == "step 4. "
    assert sorted(done.since(before)) == ["model 3", "model 4", "tool 3.1"]
    assert (await third.run()).forked_from == other.run_id


async def test_another_agent_continues() -> None:
    """One of the same kind, such as the same with another model; one of another kind does not."""
    done = Ledger()
    stage = Stage(walker([1, 1], done))
    await stage.finish("x")

    async def blunt(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield f"enough after {len(messages)}"

    other = durable_agent(Agent(FunctionModel(stream_function=blunt), name="blunt"))
    stage.registry = Registry([stage.definition, other, asks_twice])
    with pytest.raises(InvalidRequest, match="kind"):
        await stage.fork(step=2, agent_id="asks-twice")
    fork = await stage.fork(step=2, agent_id="blunt")
    fork.definition = other
    await fork.attempt()
    assert (await fork.view()).output == "enough after 3"
    assert (await fork.run()).agent_id == "blunt"


async def test_places_that_do_not_exist() -> None:
    """Are named, with what there is; so is a place of a run of the other kind."""
    stage = Stage(walker([1, 1], Ledger()))
    await stage.finish("x")
    with pytest.raises(NotForkable, match="name the step"):
        await stage.fork()
    for at, problem in (
        ({"step": 4}, "1 to 3"),
        ({"step": 0}, "1 to 3"),
        ({"step": -1}, "1 to 3"),
        ({"step_name": "model"}, "3 steps"),
        ({"step_name": "none"}, "0 steps"),
        ({"turn": 1}, "no conversation"),
        ({"step": 1, "wait": True}, "wait"),
        ({"step": 1, "message": {"no": "prompt"}}, "message"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            await stage.fork(**at)
    await stage.converse("1")
    await stage.settle()
    for at, problem in (
        ({"turn": 3}, "1 turns"),
        ({"turn": 0}, "1 turns"),
        ({"step": 1}, "at a turn"),
        ({"step_name": "x"}, "at a turn"),
        ({"turn": 1, "wait": True}, "begins with a message"),
        ({"turn": 1, "wait": True, "message": "x"}, "wait"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            await stage.fork(**at)


async def test_what_is_not_kept_any_more() -> None:
    """After `fork_retention`, or where there is none, a fork that needs the journal is refused with a reason; one that
    takes nothing over is not."""
    for seconds in (0.0, 100.0):
        stage = Stage(walker([1, 1], Ledger()))
        stage.settings = config.load(max_losses=1000, fork_retention_seconds=seconds)
        await stage.finish("x")
        if seconds:
            await (await stage.fork(step=2)).attempt()
        kept = [name for name in stage.store._topics[stage.topic].fields if name.startswith("journal/")]
        assert bool(kept) == bool(seconds)
        stage.clock.seconds += 101
        with pytest.raises(JournalGone):
            await stage.fork(step=2)
        again = await stage.fork(step=1)
        await again.attempt()
        assert (await again.run()).state == SUCCEEDED


async def test_a_run_of_before_kept_no_journal() -> None:
    """A run whose journal went with its end (an older version's, or while none was kept) is refused, and not executed
    with what is missing done again."""
    stage = Stage(walker([1, 1], Ledger()))
    stage.settings = config.load(max_losses=1000, fork_retention_seconds=0)
    await stage.finish("x")
    stage.settings = config.load(max_losses=1000)
    with pytest.raises(JournalGone, match="step 1"):
        await stage.fork(step=3)


# Conversations


async def talked(*words: tuple[str, str], **options: Any) -> Stage:
    """A conversation with these messages, each sent once the turn before is done, but what steers and interrupts."""
    stage = Stage(speaker(**options))
    await stage.converse(words[0][0])
    for word, mode in words[1:]:
        if mode == "QUEUE":
            await stage.settle()
        await stage.send(word, mode)
    await stage.settle()
    return stage


WORDS = [("one", "QUEUE"), ("look two", "QUEUE"), ("at once", "STEER"), ("three", "QUEUE"), ("stop", "INTERRUPT")]


async def test_a_conversation_is_forked_at_every_turn() -> None:
    """The fork has the turns before, told as they were and listed, remembers them, answers the message of the turn
    again or another one, and continues from there; the other stays as it is."""
    stage = await talked(*WORDS, ("five", "QUEUE"))
    before = list(await stage.events())
    turns = (await stage.run()).turn.turn
    whole = outputs(await consistent(stage))
    for turn in range(1, turns + 1):
        for message in (None, "otherwise"):
            other = await stage.fork(turn=turn, message=message)
            await other.settle()
            view = await consistent(other)
            assert outputs(view)[: turn - 1] == whole[: turn - 1]
            said = message or before_message(before, turn)
            assert str(outputs(view)[turn - 1]).endswith(said), (turn, view.turns[turn])
            if message is None and turn > 1 and stage_succeeded(before, turn):
                assert outputs(view)[turn - 1] == whole[turn - 1]
            events = await other.events()
            last = (await other.run()).forked_from_sequence
            assert payloads(events, turn) == payloads([e for e in before if e.sequence <= last], turn)
            await other.send("and then")
            await other.settle()
            assert str(outputs(await consistent(other))[turn]).endswith(f"{said}, and then")
            assert [each.turn for each in await listed(other)] == list(range(1, turn + 2))
            assert [from_value(each.message) for each in await listed(other)][turn - 1] == said
    assert list(await stage.events()) == before


def payloads(events: list[run_event_pb2.RunEvent] | Any, turn: int) -> list[bytes]:
    """What is told of the turns before this one, without what depends on when and by whom."""
    found = []
    for event in events:
        if 0 < event.turn < turn:
            bare = run_event_pb2.RunEvent()
            bare.CopyFrom(event)
            bare.ClearField("create_time")
            bare.ClearField("attempt")
            found.append(bare.SerializeToString(deterministic=True))
    return found


def before_message(events: list[run_event_pb2.RunEvent], turn: int) -> str:
    [started] = [e.turn_started for e in events if e.HasField("turn_started") and e.turn == turn]
    return started.message.string_value


def stage_succeeded(events: list[run_event_pb2.RunEvent], turn: int) -> bool:
    [end] = [e.turn_finished for e in events if e.HasField("turn_finished") and e.turn == turn]
    received = [e for e in events if e.HasField("message_received") and e.turn == turn]
    return end.state == SUCCEEDED and not received


async def listed(stage: Stage) -> list[run_pb2.Turn]:
    request = agent_service_pb2.ListTurnsRequest(run_id=stage.run_id)
    return list((await stage.conversations.turns(ANONYMOUS, request)).turns)


async def test_a_conversation_is_forked_where_it_is() -> None:
    """After its last turn, open or ended: the fork waits for a message, with all turns before; `wait` does so at an
    earlier turn."""
    for end in (False, True):
        stage = await talked(("one", "QUEUE"), ("two", "QUEUE"))
        if end:
            await stage.conversations.end(ANONYMOUS, stage.run_id)
            await stage.settle()
        other = await stage.fork()
        await other.settle()
        run = await other.run()
        assert (run.state, run.turn.turn, run.usage.requests) == (WAITING, 2, 2)
        assert await other.send("three") == 3
        await other.settle()
        assert outputs(await consistent(other))[2] == "heard one, two, three"
        earlier = await stage.fork(turn=2, wait=True)
        await earlier.settle()
        assert (await earlier.run()).state == WAITING
        assert await earlier.send("zwei") == 2
        await earlier.settle()
        assert outputs(await consistent(earlier))[1] == "heard one, zwei"


@pytest.mark.parametrize("problem", [EventsLost("it was purged"), CursorEpochMismatch("it was begun anew")])
async def test_a_source_that_goes_while_it_is_told(problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork goes on from its journal where the log of its source is purged between two pages of it."""
    stage = await talked(("one", "QUEUE"), ("two", "QUEUE"))
    other = await stage.fork()
    read = other.log.get_history

    async def lost(topic: str, *args: Any, **bounds: Any) -> Any:
        if topic == stage.topic:
            raise problem
        return await read(topic, *args, **bounds)

    monkeypatch.setattr(other.log, "get_history", lost)
    await other.settle()
    assert (await other.run()).state == WAITING
    assert await other.send("three") == 3
    await other.settle()
    assert from_value((await other.run()).output) == "heard one, two, three"


async def test_killed_at_every_commit_of_a_forked_conversation() -> None:
    """Whichever commit its worker dies with, readers see each turn begun and ended once."""
    expected: object = None
    for number in range(40):
        stage = await talked(("one", "QUEUE"), ("look two", "QUEUE"), ("three", "QUEUE"))
        other = await stage.fork(turn=3)
        died = await other.attempt(die_after=number or None)
        await other.settle_after_death()
        said = (outputs(await consistent(other)), (await other.run()).usage.requests)
        expected = expected or said
        assert said == expected, number
        if number and not died:
            break
    assert number > 1


async def test_a_fork_before_a_compaction() -> None:
    """Remembers what the agent remembered then, and not what was compacted later; one after it, what was compacted."""
    words = [("one" + "x" * 4000, "QUEUE"), ("two", "QUEUE"), ("three", "QUEUE")]
    stage = await talked(*words, history_bytes=5000, compact=Shortener())
    assert told(await stage.view(), "compacted")
    late = await stage.fork(message="four")
    early = await stage.fork(turn=2, message="due")
    for other in (late, early):
        await other.settle()
    assert str(outputs(await consistent(late))[3]).endswith("(onexxx), two, three, four")
    assert outputs(await consistent(early))[1] == "heard (onexxx), due"


async def test_turns_that_are_not_kept() -> None:
    """A fork at a turn of which nothing is kept any more is refused with a reason."""
    stage = Stage(speaker(history_bytes=1024))
    stage.settings = config.load(max_losses=1000, fork_retention_seconds=0)
    await stage.converse("1")
    for number in range(2, 9):
        await stage.settle()
        await stage.send(str(number))
    await stage.settle()
    with pytest.raises(JournalGone):
        await stage.fork(turn=3)
    await stage.fork()  # what counts now is there
    await stage.conversations.end(ANONYMOUS, stage.run_id)
    await stage.settle()
    stage.clock.seconds += 1
    with pytest.raises(JournalGone, match="ended"):
        await stage.fork()


async def test_an_old_conversation_is_not_over_at_once() -> None:
    """The idle time of a fork begins with the fork."""
    stage = Stage(speaker())
    await stage.converse("one", idle_timeout=duration_pb2.Duration(seconds=3600))
    await stage.settle()
    stage.clock.seconds += 3500
    other = await stage.fork()
    stage.clock.seconds += 600
    await other.settle()
    assert (await other.run()).state == WAITING
    stage.clock.seconds += 3601
    await other.settle()
    assert (await other.run()).state == SUCCEEDED


@workflow(id="remembers")
async def remembers(ctx: RunContext, input: str) -> list[str]:
    """Notes what it is told, and asks whether it may."""
    notes = [input]
    notes.append(await ctx.suspend("may I"))
    async for message in ctx.messages(str):
        notes.append(await ctx.step(f"note {len(notes)}", echo, message))
        await ctx.emit_text(f"noted {message}. ")
    return notes


async def test_a_workflow_that_talks_is_forked() -> None:
    """Its steps and answers of earlier turns are taken over, those of later turns are not."""
    stage = Stage(remembers)
    await stage.converse("a")
    await stage.settle()
    await stage.resume(run_event_pb2.Answer(request_id="suspend/may I", data=to_value("yes")))
    for word in ("b", "c", "d"):
        await stage.settle()
        await stage.send(word)
    await stage.settle()
    assert (await stage.run()).state == WAITING
    other = await stage.fork(turn=3, message="C")
    await other.settle()
    await other.send("D")
    await other.settle()
    for each in (stage, other):
        await each.conversations.end(ANONYMOUS, each.run_id)
        await each.settle()
    assert (await consistent(stage)).output == ["a", "yes", "b", "c", "d"]
    view = await consistent(other)
    assert view.output == ["a", "yes", "b", "C", "D"]
    assert [turn.text for turn in view.turns.values()][1:] == ["noted b. ", "noted C. ", "noted D. "]
