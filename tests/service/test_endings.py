"""The end cannot fail: whatever a run leaves, and whichever part of its end raises, it reaches its terminal state."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pydantic
import pytest

from agent_service import RunContext, ScorerRef, workflow
from agent_service.execution import attempt, ending, scoring
from agent_service.execution.attempt import Execution
from agent_service.execution.ending import Ending
from agent_service.log.history import Excerpt
from agent_service.log.writer import LogWriter
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.caching_pubsub import CachingPubSub
from runwire.errors import StoreUnavailable
from runwire.pubsub import Commit, Schedule
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.values import from_value, to_value
from tests.service.replica import Replica, dense, eventually, mortal_worker, refused, replica, topic_of

SUCCEEDED, FAILED, CANCELLED = (
    run_pb2.RUN_STATE_SUCCEEDED,
    run_pb2.RUN_STATE_FAILED,
    run_pb2.RUN_STATE_CANCELLED,
)
ALWAYS = ScorerRef("s", match_states=("succeeded", "failed", "cancelled"))


async def requests_of(it: Replica) -> list[scorer_run_requested_pb2.ScorerRunRequested]:
    deliveries = await it.store.receive("scorer-requests", consumer="c", limit=99, lease_seconds=60)
    return [scorer_run_requested_pb2.ScorerRunRequested.FromString(each.body) for each in deliveries]


@workflow(id="plain", scorers=[ALWAYS])
async def plain(ctx: RunContext, input: str) -> str:
    """Succeeds, fails, or waits to be cancelled, with a tool call."""
    await ctx.emit(run_event_pb2.ToolCallStarted(tool_call_id="t", tool_name="tool", arguments=to_value({"a": 1})))
    await ctx.emit(run_event_pb2.ToolCallFinished(tool_call_id="t", result=to_value("r")))
    if input == "fail":
        raise ValueError("as asked")
    if input == "wait":
        await asyncio.Event().wait()
    return "output"


ENDS = {"succeed": SUCCEEDED, "fail": FAILED, "wait": CANCELLED}


@workflow(id="large")
async def large(ctx: RunContext, kind: str) -> Any:
    """Returns what is far above any bound: a text of the widest characters, or very many small things."""
    return "\U0001f600" * 1_000_000 if kind == "wide" else [{"number": number} for number in range(200_000)]


@pytest.mark.parametrize("kind", ["wide", "many"])
async def test_an_output_that_is_too_large_is_cut(url: str, kind: str) -> None:
    """The work is done and paid for: the run succeeds with the beginning of its output, and can be read and listed."""
    async with replica(url, large) as it:
        run = await it.do("large", kind)
        assert run.state == SUCCEEDED
        assert run.output.string_value.startswith("[too large] ")
        assert run.output.ByteSize() <= 1024 * 1024
        assert dense(await it.watched(run.run_id))


async def ended(it: Replica, input: str) -> run_pb2.Run:
    run = await it.start("plain", input)
    if input == "wait":
        async with it.watch(run.run_id) as watch:
            await watch.until_event("tool_call_finished")
            await it.cancel(run.run_id)
    return await it.ended(run.run_id)


# What the agent leaves


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
async def test_a_number_that_nothing_can_hold(url: str, number: float) -> None:
    """A tool result of infinity, which a client of any language may emit: the run ends as it should, and its scorer is
    asked."""

    @workflow(id="infinite", scorers=[ALWAYS])
    async def infinite(ctx: RunContext, input: Any) -> str:
        result = to_value(0)
        result.number_value = number
        await ctx.emit(run_event_pb2.ToolCallStarted(tool_call_id="t", tool_name="tool", arguments=result))
        await ctx.emit(run_event_pb2.ToolCallFinished(tool_call_id="t", result=result))
        return "output"

    async with replica(url, infinite) as it:
        run = await it.do("infinite")
        [request] = await requests_of(it)
    assert (run.state, run.attempt) == (SUCCEEDED, 1)
    assert request.sample.by_reference or request.sample.tool_calls[0].tool_name == "tool"


async def test_infinity_in_the_log_of_a_run_whose_workers_died(url: str) -> None:
    """The end that is written in the place of dead workers does not fail for what they left in the log."""
    begun = asyncio.Event()

    @workflow(id="infinite", scorers=[ALWAYS])
    async def infinite(ctx: RunContext, input: Any) -> None:
        result = to_value(0)
        result.number_value = float("inf")
        await ctx.emit(run_event_pb2.ToolCallFinished(tool_call_id="t", result=result))
        begun.set()
        await asyncio.Event().wait()

    async with replica(url, infinite, role="serve") as it:
        run = await it.start("infinite")
        async with mortal_worker(url, infinite, lease_seconds=0.2), it.watch(run.run_id) as watch:
            await watch.until_event("tool_call_finished")
        await it.cancel(run.run_id)
        async with mortal_worker(url, infinite, lease_seconds=0.2):
            done = await it.ended(run.run_id)
        assert done.state == CANCELLED
        assert len(await requests_of(it)) == 1


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it has no words")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(7)


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("it has no name")


class Unnamed(Exception, metaclass=Nameless):
    pass


class Odd(BaseException):
    pass


def _deep() -> BaseException:
    error: BaseException = ValueError("deepest")
    for _ in range(3_000):
        error = BaseExceptionGroup("deeper", [error])
    return error


def _chain() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


ERRORS: dict[str, Callable[[], BaseException]] = {
    "str raises": Mute,
    "str exits": Leaving,
    "its class has no name": Unnamed,
    "huge": lambda: ValueError("x" * 20_000_000),
    "a lone surrogate": lambda: ValueError("\ud83d"),
    "a zero": lambda: ValueError("\0"),
    "no words": ValueError,
    "a group": lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    "deep groups": _deep,
    "a circle of causes": _chain,
    "an exit": lambda: SystemExit(7),
    "an interrupt": KeyboardInterrupt,
    "a generator's exit": GeneratorExit,
    "an odd base exception": lambda: Odd("odd"),
    "a group with an exit": lambda: BaseExceptionGroup("several", [SystemExit(7), ValueError("a")]),
    "a cancellation": asyncio.CancelledError,
    "no memory": MemoryError,
    "the end of an iteration": StopAsyncIteration,
}


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS.keys())
async def test_whatever_an_agent_raises(memory_url: str, make: Callable[[], BaseException]) -> None:
    """In its body and in a step: the run is FAILED by its agent in its first attempt, with what can be told of it."""

    @workflow(id="raises", scorers=[ALWAYS])
    async def raises(ctx: RunContext, where: str) -> None:
        async def step() -> None:
            raise make()

        if where == "body":
            raise make()
        await ctx.step("step", step)

    async with replica(memory_url, raises) as it:
        for where in ("body", "step"):
            run = await it.do("raises", where)
            assert (run.state, run.error.reason, run.attempt) == (FAILED, "agent_error", 1)
        assert len(await requests_of(it)) == 2


async def test_a_body_that_cancels_itself(url: str) -> None:
    """Its own task, or the scope that it is in: FAILED at once, saying what happened; no worker is taken for dead."""

    @workflow(id="cancels")
    async def cancels(ctx: RunContext, how: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        if how == "later":
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(10)
        async with asyncio.TaskGroup() as group:
            if how == "scope":
                group.create_task(_cancel(task))
                await asyncio.sleep(10)
            task.cancel()
            await asyncio.sleep(10)

    async with replica(url, cancels) as it:
        for how in ("at once", "later", "scope"):
            run = await it.do("cancels", how)
            assert (run.state, run.error.reason, run.attempt) == (FAILED, "agent_error", 1)
            assert "cancelled by itself" in run.error.message


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


async def test_usage_that_is_none(memory_url: str) -> None:
    """What an agent puts into its context in the place of usage costs it its success, and not its end."""

    @workflow(id="spoils")
    async def spoils(ctx: RunContext, input: Any) -> str:
        ctx.usage = "many"  # type: ignore[assignment]
        return "output"

    async with replica(memory_url, spoils) as it:
        run = await it.do("spoils")
    assert (run.state, run.error.reason, run.attempt) == (FAILED, "internal_error", 1)


# Parts of the end that raise


def _raise(*_: Any, **__: Any) -> Any:
    raise RuntimeError("injected")


PARTS: dict[str, tuple[Any, str]] = {
    "sample": (scoring, "_sample"),
    "bounded sample": (scoring, "_bounded_sample"),
    "summary": (scoring, "summary_of"),
    "request": (scoring, "_request"),
    "eligible": (scoring, "is_eligible"),
    "scorer run id": (scoring, "scorer_run_id"),
    "sampled": (scoring, "is_sampled"),
    "requests": (scoring, "requests"),
    "redaction": (ending, "redact"),
    "mask": (ending, "masked"),
    "excerpt": (Excerpt, "add"),
    "steps of the excerpt": (Excerpt, "steps"),
    "tool calls of the excerpt": (Excerpt, "tool_calls"),
    "text of the output": (ending, "_text_of"),
    "trace": (ending.traceback, "format_exception"),
    "observer": (LogWriter, "_tell"),
}


@pytest.mark.parametrize("input", ENDS)
@pytest.mark.parametrize("part", PARTS)
async def test_each_part_of_the_end_may_raise(
    memory_url: str, monkeypatch: pytest.MonkeyPatch, part: str, input: str
) -> None:
    """Whichever function on the way out raises, for whichever end: the run reaches the state that it should, in its
    first attempt."""
    if part == "observer":  # guarded inside
        part_of, name = PARTS["excerpt"]
    else:
        part_of, name = PARTS[part]
    async with replica(memory_url, plain) as it:
        monkeypatch.setattr(part_of, name, _raise)
        run = await ended(it, input)
        monkeypatch.undo()
    assert (run.state, run.attempt) == (ENDS[input], 1)
    assert run.attempts[-1].outcome == "finished"


LESS: dict[str, tuple[int, str]] = {
    "one form": (1, "output"),
    "two forms": (2, "output [the output itself could not be kept]"),
    "three forms": (3, ""),
}


@pytest.mark.parametrize("forms", LESS)
@pytest.mark.parametrize("where", ["built", "stored"])
@pytest.mark.parametrize("input", ENDS)
async def test_an_end_is_written_with_less(
    memory_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    forms: str,
    where: str,
    input: str,
) -> None:
    """An end that cannot be built, or that the store refuses, in its first forms is written in the next one: with the
    right state, told once as an error, and with the scorers asked."""
    times, output = LESS[forms]
    failing = times

    def fail_for_now() -> None:
        nonlocal failing
        if failing:
            failing -= 1
            raise RuntimeError("injected")

    finished, publish = Ending.finished, CachingPubSub.publish

    def build(self: Ending, form: Any) -> Any:
        fail_for_now()
        return finished(self, form)

    async def store(self: CachingPubSub, commit: Commit) -> Any:
        if commit.final:
            fail_for_now()
        return await publish(self, commit)

    if where == "built":
        monkeypatch.setattr(Ending, "finished", build)
    else:
        monkeypatch.setattr(CachingPubSub, "publish", store)
    async with replica(memory_url, plain) as it:
        run = await ended(it, input)
        [request] = await requests_of(it)
        log = await it.log(run.run_id)
    assert (run.state, run.attempt) == (ENDS[input], 1)
    assert request.sample.by_reference
    assert caplog.text.count("cannot be written whole") == 1
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert (log[-1].run_finished.state, log[-1].run_finished.error.reason) == (ENDS[input], run.error.reason)
    if input == "succeed":
        assert from_value(run.output) == (output or None)


async def test_a_suspension_that_cannot_be_written(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that would wait, and cannot be written as waiting, ends; it is not executed again and again."""

    @workflow(id="asks")
    async def asks(ctx: RunContext, input: Any) -> Any:
        return await ctx.suspend("question")

    async with replica(memory_url, asks) as it:
        monkeypatch.setattr(attempt, "_wait", _raise)
        run = await it.do("asks")
    assert (run.state, run.error.reason, run.attempt) == (FAILED, "internal_error", 1)
    assert not run.pending


# What a run was before


@pytest.mark.parametrize("record", [b"\xff\xff\xff", b"", None], ids=["broken", "empty", "missing"])
async def test_a_record_that_cannot_be_read(url: str, record: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    """A run of which the store has kept what is no run ends, saying so, and costs the runs beside it nothing."""
    async with replica(url, plain) as it:
        puts = {} if record is None else {"run": record}
        topic = topic_of("broken")
        await it.store.commit(Commit(topic, create=True, queue="agent/plain", puts=puts, schedule=Schedule.DUE))

        async def closed() -> bool:
            [head] = await it.store.heads([topic])
            return head is not None and head.final == FAILED

        await eventually(closed)
        assert (await ended(it, "succeed")).state == SUCCEEDED
        broken = await it.get("broken")
    assert (broken.state, broken.error.reason) == (FAILED, "run_unreadable")


async def test_a_log_that_cannot_be_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that this version cannot fold ends its run: it would not be read any better the next time."""
    begun = asyncio.Event()

    @workflow(id="waits", scorers=[ALWAYS])
    async def waits(ctx: RunContext, input: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with replica(url, waits, role="serve") as it:
        run = await it.start("waits")
        async with mortal_worker(url, waits, lease_seconds=0.2), it.watch(run.run_id) as watch:
            await begun.wait()
            await watch.until_event("run_started")
        monkeypatch.setattr(Execution, "_read_log", _raise)
        async with mortal_worker(url, waits, lease_seconds=0.2):
            done = await it.ended(run.run_id)
        [request] = await requests_of(it)
    assert (done.state, done.error.reason) == (FAILED, "events_lost")
    assert request.sample.by_reference


async def test_a_store_that_does_not_show_the_log_yet(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away while the log is read costs time, and no attempt."""
    read, failing = Execution._read_log, 2

    async def reluctant(self: Execution) -> None:
        nonlocal failing
        if failing:
            failing -= 1
            raise StoreUnavailable("not now")
        await read(self)

    monkeypatch.setattr(Execution, "_read_log", reluctant)
    async with replica(memory_url, plain) as it:
        run = await ended(it, "succeed")
    assert (run.state, run.attempt, failing) == (SUCCEEDED, 1, 0)


async def test_an_observer_that_fails_leaves_the_log_whole(
    memory_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that cannot be folded is in the log like any other: its number is not used twice, nor left out."""
    add = Excerpt.add

    def choosy(self: Excerpt, event: run_event_pb2.RunEvent) -> Any:
        if event.HasField("tool_call_started"):
            raise RuntimeError("injected")
        return add(self, event)

    async with replica(memory_url, plain) as it:
        monkeypatch.setattr(Excerpt, "add", choosy)
        with caplog.at_level(logging.ERROR):
            run = await ended(it, "succeed")
        log = await it.log(run.run_id)
        [request] = await requests_of(it)
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert (run.state, request.sample.by_reference) == (SUCCEEDED, True)
    assert caplog.text.count("cannot be folded") == 1


async def test_an_attempt_that_cannot_be_begun_is_bounded(url: str) -> None:
    """A field that cannot be read fails every attempt before its body: each is given up, and after a bounded number of
    them the run ends, which does not read it."""

    @workflow(id="asks", scorers=[ALWAYS])
    async def asks(ctx: RunContext, input: Any) -> Any:
        return await ctx.suspend("question")

    async with replica(url, asks, lease_seconds=0.3, max_losses=2) as it:
        run = await it.start("asks")
        await it.suspended(run.run_id)
        puts = {"answer/suspend/question": b"\xff"}
        await it.store.commit(Commit(topic_of(run.run_id), puts=puts, schedule=Schedule.WAKE))
        done = await it.ended(run.run_id)
        assert len(await requests_of(it)) == 1
    assert (done.state, done.error.reason) == (FAILED, "worker_lost")
    assert "gave it up" in done.error.message
    assert done.attempt <= 1 + 2 + 2 + 1


async def test_a_validator_that_exits(memory_url: str) -> None:
    """StartRun is answered, and the service continues."""

    class Input(pydantic.BaseModel):
        name: str

        @pydantic.field_validator("name")
        @classmethod
        def leave(cls, name: str) -> str:
            raise SystemExit(7)

    @workflow(id="validates")
    async def validates(ctx: RunContext, input: Input) -> None: ...

    async with replica(memory_url, validates, plain) as it:
        refusal = await refused(it.start("validates", {"name": "x"}))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (await ended(it, "succeed")).state == SUCCEEDED


async def test_a_suspect_in_memory_stalls_nobody(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no process to be harmed, a run of which attempts were given up is executed beside the others, also
    in a worker that is never idle, and does not keep them waiting."""
    begin, failing = Execution._begin, 2

    @workflow(id="holds")
    async def holds(ctx: RunContext, input: str) -> None:
        await asyncio.Event().wait()

    async def reluctant(self: Execution, **given: Any) -> None:
        nonlocal failing
        if failing and self.agent_id == "holds" and self._run.input.string_value == "suspect":
            failing -= 1
            raise RuntimeError("injected")
        await begin(self, **given)

    monkeypatch.setattr(Execution, "_begin", reluctant)
    async with replica(memory_url, holds, plain, lease_seconds=0.3) as it:
        await it.start("holds", "busy")
        run = await it.start("holds", "suspect")

        async def running() -> bool:
            return (await it.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING

        await eventually(running)
        assert (failing, (await ended(it, "succeed")).state) == (0, SUCCEEDED)
