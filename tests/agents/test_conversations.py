"""Conversations: turns, messages in all modes, what is remembered, and death at every commit."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import RunContext, config, durable_agent, workflow
from agent_service.agents.definition import Definition
from agent_service.log import inbox
from agent_service.log.inbox import acceptance
from agent_service.log.remembered import REMEMBERED, Recollections, Remembered, base_field, history_field
from runwire.agent.v1 import agent_service_pb2, run_pb2
from runwire.errors import AlreadyExists, ConversationEnded, Fenced, FieldExists, InvalidRequest, NotAConversation
from runwire.fold import RunView, fold
from tests.agents.stage import ANONYMOUS, Stage

SUCCEEDED, FAILED, CANCELLED = run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED
WAITING = run_pb2.RUN_STATE_WAITING

Spoken = AsyncIterator[str | dict[int, DeltaToolCall]]


def prompts(messages: list[ModelMessage]) -> list[str]:
    """All that people have said, as the model sees it."""
    parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
    return [str(part.content) for part in parts if isinstance(part, UserPromptPart)]


def speaker(on_tool: Callable[[str], Any] = lambda word: None, name: str = "speaker", **options: Any) -> Definition:
    """Says what it has heard so far; `look WORD` calls a tool first, `fail` fails."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> Spoken:
        heard = prompts(messages)
        last = messages[-1]
        returned = isinstance(last, ModelRequest) and any(part.part_kind == "tool-return" for part in last.parts)
        if heard[-1] == "fail":
            raise RuntimeError("the model is gone")
        if heard[-1].startswith("look") and not returned:
            yield "let me see. "
            yield {1: DeltaToolCall("look", json_args=f'{{"word": "{heard[-1][5:]}"}}', tool_call_id="t")}
        else:
            yield "heard "
            yield ", ".join(heard)

    agent = Agent(FunctionModel(stream_function=speak), name=name)

    @agent.tool_plain
    async def look(word: str) -> str:
        found = on_tool(word)
        return str(await found if asyncio.iscoroutine(found) else found)

    return durable_agent(agent, **options)


def outputs(view: RunView) -> list[Any]:
    return [turn.output for _, turn in sorted(view.turns.items())]


async def consistent(stage: Stage) -> RunView:
    """The view of the log, after what holds of every conversation: each turn begun, ended once, in order; each message
    consumed once, in order; every event of a turn between its beginning and its end."""
    events = await stage.events()
    kinds = Counter((event.WhichOneof("payload"), event.turn) for event in events)
    consumed = []
    turn = 0
    for event in events:
        payload = event.WhichOneof("payload")
        if payload == "turn_started":
            assert turn in (0, event.turn), "one at a time"
            turn = event.turn
            consumed.append(event.turn_started.message_number)
        elif payload == "message_received":
            consumed.append(event.message_received.message_number)
        if payload not in ("run_started", "run_finished") and event.step:
            assert event.turn == turn > 0, event
        if payload == "turn_finished":
            assert (event.turn, kinds[payload, turn]) == (turn, 1)
            turn = 0
    assert turn == 0
    assert consumed == list(range(1, len(consumed) + 1))
    return fold(events)


async def test_turns_follow_each_other_and_remember() -> None:
    """A run that is a conversation waits after each turn, and the model is given what was said in those before."""
    stage = Stage(speaker())
    await stage.converse("one")
    await stage.settle()
    run = await stage.run()
    assert (run.state, run.turn.turn, run.turn.state, run.attempts[-1].outcome) == (WAITING, 1, SUCCEEDED, "waiting")
    assert await stage.send("two") == 2
    await stage.settle()
    assert await stage.send("three") == 3
    assert await stage.send("four") == 4
    await stage.settle()
    view = await consistent(stage)
    assert outputs(view) == ["heard one", "heard one, two", "heard one, two, three", "heard one, two, three, four"]
    assert view.state == WAITING
    assert [turn.text for turn in view.turns.values()] == outputs(view)
    run = await stage.run()
    assert (run.turn.turn, run.usage.requests, run.turn.usage.requests) == (4, 4, 1)


async def test_a_failed_turn_ends_no_conversation() -> None:
    """What fails is the turn; the next message is answered, and knows of it."""
    stage = Stage(speaker())
    await stage.converse("fail")
    await stage.settle()
    assert (await stage.run()).turn.error.reason == "agent_error"
    await stage.send("again")
    await stage.settle()
    view = await consistent(stage)
    assert [turn.state for turn in view.turns.values()] == [FAILED, SUCCEEDED]
    assert outputs(view)[1] == "heard fail, again"


async def test_a_message_steers_the_turn_under_way() -> None:
    """A message that steers is given to the model with the next request of the same turn."""

    async def steer(word: str) -> str:
        await stage.send("and this", "STEER")
        return word

    stage = Stage(speaker(steer))
    await stage.converse("look here")
    await stage.settle()
    view = await consistent(stage)
    assert outputs(view) == ["heard look here, and this"]
    assert view.turns[1].received == [(2, "and this")]
    await stage.send("next")
    await stage.settle()
    assert outputs(await consistent(stage))[1] == "heard look here, and this, next"


async def test_a_message_that_comes_too_late_to_steer_begins_a_turn() -> None:
    """One that finds no further request of its turn, or nobody at work, is answered all the same."""
    stage = Stage(speaker())
    await stage.converse("one")
    await stage.settle()
    await stage.send("two", "STEER")
    await stage.settle()
    assert outputs(await consistent(stage)) == ["heard one", "heard one, two"]


async def test_order_is_that_of_acceptance() -> None:
    """A message that steers does not overtake one that waits: it steers the turn of that one."""

    async def say_both(word: str) -> str:
        if word == "here":
            await stage.send("look there")
            await stage.send("quickly", "STEER")
        return word

    stage = Stage(speaker(say_both))
    await stage.converse("look here")
    await stage.settle()
    view = await consistent(stage)
    assert [turn.received for turn in view.turns.values()] == [[], [(3, "quickly")]]


async def test_an_interrupt_cancels_what_came_before_it() -> None:
    """The turn under way is cancelled and keeps what was said, turns of messages that wait are not executed, and the
    message that interrupts is answered."""
    looking = asyncio.Event()

    async def look_for_ever(word: str) -> str:
        looking.set()
        await asyncio.Event().wait()
        return word

    stage = Stage(speaker(look_for_ever))
    await stage.converse("look here")
    async with asyncio.TaskGroup() as group:
        attempt = group.create_task(stage.attempt())
        await looking.wait()
        await stage.send("waits")
        await stage.send("stop", "INTERRUPT")
        assert stage.execution is not None
        stage.execution._woken.set()
        await attempt
    await stage.settle()
    view = await consistent(stage)
    assert [turn.state for turn in view.turns.values()] == [CANCELLED, CANCELLED, SUCCEEDED]
    assert outputs(view)[0] == "let me see. "
    assert "look here" in str(outputs(view)[2])
    assert str(outputs(view)[2]).endswith("stop")


async def test_a_message_is_accepted_once() -> None:
    """A request id makes a repetition return the same number; another message under it is refused."""
    stage = Stage(speaker())
    await stage.converse("one")
    numbers = [await stage.send("two", request_id="a"), await stage.send("two", request_id="a")]
    await stage.settle()
    numbers.append(await stage.send("two", request_id="a"))
    assert numbers == [2, 2, 2]
    with pytest.raises(AlreadyExists):
        await stage.send("three", request_id="a")
    await stage.settle()
    assert len((await consistent(stage)).turns) == 2


async def test_a_late_sender_takes_no_number_twice() -> None:
    """Whoever read the inbox before a message was accepted, consumed and forgotten is refused by the store."""
    stage = Stage(speaker())
    await stage.converse("one")
    await stage.settle()
    stored = await stage.store.get(stage.topic)
    assert stored is not None
    accepted = inbox.Accepted.of(stored.fields)
    for word in ("two", "three"):
        await stage.send(word)
        await stage.settle()
    late = inbox.Message(2, run_pb2.MESSAGE_MODE_QUEUE, inbox.Message.unpack(2, b"\x01").value)
    with pytest.raises((Fenced, FieldExists)):
        await stage.store.commit(acceptance(stage.topic, stored.head.attempt, accepted, late))


async def test_the_end_is_a_message() -> None:
    """What was accepted before the end is answered, and nothing is accepted after it."""
    stage = Stage(speaker())
    await stage.converse("one")
    await stage.send("two")
    for _ in range(2):
        await stage.conversations.end(ANONYMOUS, stage.run_id)
    with pytest.raises(ConversationEnded):
        await stage.send("three")
    await stage.settle()
    view = await consistent(stage)
    assert (view.state, view.output, len(view.turns)) == (SUCCEEDED, "heard one, two", 2)
    await stage.conversations.end(ANONYMOUS, stage.run_id)


async def test_an_idle_conversation_ends() -> None:
    """After its idle time-out, and not before."""
    stage = Stage(speaker())
    await stage.converse("one", idle_timeout=duration_pb2.Duration(seconds=3600))
    await stage.settle()
    assert not await stage.is_due()
    await stage.send("two")
    await stage.settle()
    stage.clock.seconds += 3601
    await stage.settle()
    view = await consistent(stage)
    assert (view.state, view.output) == (SUCCEEDED, "heard one, two")


async def test_cancelled_between_and_within_turns() -> None:
    """CancelRun ends the turn, once, and the run."""
    for word in ("one", "look here"):
        stage = Stage(speaker(lambda word: stage.runs.cancel(ANONYMOUS, stage.run_id, "enough")))  # noqa: B023
        await stage.converse(word)
        await stage.settle()
        await stage.runs.cancel(ANONYMOUS, stage.run_id, "enough")
        await stage.settle()
        view = await consistent(stage)
        assert view.state == CANCELLED
        with pytest.raises(ConversationEnded):
            await stage.send("more")


async def test_what_is_no_conversation_takes_no_message() -> None:
    """Nor does a conversation take what does not fit its agent."""
    stage = Stage(speaker())
    await stage.start("one")
    with pytest.raises(NotAConversation):
        await stage.send("two")
    with pytest.raises(NotAConversation):
        await stage.conversations.end(ANONYMOUS, stage.run_id)
    await stage.converse("one")
    with pytest.raises(InvalidRequest, match="message"):
        await stage.send({"not": "a prompt"})


async def test_turns_are_listed_in_pages() -> None:
    """With their messages and outputs, oldest first."""
    stage = Stage(speaker())
    await stage.converse("1")
    for number in range(2, 8):
        await stage.send(str(number))
    await stage.settle()
    request = agent_service_pb2.ListTurnsRequest(run_id=stage.run_id, page_size=3)
    found: list[run_pb2.Turn] = []
    while True:
        page = await stage.conversations.turns(ANONYMOUS, request)
        found += page.turns
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert [turn.message.string_value for turn in found] == [str(number) for number in range(1, 8)]
    assert found[6].output.string_value == "heard 1, 2, 3, 4, 5, 6, 7"
    assert all(turn.state == SUCCEEDED and turn.usage.requests == 1 for turn in found)


def told(view: RunView, kind: str) -> list[Any]:
    """What events of Runwire's own say of the history."""
    return [custom.data for custom in view.custom if custom.type == f"runwire.history_{kind}"]


async def test_what_is_remembered_is_bounded() -> None:
    """The oldest turns are forgotten first, until half of the bound is left, and an event says so."""
    stage = Stage(speaker(history_bytes=20_000))
    await stage.converse("x" * 9000)
    await stage.settle()
    for word in ("two", "three", "four"):
        await stage.send(word)
        await stage.settle()
    view = await consistent(stage)
    assert told(view, "forgotten") == [{"first_turn": 1, "last_turn": 2}]
    assert outputs(view)[3] == "heard three, four"


async def test_a_turn_that_is_too_large_to_remember() -> None:
    """Leaves what was asked and said, or nothing: what a conversation keeps is bounded whatever its tools return."""
    stage = Stage(speaker(lambda word: "y" * 700_000 * int(word), history_bytes=1024 * 1024))
    await stage.converse("look 2")
    for word in ("look 1", "three"):
        await stage.send(word)
    await stage.settle()
    assert outputs(await consistent(stage))[2] == "heard look 2, look 1, three"


class Shortener:
    """Makes one message of all, and counts how often it did."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, messages: list[ModelMessage]) -> list[ModelMessage]:
        self.times += 1
        heard = " + ".join(word[:6] for word in prompts(messages))
        return [ModelRequest(parts=[UserPromptPart(content=f"({heard})")])]


async def test_history_is_compacted_by_the_agents_function() -> None:
    """What it returned stands in the place of all that came before, and is compacted again in its turn."""
    shorten = Shortener()
    stage = Stage(speaker(history_bytes=5000, compact=shorten))
    await stage.converse("one" + "x" * 4000)
    for word in ("two", "three" + "y" * 4000, "four"):
        await stage.send(word)
    await stage.settle()
    view = await consistent(stage)
    assert [said["last_turn"] for said in told(view, "compacted")] == [1, 3]
    assert outputs(view)[1] == "heard (onexxx), two"
    assert outputs(view)[3] == "heard ((onexx + two + threey), four"
    assert shorten.times == 2


async def test_killed_at_every_commit_of_a_compaction() -> None:
    """Whichever commit the worker dies with: the function's result counts once it is stored, and is the same for all
    that follows; an attempt that died before stored nothing of it."""
    expected: list[Any] | None = None
    for number in range(60):
        shorten = Shortener()
        stage, died = await said_and_killed(
            speaker(history_bytes=1500, compact=shorten), number, [("two", "QUEUE"), ("look three", "QUEUE")]
        )
        view = await consistent(stage)
        said = [*outputs(view), [each["last_turn"] for each in told(view, "compacted")]]
        expected = expected or said
        assert said == expected, number
        assert shorten.times <= len(told(view, "compacted")) + (1 if died else 0)
        if number and not died:
            break
    assert number > 15
    assert expected is not None
    assert expected[-1]


async def test_another_agent_makes_the_summary() -> None:
    """What compacts may ask a model of its own; that is no step of the conversation's."""

    async def sum_up(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield f"summary of {len(messages)}"

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart(content=f"summary of {len(messages)}")])

    summarizer = Agent(FunctionModel(answer, stream_function=sum_up), name="summarizer")

    async def compact(messages: list[ModelMessage]) -> list[ModelMessage]:
        summary = await summarizer.run("Sum up.", message_history=messages)
        return [ModelRequest(parts=[UserPromptPart(content=summary.output)])]

    stage = Stage(speaker(history_bytes=2000, compact=compact))
    await stage.converse("one" + "x" * 2000)
    await stage.send("two")
    await stage.settle()
    view = await consistent(stage)
    assert outputs(view)[1] == "heard summary of 3, two"
    assert [turn.usage.requests for turn in view.turns.values()] == [1, 1]


async def test_a_compaction_that_fails_loses_nothing() -> None:
    """It is told, all is kept, and it is tried again in the next turn."""

    async def fail(messages: list[ModelMessage]) -> list[ModelMessage]:
        raise RuntimeError("no summary today, password=hunter2")

    async def confuse(messages: list[ModelMessage]) -> list[ModelMessage]:
        return "nonsense"  # type: ignore[return-value]

    for compact in (fail, confuse):
        stage = Stage(speaker(history_bytes=2000, compact=compact))
        await stage.converse("one" * 1000)
        for word in ("two", "three"):
            await stage.send(word)
        await stage.settle()
        view = await consistent(stage)
        assert str(outputs(view)[2]).endswith("two, three")
        assert len(told(view, "not_compacted")) == 2
        assert "hunter2" not in str(told(view, "not_compacted"))


async def test_what_a_worker_has_in_memory_is_what_is_stored() -> None:
    """A worker that keeps earlier turns in memory reads only those that others did, and says the same as one that reads
    them all; one that has too little room for them reads them."""
    said = {}
    for name, room in (("none", None), ("all", 1 << 20), ("little", 3000)):
        stage = Stage(speaker(history_bytes=4000))
        mine = Recollections(room) if room is not None else None
        await stage.converse("1")
        for number in range(2, 30):
            stage.known = mine if number % 3 else None
            await stage.settle()
            await stage.send(f"look {number}" if number % 5 == 0 else str(number))
        await stage.settle()
        said[name] = outputs(await consistent(stage))
        assert mine is None or mine._size <= (room or 0)
    assert said["none"] == said["all"] == said["little"]


async def test_a_memory_of_another_log_is_not_believed() -> None:
    """A worker's memory that is not what the store has (of a log that was rolled back) is read again."""
    stage = Stage(speaker())
    stage.known = Recollections(1 << 20)
    await stage.converse("one")
    await stage.settle()
    state, parts = stage.known.get(stage.topic) or (None, ())
    assert state is not None
    other = parts[0][1].replace(b"one", b"uno")
    stage.known.put(stage.topic, type(state)().and_turn(1, other), [(1, other)])
    await stage.send("two")
    await stage.settle()
    assert outputs(await consistent(stage))[1] == "heard one, two"


async def test_what_is_remembered_and_gone_is_told() -> None:
    """A store that has lost a turn's part: the run fails and says so, and does not continue with a part of it."""
    stage = Stage(speaker())
    await stage.converse("one")
    await stage.settle()
    del stage.store._topics[stage.topic].fields[history_field(1)]
    await stage.send("two")
    await stage.settle()
    run = await stage.run()
    assert (run.state, run.error.reason) == (FAILED, "events_lost")


async def test_a_claim_is_no_larger_in_later_turns() -> None:
    """What a claim brings does not grow with the turns, their history and the request ids of their messages."""
    stage = Stage(speaker())
    await stage.converse("1")
    sizes = []
    for number in range(2, 40):
        await stage.settle()
        stored = await stage.store.get(stage.topic)
        assert stored is not None
        sizes.append(sum(map(len, stored.fields.values())))
        await stage.send("again", request_id=str(number))
    # Numbers in it are written with more digits, and up to 50 attempts are kept of a run.
    growth = (sizes[-1] - sizes[8]) / (len(sizes) - 9)
    assert growth < 150, sizes


async def test_request_ids_are_remembered_for_so_many_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not longer: what remembers them does not grow."""
    monkeypatch.setattr(inbox, "MAX_SENT", 3)
    stage = Stage(speaker())
    await stage.converse("1")
    for number in range(2, 8):
        assert await stage.send(str(number), request_id=str(number)) == number
        await stage.settle()
    assert [await stage.send(str(number), request_id=str(number)) for number in (5, 6, 7)] == [5, 6, 7]
    kept = [name for name in stage.store._topics[stage.topic].fields if name.startswith(inbox.SENT)]
    assert len(kept) == 3


async def test_parts_that_count_no_more_go_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay for forks within a bound, and not at all where there are to be none; the sizes stay true."""
    monkeypatch.setattr("agent_service.log.remembered.MAX_KEPT_BYTES", 6000)
    for seconds in (86_400.0, 0.0):
        stage = Stage(speaker(history_bytes=2000, compact=Shortener() if seconds else None))
        stage.settings = config.load(max_losses=1000, fork_retention_seconds=seconds)
        await stage.converse("1")
        for number in range(2, 40):
            await stage.settle()
            await stage.send(str(number))
        await stage.settle()
        fields = stage.store._topics[stage.topic].fields
        state = Remembered.unpack(fields[REMEMBERED])
        parts = {n: fields[history_field(n)] for n in range(1, 41) if history_field(n) in fields}
        assert list(parts) == list(range(state.kept, 40))
        assert sum(map(len, parts.values())) - 57 * len(parts) == state.kept_bytes < 8000
        assert [n for n in range(1, state.kept) if base_field(n) in fields] == []
        assert (state.kept == state.first) == (not seconds)


@workflow(id="listens")
async def listens(ctx: RunContext, input: str) -> list[str]:
    """Collects what it is told."""
    heard = [input]
    await ctx.emit_text(f"first {input}")
    async for message in ctx.messages(str):
        heard.append(await ctx.step(f"keep {len(heard)}", keep, message))
        await ctx.emit_text(f"then {message}")
    return heard


async def keep(word: str) -> str:
    return word.upper()


async def test_a_workflow_receives() -> None:
    """Each message is a turn; what was said in earlier turns is not said again; the end of the conversation lets the
    workflow end in its own way."""
    stage = Stage(listens)
    await stage.converse("a")
    await stage.settle()
    for word in ("b", "c"):
        await stage.send(word)
        await stage.settle()
    with pytest.raises(InvalidRequest, match="mode"):
        await stage.send("d", "INTERRUPT")
    await stage.conversations.end(ANONYMOUS, stage.run_id)
    await stage.settle()
    view = await consistent(stage)
    assert (view.state, view.output) == (SUCCEEDED, ["a", "B", "C"])
    assert [turn.text for turn in view.turns.values()] == ["first a", "then b", "then c"]


SCRIPT = [("look two", "QUEUE"), ("at once", "STEER"), ("three", "QUEUE"), ("stop", "INTERRUPT"), ("four", "QUEUE")]


async def said_and_killed(definition: Definition, die_after: int, script: list[tuple[str, str]]) -> tuple[Stage, bool]:
    """A conversation whose worker dies with this commit, counted over all of its attempts."""
    stage = Stage(definition)
    await stage.converse("look one")
    left, died = die_after, False
    words = iter(script)
    while True:
        while await stage.is_due():
            before = stage.store.commits
            died |= await stage.attempt(die_after=left if left > 0 else None)
            left -= stage.store.commits - before
            if died:
                left = 0
                stage.clock.seconds += 1000
        word = next(words, None)
        if word is None:
            break
        await stage.send(*word, request_id=word[0])
        await stage.send(*word, request_id=word[0])
    await stage.conversations.end(ANONYMOUS, stage.run_id)
    await stage.settle()
    return stage, died


async def test_killed_at_every_commit() -> None:
    """Whichever commit of a conversation with tools, steering and interruption the worker dies with: each message is
    consumed once, in order, and each turn ended once; what was done is not done again."""
    expected: list[Any] | None = None
    for number in range(100):
        looked: Counter[str] = Counter()
        stage, died = await said_and_killed(speaker(lambda word: looked.update([word])), number, SCRIPT)  # noqa: B023
        view = await consistent(stage)
        assert view.state == SUCCEEDED
        said = [(turn.message, turn.state, turn.output) for turn in view.turns.values()]
        expected = expected or said
        assert said == expected, number
        assert all(times <= (2 if died else 1) for times in looked.values()), looked
        if number and not died:
            break
    else:
        raise AssertionError("never lived")
    assert number > 15


def test_the_page_about_conversations() -> None:
    """Its Python runs as it stands."""
    page = (Path(__file__).parents[2] / "docs" / "conversations.md").read_text("utf-8")
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/conversations.md", "exec"), names)
    assert isinstance(names["support"], Definition)
