"""Runs whose workers die, freeze, drain or change under them, in one process."""

import asyncio
import logging
from collections import Counter
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from agent_service import Definition, NonRetriable, Retry, RunContext, fleet, workflow
from agent_service.log.journal import PREFIX
from agent_service.log.record import queue_of
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import EventsLost, StoreUnavailable
from runwire.fold import fold
from runwire.pubsub import Commit, Schedule
from runwire.values import from_value
from tests.service.faults import FaultyStore, failing_lookups
from tests.service.replica import Replica, dense, eventually, mortal_worker, replica, topic_of
from tests.service.test_frames import Held, speak
from tests.service.test_runs import asks, data, echo


class Ledger:
    """What was executed, outside of any run."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.changed = asyncio.Event()

    def note(self, what: str) -> int:
        """How often it was done before this time."""
        self.done[what] += 1
        self.changed.set()
        return self.done[what] - 1

    async def wait_for(self, what: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.done[what] < times:
                self.changed.clear()
                await self.changed.wait()


def outcomes(run: run_pb2.Run) -> list[str]:
    return [attempt.outcome for attempt in run.attempts]


# Steps and crashes


async def test_a_finished_step_is_not_done_again(url: str) -> None:
    """After a crash finished steps return what is remembered; the step that was under way is done again."""
    ledger = Ledger()

    async def fetch(number: int) -> dict[str, int]:
        ledger.note(f"fetch {number}")
        return {"number": number}

    async def hang_once() -> str:
        if not ledger.note("hang"):
            await asyncio.Event().wait()
        return "continued"

    @workflow(id="crashes")
    async def crashes(ctx: RunContext, input: Any) -> Any:
        found = [await ctx.step(f"fetch {number}", fetch, number) for number in range(3)]
        return [found, await ctx.step("hang", hang_once)]

    async with replica(url, crashes, role="serve") as it:
        run = await it.start("crashes")
        async with it.watch(run.run_id) as watch, mortal_worker(url, crashes):
            await ledger.wait_for("hang")
            await watch.until(lambda _: sum(event.HasField("step_started") for event in watch.events) == 4)
        async with mortal_worker(url, crashes):
            done = await it.ended(run.run_id)
        events = await it.log(run.run_id)
    assert from_value(done.output) == [[{"number": number} for number in range(3)], "continued"]
    assert ledger.done == {"fetch 0": 1, "fetch 1": 1, "fetch 2": 1, "hang": 2}
    assert outcomes(done) == ["worker_lost", "finished"]
    assert not done.attempts[0].HasField("end_time")
    assert done.attempt == 2
    assert dense(events)
    assert [event.attempt for event in events if event.HasField("step_started")] == [1, 1, 1, 1, 2]


async def test_what_a_dead_attempt_said_is_superseded(url: str) -> None:
    """Text of an unfinished step and text outside of steps is told again under a higher attempt, and readers who
    fold the log see it once; text of a finished step stays as it was."""
    ledger = Ledger()

    @workflow(id="talks")
    async def talks(ctx: RunContext, input: Any) -> str:
        async def say(word: str) -> None:
            await ctx.emit_text(f"{word} ")

        async def falter() -> None:
            await ctx.emit_text("third, ")
            if not ledger.note("falter"):
                await asyncio.Event().wait()
            await ctx.emit_text("really ")

        await ctx.emit_text("first ")
        await ctx.step("finished", say, "second")
        await ctx.step("falters", falter)
        await ctx.emit_text("(end)")
        return "done"

    async with replica(url, talks, role="serve") as it:
        run = await it.start("talks")
        async with it.watch(run.run_id) as watch:
            async with mortal_worker(url, talks):
                await watch.until(lambda frame: any(e.text_delta.text == "third, " for e in frame.batch.events))
            async with mortal_worker(url, talks):
                await watch.rest()
        done = await it.get(run.run_id)
    assert dense(watch.events)
    view = fold(watch.events)
    assert view.text == "first (end)second third, really "
    assert view.output == from_value(done.output) == "done"
    assert {step.name: step.attempt for step in view.steps.values()} == {"talks": 2, "finished": 1, "falters": 2}
    assert all(step.finished for step in view.steps.values())


async def test_parallel_steps_keep_their_results(url: str) -> None:
    """Results are bound to steps by name: whatever order they end in and wherever the worker dies."""
    ledger = Ledger()

    async def work(number: int) -> int:
        tries = ledger.note(f"work {number}")
        if number == 1 and not tries:
            await asyncio.Event().wait()
        return number * 10

    @workflow(id="parallel")
    async def parallel(ctx: RunContext, input: Any) -> dict[str, int]:
        names = range(4) if ctx.attempt == 1 else reversed(range(4))
        return await ctx.gather(**{f"w{number}": ctx.step(f"work {number}", work, number) for number in names})

    async with replica(url, parallel, role="serve") as it:
        run = await it.start("parallel")
        async with it.watch(run.run_id) as watch:
            async with mortal_worker(url, parallel):
                await watch.until(lambda frame: sum(e.HasField("step_finished") for e in watch.events) == 3)
            async with mortal_worker(url, parallel):
                await watch.rest()
        done = await it.get(run.run_id)
    assert from_value(done.output) == {f"w{number}": number * 10 for number in range(4)}
    assert ledger.done == {"work 0": 1, "work 1": 2, "work 2": 1, "work 3": 1}


async def test_a_step_is_tried_as_often_as_it_says(url: str) -> None:
    """A step's errors are retried with its policy, within one attempt; the last error is the run's."""
    ledger = Ledger()

    async def flaky(until: int) -> int:
        if (tries := ledger.note(f"flaky {until}")) < until:
            raise ConnectionError(f"try {tries}")
        return tries

    async def hopeless() -> None:
        ledger.note("hopeless")
        raise NonRetriable("never")

    async def endless() -> None:
        ledger.note("endless")
        await asyncio.Event().wait()

    policy = Retry(attempts=4, delay_seconds=0.001)

    @workflow(id="retries")
    async def retries(ctx: RunContext, input: str) -> Any:
        if input == "flaky":
            return await ctx.step("flaky", flaky, 3, retry=policy)
        if input == "hopeless":
            return await ctx.step("hopeless", hopeless, retry=policy)
        if input == "endless":
            return await ctx.step("endless", endless, retry=policy, timeout_seconds=0.01)
        return await ctx.step("flaky", flaky, 9, retry=policy)

    async with replica(url, retries) as it:
        good = await it.do("retries", "flaky")
        assert (good.state, good.output.number_value, good.attempt) == (run_pb2.RUN_STATE_SUCCEEDED, 3, 1)
        bad = await it.do("retries", "too flaky")
        assert (bad.error.reason, bad.error.error_class) == ("agent_error", "ConnectionError")
        assert bad.error.message == "try 3"
        assert (await it.do("retries", "hopeless")).error.error_class == "NonRetriable"
        assert (await it.do("retries", "endless")).error.error_class == "TimeoutError"
    assert ledger.done == {"flaky 3": 4, "flaky 9": 4, "hopeless": 1, "endless": 4}


async def test_what_a_failed_try_said_is_superseded(url: str) -> None:
    """A step that is tried again starts over for readers too: what the failed try had said is discarded."""
    ledger = Ledger()

    @workflow(id="stutters")
    async def stutters(ctx: RunContext, input: Any) -> None:
        async def speak() -> None:
            await ctx.emit_text("hello ")
            if ledger.note("speak") < 2:
                raise ConnectionError
            await ctx.emit_text("world")

        await ctx.step("speak", speak, retry=Retry(attempts=3, delay_seconds=0.001))

    async with replica(url, stutters) as it:
        run = await it.do("stutters")
        view = fold(await it.log(run.run_id))
    assert view.text == "hello world"
    assert run.attempt == 1


async def test_a_step_that_is_called_like_its_agent(url: str) -> None:
    """A step may have the agent's own name: its events stay apart from those outside of steps, also after a crash."""
    ledger = Ledger()

    @workflow(id="name")
    async def name(ctx: RunContext, input: Any) -> None:
        await ctx.emit_text("outside ")
        if not ledger.note("name"):
            await asyncio.Event().wait()
        await ctx.step("name", inside, ctx)

    async def inside(ctx: RunContext) -> None:
        await ctx.emit_text("inside")

    async with replica(url, name, role="serve") as it:
        run = await it.start("name")
        async with it.watch(run.run_id) as watch:
            async with mortal_worker(url, name):
                await watch.until_event("text_delta")
            async with mortal_worker(url, name):
                await watch.rest()
    assert {number: step.text for number, step in fold(watch.events).steps.items()} == {1: "outside ", 2: "inside"}


async def test_a_name_is_good_for_one_thing(url: str) -> None:
    """A step's name and a question's name identify them: used twice in a run they fail it, and bind nothing wrongly."""

    @workflow(id="twice")
    async def twice(ctx: RunContext, kind: str) -> Any:
        async def nothing() -> None: ...

        if kind == "step":
            await ctx.step("same", nothing)
            return await ctx.step("same", nothing)
        return [await ctx.suspend("same"), await ctx.suspend("same")]

    async with replica(url, twice) as it:
        run = await it.do("twice", "step")
        assert (run.state, run.error.error_class) == (run_pb2.RUN_STATE_FAILED, "ValueError")
        assert "'same'" in run.error.message
        run = await it.start("twice", "suspend")
        await it.suspended(run.run_id)
        await it.resume(run.run_id, data("suspend/same", "first"))
        done = await it.ended(run.run_id)
        assert (done.state, done.error.error_class) == (run_pb2.RUN_STATE_FAILED, "ValueError")


async def test_nothing_is_left_of_the_journal(url: str) -> None:
    """Where no run is to be forked, the journal of one that has ended is gone from the store, what this attempt wrote
    and what earlier ones did."""
    ledger = Ledger()

    @workflow(id="journals")
    async def journals(ctx: RunContext, input: Any) -> None:
        async def small() -> str:
            return "result"

        await ctx.step("early", small)
        if not ledger.note("journals"):
            await asyncio.Event().wait()
        await ctx.step("late", small)
        await ctx.sleep(0.001)

    async with replica(url, journals, role="serve") as it:
        run = await it.start("journals")
        async with mortal_worker(url, journals):
            await ledger.wait_for("journals")
            stored = await it.store.get(topic_of(run.run_id))
            assert stored is not None
            assert any(name.startswith(PREFIX) for name in stored.fields)
        async with mortal_worker(url, journals, fork_retention_seconds=0.0):
            await it.ended(run.run_id)
        stored = await it.store.get(topic_of(run.run_id))
        assert stored is not None
        assert [name for name in stored.fields if name.startswith(PREFIX)] == []


# Workers that die


async def test_a_run_that_kills_its_workers(url: str) -> None:
    """Two deaths make it a suspect, which is executed alone; after `max_losses` deaths more, of which nobody else can
    have been the reason, it ends FAILED with the history of its attempts."""
    ledger = Ledger()

    @workflow(id="kills")
    async def kills(ctx: RunContext, input: Any) -> None:
        ledger.note("kills")
        await asyncio.Event().wait()

    async with replica(url, kills, role="serve") as it:
        run = await it.start("kills")
        for number in range(1, 6):
            async with mortal_worker(url, kills, max_losses=3, lease_seconds=0.2):
                await ledger.wait_for("kills", number)
        async with mortal_worker(url, kills, max_losses=3, lease_seconds=0.2):
            done = await it.ended(run.run_id)
    assert (done.state, done.error.reason) == (run_pb2.RUN_STATE_FAILED, "worker_lost")
    assert "3 times in a row with nothing beside it" in done.error.message
    assert outcomes(done) == ["worker_lost"] * 5 + ["finished"]
    assert len({attempt.worker for attempt in done.attempts}) == 6
    assert ledger.done["kills"] == 5


async def test_losses_in_a_row_are_counted_anew_after_progress(url: str) -> None:
    """A run that finishes a step in each attempt may lose any number of workers."""
    ledger = Ledger()

    @workflow(id="slow")
    async def slow(ctx: RunContext, count: int) -> int:
        async def nothing() -> None: ...

        for number in range(count):
            await ctx.step(f"step {number}", nothing)
            if not ledger.note(f"died after {number}"):
                await asyncio.Event().wait()
        return count

    async with replica(url, slow, role="serve") as it:
        run = await it.start("slow", 4)
        for number in range(4):
            async with mortal_worker(url, slow, max_losses=2, lease_seconds=0.2):
                await ledger.wait_for(f"died after {number}")
        async with mortal_worker(url, slow, max_losses=2, lease_seconds=0.2):
            done = await it.ended(run.run_id)
    assert done.state == run_pb2.RUN_STATE_SUCCEEDED
    assert outcomes(done) == ["worker_lost"] * 4 + ["finished"]


class Forgetful:
    """A store that has lost events it should have."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, *args: Any, **kwargs: Any) -> Any:
        raise EventsLost("events 1 to 2 are not there")


async def test_a_run_whose_events_are_lost(sqlite_url: str) -> None:
    """A run whose log is not whole any more ends FAILED, and is not tried for ever."""
    ledger = Ledger()

    @workflow(id="waits")
    async def waits(ctx: RunContext, input: Any) -> None:
        ledger.note("waits")
        await asyncio.Event().wait()

    async with replica(sqlite_url, waits, role="serve") as it:
        run = await it.start("waits")
        async with mortal_worker(sqlite_url, waits, lease_seconds=0.2):
            await ledger.wait_for("waits")
        async with replica(sqlite_url, waits, role="work", wrap=Forgetful):
            done = await it.ended(run.run_id)
    assert (done.state, done.error.reason) == (run_pb2.RUN_STATE_FAILED, "events_lost")
    assert outcomes(done) == ["worker_lost", "finished"]


async def test_a_run_that_cannot_even_be_begun(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A topic of which the store has lost the run is told of in the log, and costs the runs beside it nothing."""
    async with replica(url, echo) as it:
        await it.store.commit(Commit(topic_of("gone"), create=True, queue="agent/echo", schedule=Schedule.DUE))

        async def told() -> bool:
            return f"{topic_of('gone')} cannot be executed" in caplog.text

        await eventually(told)
        assert (await it.do("echo", "x")).state == run_pb2.RUN_STATE_SUCCEEDED


async def steal(it: Replica, run_id: str, definition: Definition) -> int:
    """Takes a run from its worker, as happens to one that was frozen for too long; returns the new attempt."""
    await it.store.commit(Commit(topic_of(run_id), schedule=Schedule.DUE))
    [claim] = await it.store.claim(
        [queue_of(definition.agent_id, definition.version)],
        holder="somebody",
        limit=1,
        lease_seconds=60,
        wait_seconds=5,
    )
    return claim.head.attempt


async def test_a_worker_that_lost_its_run_writes_nothing(url: str) -> None:
    """Once another worker owns the run, the old one's events are refused, its agent is stopped, and it ends nothing."""
    held, stopped = Held(), asyncio.Event()

    @workflow(id="held")
    async def stoppable(ctx: RunContext, input: Any) -> str:
        try:
            return str(await held.definition.body(ctx, input))
        finally:
            stopped.set()

    async with replica(url, stoppable, role="serve") as it:
        run = await it.start("held")
        async with mortal_worker(url, stoppable, concurrency=1) as worker, it.watch(run.run_id) as watch:
            held.words.put_nowait("mine")
            await watch.until_event("text_delta")
            assert await steal(it, run.run_id, stoppable) == 2
            held.words.put_nowait("stale")
            held.words.put_nowait("")
            await asyncio.wait_for(stopped.wait(), 10)
            await eventually(lambda: is_idle(worker))
            assert [event.attempt for event in await it.log(run.run_id)] == [1, 1, 1]
            stored = await it.get(run.run_id)
            assert stored.state == run_pb2.RUN_STATE_RUNNING


async def is_idle(worker: Any) -> bool:
    return not worker._executions


async def test_a_silent_agent_that_lost_its_run_is_stopped(url: str) -> None:
    """An agent that writes nothing is stopped too, as its lease says that the run is another's."""
    held, stopped = Held(), asyncio.Event()

    @workflow(id="silent")
    async def silent(ctx: RunContext, input: Any) -> None:
        held.words.put_nowait("begun")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with replica(url, silent, role="serve") as it:
        run = await it.start("silent")
        async with mortal_worker(url, silent, concurrency=1):
            await held.words.get()
            await steal(it, run.run_id, silent)
            await asyncio.wait_for(stopped.wait(), 10)


async def test_a_worker_that_takes_its_own_run_again(sqlite_url: str) -> None:
    """A worker that was frozen for too long, and then claims its run again itself, does not execute it twice at
    once."""
    ledger = Ledger()

    @workflow(id="silent")
    async def silent(ctx: RunContext, input: Any) -> None:
        ledger.note(f"attempt {ctx.attempt}")
        try:
            await asyncio.Event().wait()
        finally:
            ledger.note(f"stopped {ctx.attempt}")

    async with replica(sqlite_url, silent, role="serve") as it:
        run = await it.start("silent")
        async with mortal_worker(sqlite_url, silent, lease_seconds=60):
            await ledger.wait_for("attempt 1")
            await it.store.commit(Commit(topic_of(run.run_id), schedule=Schedule.DUE))
            await ledger.wait_for("stopped 1")
            await ledger.wait_for("attempt 2")
            assert ledger.done == {"attempt 1": 1, "stopped 1": 1, "attempt 2": 1}


# Draining


async def test_a_draining_worker_lets_runs_finish(url: str) -> None:
    """Within the grace a run finishes where it is."""
    held = Held()
    async with replica(url, held.definition, role="serve") as it:
        async with replica(url, held.definition, shutdown_grace_seconds=10.0) as other:
            run = await it.start("held")
            held.words.put_nowait("a")
            async with it.watch(run.run_id) as watch:
                await watch.until_event("text_delta")
                other.stopping.set()
                held.words.put_nowait("")
                await watch.rest()
        assert outcomes(await it.get(run.run_id)) == ["finished"]


async def test_a_draining_worker_hands_back_what_does_not_finish(url: str) -> None:
    """After the grace a run is handed back: another worker has it at once, and no loss is counted."""
    held = Held()
    async with replica(url, held.definition, role="serve") as it:
        run = await it.start("held")
        async with it.watch(run.run_id) as watch:
            for _ in range(3):
                async with replica(url, held.definition, shutdown_grace_seconds=0.05, lease_seconds=60):
                    held.words.put_nowait("a")
                    await watch.until_event("text_delta")
            async with mortal_worker(url, held.definition, max_losses=1, lease_seconds=60):
                held.words.put_nowait("b")
                held.words.put_nowait("")
                await watch.rest()
        done = await it.get(run.run_id)
    assert done.state == run_pb2.RUN_STATE_SUCCEEDED
    assert outcomes(done) == ["released"] * 3 + ["finished"]
    assert fold(watch.events).text == "b"


async def test_a_run_that_is_claimed_while_draining(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that a claim brings after the drain has begun is not executed for ever: the process ends."""
    monkeypatch.setattr("agent_service.execution.worker._CLAIM_WAIT_SECONDS", 2.0)
    held = Held()
    async with replica(url, held.definition, role="serve") as it:
        async with asyncio.timeout(15), replica(url, held.definition, shutdown_grace_seconds=0.1) as other:
            await it.store.now()
            other.stopping.set()
            await asyncio.sleep(0.2)  # the drain has begun and its claim still waits
            run = await it.start("held")
        async with mortal_worker(url, held.definition, max_losses=1):
            held.words.put_nowait("")
            assert (await it.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_an_agent_that_does_not_end_when_drained(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that swallows its cancellation cannot keep the process from ending its runs."""
    monkeypatch.setattr("agent_service.execution.attempt._STUBBORN_SECONDS", 0.2)
    stop, begun = asyncio.Event(), asyncio.Event()

    @workflow(id="stubborn")
    async def stubborn(ctx: RunContext, input: Any) -> None:
        begun.set()
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                pass

    async with replica(url, stubborn) as it:
        run = await it.start("stubborn")
        await begun.wait()
        await it.cancel(run.run_id)
        assert (await it.ended(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED
        stop.set()


class GaveUp(Exception):
    """What an agent makes of its cancellation."""


@workflow(id="translates")
async def translates(ctx: RunContext, input: Any) -> str:
    """Calls its cancellation an error of its own, as some libraries do; ends well in a second attempt."""
    await ctx.emit_text("begun")
    if ctx.attempt > 1:
        return "well"
    try:
        return await asyncio.Event().wait() and ""
    except asyncio.CancelledError:
        raise GaveUp("the connection was closed") from None


async def test_an_agent_that_fails_because_it_is_handed_back(sqlite_url: str) -> None:
    """What an agent raises because it is stopped is no failure of its own: the run continues elsewhere."""
    async with replica(sqlite_url, translates, role="serve") as it:
        run = await it.start("translates")
        async with it.watch(run.run_id) as watch:
            async with replica(sqlite_url, translates, shutdown_grace_seconds=0.05):
                await watch.until_event("text_delta")
            async with mortal_worker(sqlite_url, translates):
                await watch.rest()
        done = await it.get(run.run_id)
    assert (done.state, done.output.string_value) == (run_pb2.RUN_STATE_SUCCEEDED, "well")
    assert outcomes(done) == ["released", "finished"]


async def test_an_agent_that_fails_because_its_time_is_up(sqlite_url: str) -> None:
    """The reason of a run that is stopped at its deadline is the deadline, whatever the agent makes of it."""
    async with replica(sqlite_url, translates) as it:
        done = await it.do("translates", timeout=duration_pb2.Duration(nanos=500_000_000))
    assert (done.state, done.error.reason) == (run_pb2.RUN_STATE_FAILED, "deadline_exceeded")


# Agents that fail in unusual ways


async def test_an_agent_that_cancels_itself(url: str) -> None:
    """An agent that raises CancelledError, as awaiting a cancelled task does, fails its run at once."""

    @workflow(id="cancels")
    async def cancels(ctx: RunContext, input: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with replica(url, cancels, lease_seconds=60) as it:
        run = await it.do("cancels")
    assert (run.state, run.error.reason, run.error.error_class) == (
        run_pb2.RUN_STATE_FAILED,
        "agent_error",
        "CancelledError",
    )


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")])
async def test_an_agent_that_raises_what_ends_processes(sqlite_url: str, raised: BaseException) -> None:
    """SystemExit and the like end the run, and not the service."""

    @workflow(id="exits")
    async def exits(ctx: RunContext, input: Any) -> None:
        raise raised

    async with replica(sqlite_url, exits, speak) as it:
        run = await it.do("exits")
        assert (run.state, run.error.error_class) == (run_pb2.RUN_STATE_FAILED, type(raised).__name__)
        assert (await it.do("speak", ["still"])).state == run_pb2.RUN_STATE_SUCCEEDED


@pytest.mark.parametrize(
    "kind, reason, error_class",
    [
        ("step", "agent_error", "JournalEntryTooLarge"),
        ("error", "agent_error", "ValueError"),
        ("unprintable", "agent_error", "Unprintable"),
        ("half a character", "agent_error", "ValueError"),
    ],
)
async def test_what_is_too_large_or_no_json(sqlite_url: str, kind: str, reason: str, error_class: str) -> None:
    """A step's result that cannot be remembered, and odd errors, fail the run at once and in words, nothing else."""

    @workflow(id="large")
    async def large(ctx: RunContext, kind: str) -> Any:
        async def result() -> str:
            return "x" * (1024 * 1024 + 1)

        if kind == "step":
            await ctx.step("large", result)
        elif kind == "error":
            raise ValueError("x" * 10_000_000)
        elif kind == "half a character":
            raise ValueError("not a character: \ud800")
        elif kind == "unprintable":
            raise Unprintable

    async with replica(sqlite_url, large, lease_seconds=60) as it:
        run = await it.do("large", kind)
        assert (run.state, run.error.reason, run.error.error_class) == (run_pb2.RUN_STATE_FAILED, reason, error_class)
        assert 0 < len(run.error.message) <= 2000
        assert run.attempt == 1
        assert dense(await it.log(run.run_id))


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


async def test_an_answer_of_several_megabytes(url: str) -> None:
    """Answers that are stored already, and are too large for an event together, do not keep the run from ending."""
    async with replica(url, asks) as it:
        run = await it.start("asks", ["name"])
        await it.suspended(run.run_id)
        from agent_service.log import record

        large = data("suspend/name", "x" * 3_000_000)
        answer = {record.ANSWER + "suspend/name": record.pack_answer(large, 1.0)}
        await it.store.commit(Commit(topic_of(run.run_id), puts_once=answer, schedule=Schedule.WAKE))
        done = await it.ended(run.run_id)
    assert done.state == run_pb2.RUN_STATE_SUCCEEDED
    assert done.output.string_value.startswith("[too large] ")


async def test_no_secret_reaches_errors_or_logs(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What looks like a credential is masked in GetRun, in the events, in scorers' samples and in the log."""
    monkeypatch.setenv("PROVIDER_API_KEY", "very-private-value")
    secrets = {
        "very-private-value",
        "sk-abcdefghijklmnopqrstuvwx",
        "hunter2hunter2",
        "dG9rZW46dG9rZW4=",
        "ghp_0123456789abcdef",
    }

    @workflow(id="leaks")
    async def leaks(ctx: RunContext, input: Any) -> None:
        try:
            raise ConnectionError("key very-private-value refused")
        except ConnectionError as error:
            raise RuntimeError(
                "cannot reach https://user:hunter2hunter2@example.org with sk-abcdefghijklmnopqrstuvwx, "
                "Authorization: Basic dG9rZW46dG9rZW4= nor ghp_0123456789abcdef nor very-private-value"
            ) from error

    with caplog.at_level(logging.DEBUG):
        async with replica(sqlite_url, leaks) as it:
            scorer = run_pb2.ScorerRef(scorer_id="s", match_states=[run_pb2.RUN_STATE_FAILED])
            run = await it.do("leaks", scorers=[scorer])
            [message] = await it.store.receive("scorer-requests", consumer="c", limit=9, lease_seconds=9)
            events = await it.log(run.run_id)
    told = {
        "run": str(run),
        "events": str(events),
        "message": message.body.decode(errors="replace"),
        "log": caplog.text,
    }
    assert "RuntimeError" in caplog.text
    assert run.error.message.startswith("cannot reach https://")
    for where, text in told.items():
        assert "[redacted]" in text, where
        assert [secret for secret in secrets if secret in text] == [], where


# Time


async def test_a_deadline_ends_a_running_run(url: str) -> None:
    """A run with a timeout is stopped when it has passed, also between events, and says why."""
    held = Held()
    async with replica(url, held.definition) as it:
        run = await it.start("held", timeout=duration_pb2.Duration(seconds=1))
        held.words.put_nowait("a")
        done = await it.ended(run.run_id)
        log = await it.log(run.run_id)
    assert (done.state, done.error.reason) == (run_pb2.RUN_STATE_FAILED, "deadline_exceeded")
    assert done.end_time.ToMicroseconds() - done.create_time.ToMicroseconds() >= 990_000
    assert [event.text_delta.text for event in log if event.HasField("text_delta")] == ["a"]


async def test_a_deadline_counts_from_the_start_call(url: str) -> None:
    """Time in the queue counts: a run whose timeout passed there ends without its agent being called."""
    ledger = Ledger()

    @workflow(id="late")
    async def late(ctx: RunContext, input: Any) -> None:
        ledger.note("late")

    async with replica(url, late, role="serve") as it:
        run = await it.start("late", timeout=duration_pb2.Duration(nanos=1_000_000))
        await asyncio.sleep(0.02)
        async with mortal_worker(url, late):
            done = await it.ended(run.run_id)
        events = await it.log(run.run_id)
    assert (done.state, done.error.reason) == (run_pb2.RUN_STATE_FAILED, "deadline_exceeded")
    assert [event.WhichOneof("payload") for event in events] == ["run_started", "run_finished"]
    assert not ledger.done


async def test_a_deadline_ends_a_run_that_waits(url: str) -> None:
    """A suspended run, and a sleeping one, end with their deadline although nobody answers."""

    @workflow(id="dozes")
    async def dozes(ctx: RunContext, input: Any) -> None:
        await ctx.sleep(60)

    async with replica(url, asks, dozes) as it:
        timeout = duration_pb2.Duration(nanos=300_000_000)
        runs = [await it.start("asks", ["name"], timeout=timeout), await it.start("dozes", timeout=timeout)]
        for run in runs:
            done = await it.ended(run.run_id)
            assert (done.state, done.error.reason) == (run_pb2.RUN_STATE_FAILED, "deadline_exceeded")


async def test_sleep_waits_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sleep gives the worker back; the run continues at its moment, through crashes, and other sleeps are apart."""
    monkeypatch.setattr("agent_service.agents.context._INLINE_SLEEP_SECONDS", 0.2)
    moments: list[float] = []

    @workflow(id="naps")
    async def naps(ctx: RunContext, input: Any) -> None:
        begun = ctx.now()
        await ctx.sleep(1.2, name="long")
        await ctx.sleep(0.01)
        moments.append(ctx.now() - begun)

    async with replica(url, naps, role="serve") as it:
        run = await it.start("naps")
        async with mortal_worker(url, naps, concurrency=1, lease_seconds=60) as worker:
            await it.suspended(run.run_id)
            await eventually(lambda: is_idle(worker))
        async with mortal_worker(url, naps):
            done = await it.ended(run.run_id)
    slept = done.end_time.ToMicroseconds() - done.start_time.ToMicroseconds()
    assert slept >= 1.2e6
    assert outcomes(done) == ["suspended", "finished"]
    # In the last attempt there was nothing left to suspend for.
    assert len(moments) == 1


# Versions


@pytest.fixture
def quick_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that died is missed soon."""
    monkeypatch.setattr(fleet, "SAY_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "SILENT_SECONDS", 0.5)


def versioned(version: str, names: list[str], ledger: Ledger, on_change: str = "fail") -> Definition:
    @workflow(id="changes", version=version, on_version_change=on_change, orphan_after=0.2)
    async def changes(ctx: RunContext, input: Any) -> str:
        async def say(name: str) -> str:
            await ctx.emit_text(f"{version}:{name} ")
            return name

        for name in names:
            await ctx.step(name, say, name)
        if version == "1" and not ledger.note("hang"):
            await asyncio.Event().wait()
        return version

    return changes


@pytest.mark.usefixtures("quick_words")
async def test_code_that_changed_fails_the_run(url: str) -> None:
    """A run begun with another version of its agent ends FAILED and says so; no result is bound to a wrong step."""
    ledger = Ledger()
    old, new = versioned("1", ["a"], ledger), versioned("2", ["a"], ledger)
    async with replica(url, old, role="serve") as it:
        run = await it.start("changes")
        async with mortal_worker(url, old):
            await ledger.wait_for("hang")
        async with mortal_worker(url, new):
            done = await it.ended(run.run_id)
        log = await it.log(run.run_id)
    assert (done.state, done.error.reason, done.agent_version) == (run_pb2.RUN_STATE_FAILED, "agent_changed", "1")
    assert "'1'" in done.error.message
    assert "'2'" in done.error.message
    assert sum(event.HasField("run_started") for event in log) == 1
    assert fold(log).text == "1:a ", "what the old version said is kept"


@pytest.mark.parametrize("on_change", ["fail", "restart"])
@pytest.mark.usefixtures("quick_words")
async def test_a_cancelled_run_whose_code_changed(sqlite_url: str, on_change: str) -> None:
    """A run that is not executed any more needs no code: it ends as it was asked to, and what it said is kept."""
    ledger = Ledger()
    old, new = versioned("1", ["a"], ledger), versioned("2", ["a"], ledger, on_change)
    async with replica(sqlite_url, old, role="serve") as it:
        run = await it.start("changes")
        async with mortal_worker(sqlite_url, old):
            await ledger.wait_for("hang")
        await it.cancel(run.run_id)
        async with mortal_worker(sqlite_url, new):
            done = await it.ended(run.run_id)
        log = await it.log(run.run_id)
    assert (done.state, done.agent_version) == (run_pb2.RUN_STATE_CANCELLED, "1")
    assert fold(log).text == "1:a "


@pytest.mark.usefixtures("quick_words")
async def test_code_that_changed_restarts_the_run_if_it_says_so(url: str) -> None:
    """With on_version_change="restart" the run starts over: nothing that the old version did or said counts."""
    ledger = Ledger()
    old, new = versioned("1", ["a", "b"], ledger), versioned("2", ["b", "c"], ledger, "restart")
    async with replica(url, old, role="serve") as it:
        run = await it.start("changes")
        async with it.watch(run.run_id) as watch:
            async with mortal_worker(url, old):
                await ledger.wait_for("hang")
            async with mortal_worker(url, new):
                await watch.rest()
        done = await it.get(run.run_id)
    assert (done.state, done.output.string_value, done.agent_version) == (run_pb2.RUN_STATE_SUCCEEDED, "2", "2")
    assert dense(watch.events)
    assert sum(event.HasField("run_started") for event in watch.events) == 2
    view = fold(watch.events)
    assert view.text == "2:b 2:c "
    assert [step.name for step in view.steps.values()] == ["b", "c"]


@pytest.mark.usefixtures("quick_words")
async def test_a_run_that_was_not_begun_takes_the_version_there_is(url: str) -> None:
    """A queued run has done nothing: it is executed by a newer version, whatever the policy."""
    ledger = Ledger()
    old, new = versioned("1", [], ledger), versioned("2", [], ledger)
    async with replica(url, old, role="serve") as it:
        run = await it.start("changes")
        async with mortal_worker(url, new):
            done = await it.ended(run.run_id)
    assert (done.state, done.agent_version) == (run_pb2.RUN_STATE_SUCCEEDED, "2")


# Concurrency


async def test_no_more_runs_at_once_than_allowed(url: str) -> None:
    """Neither a process nor an agent has more runs at once than its limit says, and every run has its turn."""
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()

    def limited(agent_id: str, concurrency: int | None) -> Definition:
        @workflow(id=agent_id, concurrency=concurrency)
        async def body(ctx: RunContext, input: Any) -> None:
            for name in (agent_id, "all"):
                now[name] += 1
                most[name] = max(most[name], now[name])
            await asyncio.sleep(0.03)
            for name in (agent_id, "all"):
                now[name] -= 1

        return body

    agents = [limited("one", 1), limited("two", 2), limited("any", None)]
    async with replica(url, *agents, role="serve") as it:
        runs = [await it.start(agent.agent_id) for agent in agents for _ in range(6)]
        async with mortal_worker(url, *agents, concurrency=3, lease_seconds=60):
            for run in runs:
                assert (await it.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert most["one"] == 1
    assert most["two"] <= 2
    assert most["all"] == 3


async def test_runs_are_begun_in_the_order_they_came(url: str) -> None:
    """Oldest first, across agents."""
    order: list[str] = []

    @workflow(id="a")
    async def a(ctx: RunContext, input: str) -> None:
        order.append(input)

    @workflow(id="b")
    async def b(ctx: RunContext, input: str) -> None:
        order.append(input)

    async with replica(url, a, b, role="serve") as it:
        runs = [await it.start("ab"[number % 2], str(number)) for number in range(8)]
        async with mortal_worker(url, a, b, concurrency=1, lease_seconds=60):
            for run in runs:
                await it.ended(run.run_id)
    assert order == [str(number) for number in range(8)]


async def test_a_serving_process_executes_nothing_and_a_working_one_serves_nothing(url: str) -> None:
    """role=serve never claims; role=work answers health checks and reflection, and no other call."""
    async with replica(url, echo, role="serve") as it, replica(url, echo, role="work") as worker:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await worker.start("echo", "x")
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await it.do("echo", "x")).state == run_pb2.RUN_STATE_SUCCEEDED


# A store that fails


async def test_runs_outlive_a_store_that_fails(url: str) -> None:
    """While the store does not answer nothing is lost: what is to be written is written once it answers again."""
    held = Held()
    async with replica(url, held.definition, wrap=FaultyStore, lease_seconds=60) as it:
        run = await it.start("held")
        held.words.put_nowait("a")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
            it.store.down = True  # type: ignore[attr-defined]
            held.words.put_nowait("b")
            held.words.put_nowait("")
            await asyncio.sleep(0.3)  # several tries fail
            it.store.down = False  # type: ignore[attr-defined]
            await watch.rest()
        done = await it.get(run.run_id)
    assert dense(watch.events)
    assert fold(watch.events).text == "ab"
    assert outcomes(done) == ["finished"]


async def test_a_wake_that_meets_a_failing_store(url: str) -> None:
    """A store that fails just when a cancellation is looked up does not end the attempt: it is looked up again."""

    held = Held()
    async with replica(url, held.definition, wrap=failing_lookups(StoreUnavailable("not now")), lease_seconds=60) as it:
        run = await it.start("held")
        held.words.put_nowait("a")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
            await it.cancel(run.run_id)
            await watch.rest()
        done = await it.get(run.run_id)
        assert it.store.failures == 2  # type: ignore[attr-defined]
    assert done.state == run_pb2.RUN_STATE_CANCELLED
    assert outcomes(done) == ["finished"]


async def test_an_agent_does_not_outlive_its_attempt(sqlite_url: str) -> None:
    """When an attempt is given up for an error of ours its agent is stopped: nothing works on for a run that will be
    executed again."""
    stopped, broken = asyncio.Event(), asyncio.Event()

    @workflow(id="works")
    async def works(ctx: RunContext, input: Any) -> None:
        broken.set()
        await ctx.emit_text("that cannot be written")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    class Broken(FaultyStore):
        def __getattr__(self, name: str) -> Any:
            if name == "commit" and broken.is_set():
                raise RuntimeError("a fault of ours")
            return super().__getattr__(name)

    async with replica(sqlite_url, works, wrap=Broken, lease_seconds=60) as it:
        await it.start("works")
        await asyncio.wait_for(stopped.wait(), 10)
        broken.clear()


async def test_events_may_be_of_any_public_kind(sqlite_url: str) -> None:
    """An agent emits texts, reasoning, tool calls and events of its own kind; an empty text is no event."""

    @workflow(id="kinds")
    async def kinds(ctx: RunContext, input: Any) -> None:
        await ctx.emit_text("")
        await ctx.emit_text("text")
        await ctx.emit(run_event_pb2.ReasoningDelta(text="why"))
        await ctx.emit_custom("mine", {"a": [1, None, "x"]})
        with pytest.raises(TypeError, match="str is no payload"):
            await ctx.emit("text")
        with pytest.raises(TypeError):
            await ctx.emit(run_event_pb2.RunFinished())

    async with replica(sqlite_url, kinds) as it:
        run = await it.do("kinds")
        view = fold(await it.log(run.run_id))
    assert run.state == run_pb2.RUN_STATE_SUCCEEDED
    assert (view.text, view.reasoning) == ("text", "why")
    assert [(custom.type, custom.data) for custom in view.custom] == [("mine", {"a": [1, None, "x"]})]
