"""RunContext's small parts: retry delays, idempotency keys, types of results."""

import asyncio
import gc
import tracemalloc
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from agent_service import Retry, RunContext, ScorerRef, durable_agent, workflow
from agent_service.agents.definition import Definition
from agent_service.log.history import Past
from agent_service.log.journal import MAX_ENTRY_BYTES, Journal, JournalEntryTooLarge
from runwire.agent.v1 import run_pb2
from runwire.errors import ConfigurationError, InvalidRequest
from runwire.values import to_value


class Notebook:
    """Stands for the LogWriter: keeps what is written, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []
        self.puts: dict[str, bytes] = {}

    async def emit(self, step: int = 0, **payload: Any) -> None:
        self.told += [(step, name) for name in payload]

    async def write(self, changes: Any, step: int = 0, **payload: Any) -> None:
        self.puts.update(changes.puts)
        await self.emit(step, **payload)


def context(run_id: str = "run", tenant: str = "default", fields: dict[str, bytes] | None = None) -> RunContext:
    notebook: Any = Notebook()
    return RunContext(
        run=run_pb2.Run(run_id=run_id, agent_id="agent", attempt=1),
        tenant=tenant,
        past=Past(),
        writer=notebook,
        journal=Journal(fields or {}, notebook),
        answers={},
        now=lambda: 1_000.0,
    )


@given(st.integers(1, 60), st.floats(0.001, 10), st.floats(1, 4), st.floats(0.01, 100))
def test_delays_between_tries(tries: int, delay: float, factor: float, most: float) -> None:
    """Each delay lies between nothing and an exponential bound that itself is bounded."""
    policy = Retry(attempts=100, delay_seconds=delay, factor=factor, max_delay_seconds=most)
    assert 0 <= policy.delay(tries) <= min(most, delay * factor ** (tries - 1))


def test_a_step_may_be_tried_for_ever() -> None:
    """However often a step has failed, there is a next delay."""
    assert 0 <= Retry(attempts=10**9, factor=10.0, max_delay_seconds=5.0).delay(10**6) <= 5.0


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"delay_seconds": -1.0}, {"max_delay_seconds": -1.0}, {"factor": 0.5}]
)
def test_a_policy_that_is_wrong(wrong: dict[str, Any]) -> None:
    """A policy that says nothing sensible is refused by name, and not understood as another one."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retry(**wrong)


def test_idempotency_keys() -> None:
    """A key depends on tenant, run and call, and on nothing else."""
    key = context().idempotency_key("call")
    assert key == context().idempotency_key("call")
    others = [
        context().idempotency_key("other"),
        context("other").idempotency_key("call"),
        context(tenant="other").idempotency_key("call"),
        context("ru", tenant="default\0n").idempotency_key("call"),
    ]
    assert len({key, *others}) == 5
    assert len(key) == 32


class Point(BaseModel):
    x: int
    y: int = 0


@dataclass
class Size:
    width: int


async def a_model() -> Point:
    return Point(x=1)


async def a_dataclass() -> Size:
    return Size(3)


async def models() -> dict[str, list[Point]]:
    return {"a": [Point(x=1), Point(x=2, y=3)]}


async def nothing() -> None:
    return None


async def bytes_() -> bytes:
    return b"abc"


async def untyped():  # type: ignore[no-untyped-def]
    return {"a": (1, 2)}


@pytest.mark.parametrize(
    "function, expected",
    [
        (a_model, Point(x=1)),
        (a_dataclass, Size(3)),
        (models, {"a": [Point(x=1), Point(x=2, y=3)]}),
        (nothing, None),
        (bytes_, b"abc"),
        (untyped, {"a": [1, 2]}),
    ],
)
async def test_a_result_has_its_type_when_it_is_remembered(function: Any, expected: Any) -> None:
    """What a step returns is the same, and of the same type, in the attempt that did it and in one that remembers."""
    first = context()
    assert await first.step("step", function) == expected
    fields: dict[str, bytes] = first._writer.puts  # type: ignore[attr-defined]

    async def never() -> Any:
        raise AssertionError("it was done already")

    never.__annotations__ = dict(function.__annotations__)
    again = context(fields=fields)
    assert await again.step("step", never) == expected
    assert again._writer.told == []  # type: ignore[attr-defined]


async def test_gather_cancels_the_others_when_one_fails() -> None:
    """The first error is raised as it is, and what was under way beside it is cancelled."""
    cancelled = asyncio.Event()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("first")

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    ctx = context()
    with pytest.raises(KeyError, match="first"):
        await ctx.gather(a=ctx.step("a", fails), b=ctx.step("b", hangs))
    assert cancelled.is_set()


async def test_a_journal_entry_is_bounded() -> None:
    """An entry at the limit is kept, one above it is refused with advice, and nothing of it is."""
    notebook: Any = Notebook()
    journal = Journal({"journal/old": b"1", "other": b"2"}, notebook)
    assert journal.get("old") == b"1"
    assert journal.get("other") is None
    await journal.record("full", b"x" * MAX_ENTRY_BYTES)
    with pytest.raises(JournalEntryTooLarge, match="reference"):
        await journal.record("too full", b"x" * (MAX_ENTRY_BYTES + 1))
    assert sorted(journal.keys()) == ["full", "old"]
    assert sorted(journal.fields()) == ["journal/full", "journal/old"]
    assert set(notebook.puts) == {"journal/full"}


# Definitions


def test_a_workflow_is_described() -> None:
    """Types, first paragraph and schema of a workflow come from its function."""

    @workflow(id="w")
    async def body(ctx: RunContext, input: Point) -> list[int]:
        """Adds.

        Slowly.
        """
        return [input.x]

    assert (body.description, body.input_type, body.output_type) == ("Adds.", Point, list[int])
    assert body.parse_input(to_value({"x": 3})) == Point(x=3)
    with pytest.raises(InvalidRequest) as wrong:
        body.parse_input(to_value({"x": "three", "y": None}))
    assert set(wrong.value.violations) == {"input.x", "input.y"}
    assert body.dump_output([1, 2]) == to_value([1, 2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"agent_id": ""},
        {"agent_id": "x" * 129},
        {"agent_id": "x", "on_version_change": "ignore"},
        {"agent_id": "x", "concurrency": 0},
        {"agent_id": "x", "scorers": [ScorerRef("s", match_states=["running"])]},
        {"agent_id": "x", "scorers": [ScorerRef("s", match_states=["odd"])]},
        {"agent_id": "x", "scorers": [ScorerRef("s", sampling=2.0)]},
    ],
)
def test_a_definition_that_is_wrong(wrong: dict[str, Any]) -> None:
    """A definition that cannot be served is refused when it is made."""

    async def body(ctx: RunContext, input: Any) -> None: ...

    with pytest.raises(ConfigurationError):
        assert Definition(body=body, **wrong).proto


async def twice(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize(
    "misuse, hint",
    [
        (lambda ctx: ctx.step("a", twice(1)), "do not call it"),
        (lambda ctx: ctx.step(twice, 1), "its name is missing"),
        (lambda ctx: ctx.step(twice(1), 1), "its name is missing"),
        (lambda ctx: ctx.step(7, twice), "must be str"),
        (lambda ctx: ctx.step("", twice, 1), "1 to 256 printable"),
        (lambda ctx: ctx.step("a\n", twice, 1), "1 to 256 printable"),
        (lambda ctx: ctx.step("x" * 257, twice, 1), "1 to 256 printable"),
        (lambda ctx: ctx.step("a", "twice"), "expected an async function, got str"),
        (lambda ctx: ctx.step("a", len, "x"), "len is not async: it returned int"),
        (lambda ctx: ctx.step("a", unkept), "unkept returned cannot be remembered"),
        (lambda ctx: ctx.gather(twice(1), twice(2)), "give each a name"),
        (lambda ctx: ctx.gather(a=twice(1), b=twice), "b cannot be awaited"),
        (lambda ctx: ctx.sleep(0.0, name="x" * 300), "1 to 256 printable"),
        (lambda ctx: ctx.suspend(""), "1 to 256 printable"),
        (lambda ctx: ctx.step("a", twice, 1, retry=3), "retry is 3; it must be a Retry"),
        (lambda ctx: ctx.step("a", twice, 1, timeout_seconds=timedelta(1)), "timeout_seconds is .* a number above 0"),
        (lambda ctx: ctx.step("a", twice, 1, timeout_seconds=0), "timeout_seconds is 0"),
        (lambda ctx: ctx.sleep("5"), "duration is '5'; it must be a number of seconds or a timedelta"),
        (lambda ctx: ctx.sleep(None), "duration is None"),
        (lambda ctx: ctx.suspend("a", timeout="5"), "timeout is '5'"),
        (lambda ctx: ctx.emit_text(None), "emit_text: expected str, got NoneType"),
        (lambda ctx: ctx.emit({"text": "a"}), "dict is no payload"),
        (lambda ctx: ctx.receive(), "start it with StartRunRequest.conversation"),
    ],
)
async def test_misuse_says_what_to_write(misuse: Any, hint: str, recwarn: pytest.WarningsRecorder) -> None:
    """A mistake with steps is told as the mistake it is, with what to write, and leaves no coroutine behind."""
    with pytest.raises((TypeError, ValueError, RuntimeError), match=hint):
        await misuse(context())
    gc.collect()
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


@pytest.mark.parametrize(
    "forget, hint",
    [
        (lambda ctx: ctx.step("a", twice, 1), "ctx.step was called and never awaited"),
        (lambda ctx: ctx.sleep(5.0), "ctx.sleep was called and never awaited"),
        (lambda ctx: ctx.suspend("a"), "ctx.suspend was called and never awaited"),
        (lambda ctx: ctx.gather(a=ctx.step("a", twice, 1)), "ctx.step was called and never awaited"),
    ],
)
async def test_what_is_never_awaited(forget: Any, hint: str) -> None:
    """A workflow that forgets an await does not succeed without what it believes done."""

    @workflow(id="forgetful")
    async def forgetful(ctx: RunContext, input: Any) -> None:
        forget(ctx)
        await ctx.step("b", twice, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, of a gather that is not awaited
        with pytest.raises(RuntimeError, match=hint):
            await forgetful.body(context(), None)


async def test_what_is_awaited_is_not_kept() -> None:
    """However many steps there are, few are remembered to look whether they were awaited."""
    ctx = context()
    for number in range(500):
        await ctx.step(f"step-{number}", twice, number)
    assert len(ctx._unseen) <= 64
    ctx.check_awaited()


@pytest.mark.parametrize(
    "misuse, hint",
    [
        (lambda: workflow(_flow), "write @workflow"),
        (lambda: workflow()(_flow), "write @workflow"),
        (lambda: workflow(id="w")(lambda ctx, input: None), "expected `async def"),
        (lambda: workflow(id="w", scorers=["keyword-coverage"])(_flow), r"scorers=\[ScorerRef"),
        (lambda: durable_agent("agent"), "expected a pydantic_ai.Agent, got str"),
        (lambda: durable_agent(_agent, deps={"a": 1}), "deps is 'dict'; it must be a function"),
        (lambda: durable_agent(_agent, tool_retry=3), "tool_retry is 3; it must be a Retry"),
        (lambda: durable_agent(_agent, limits=20), "limits is 20; it must be pydantic_ai.usage.UsageLimits"),
        (lambda: durable_agent(_agent, lifespan=7), "must be a function with @asynccontextmanager"),
    ],
)
def test_a_definition_that_is_misused(misuse: Any, hint: str) -> None:
    """What would fail in every run is told where it is written, with what to write."""
    with pytest.raises(ConfigurationError, match=hint):
        misuse()


async def _flow(ctx: RunContext, input: Any) -> None: ...


_agent = Agent(TestModel(), name="agent")


async def unkept() -> Any:
    return object()


async def test_results_of_steps_do_not_stay_in_memory() -> None:
    """What a step returned is stored for later attempts; the attempt that did it keeps none of it."""
    ctx = context()

    async def large() -> str:
        return "x" * 100_000

    tracemalloc.start()
    for number in range(50):
        await ctx.step(f"step-{number}", large)
        ctx._writer.puts.clear()  # type: ignore[attr-defined]
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000
    assert len(ctx.journal.fields()) == 50
