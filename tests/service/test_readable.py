"""What is accepted or produced can be read back, and what cannot be read harms only itself."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from agent_service.agents.context import RunContext
from agent_service.agents.definition import workflow
from agent_service.log import record
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.fold import fold
from runwire.pubsub import Commit, Schedule
from runwire.values import from_value
from tests.service.fuzzing import AGENT_SERVICE, Wire, deep
from tests.service.readable import every_run
from tests.service.replica import refused, replica, topic_of
from tests.service.test_fuzz import asks, assert_quiet, echo

ODD: dict[str, Any] = {"id": 2**63, "nan": math.nan, "half": "\ud83d", "bytes": b"\xff", 7: {1}}
CARRIED = {"id": str(2**63), "nan": "NaN", "half": "\ufffd", "bytes": "/w==", "7": [1]}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@workflow(id="odd")
async def odd(ctx: RunContext, input: Any) -> Any:
    async def step() -> Any:
        return {"nan": math.nan, "half": "\ud83d", "nothing": None}

    await ctx.emit_text("half \ud83d, and " + "long " * 200_000)
    await ctx.emit_custom("odd \ud83d", ODD)
    await ctx.emit_custom("deep", nested(1_000))
    await ctx.emit_custom("large", {"x": "x" * 3_000_000})
    raw = run_event_pb2.CustomEvent(type="raw")
    raw.data.fields["x"].number_value = math.inf
    await ctx.emit(raw)
    kept = await ctx.step("odd \ud83d", step)
    assert math.isnan(kept["nan"])
    return {"odd": ODD, "deep": nested(100_000)}


async def test_what_an_agent_produces_is_never_refused(url: str) -> None:
    """64-bit ids, NaN, lone surrogates, what is too deep or too large, in events, steps and the output: the run
    succeeds, in one attempt, and every client can read all of it."""
    async with replica(url, odd) as it:
        run = await it.do("odd", "x")
        assert (run.state, run.attempt) == (run_pb2.RUN_STATE_SUCCEEDED, 1), run.error
        view = fold(await it.watched(run.run_id))
        await every_run(it.channel)
    assert view.text.startswith("half \ufffd, and long long")
    assert len(view.text) > 1_000_000
    found = {each.type: each.data for each in view.custom}
    assert found["odd \ufffd"] == CARRIED
    assert "[too deep] " in str(found["deep"])
    assert str(found["large"]["value"]).startswith("[too large] ")
    assert found["raw"] == {"x": "Infinity"}
    output: Any = from_value(run.output)
    assert output["odd"] == CARRIED


async def test_what_a_run_waits_for_is_carried(url: str) -> None:
    """The same of what a suspended run shows, and the answer continues with the run."""

    @workflow(id="odd-question")
    async def question(ctx: RunContext, input: Any) -> Any:
        return await ctx.suspend("q", {"odd": ODD, "deep": nested(1_000), "large": "x" * 200_000})

    async with replica(url, question) as it:
        waiting = await it.suspended((await it.start("odd-question", None)).run_id)
        shown: Any = from_value(waiting.pending[0].arguments)
        assert shown["odd"] == CARRIED
        await every_run(it.channel)
        answer = run_event_pb2.Answer(request_id="suspend/q")
        answer.data.string_value = "yes"
        await it.resume(waiting.run_id, answer)
        assert (await it.ended(waiting.run_id)).output.string_value == "yes"


async def test_an_old_record_that_nobody_could_read(url: str) -> None:
    """A run that an older version stored, too deep, with NaN and an impossible timeout, or damaged altogether: ListRuns
    answers, with every run in it, and GetRun shows what can be shown."""
    poisoned = run_pb2.Run(run_id="poisoned", agent_id="echo", state=run_pb2.RUN_STATE_SUCCEEDED)
    poisoned.input.list_value.values.add(number_value=math.nan)
    poisoned.timeout.seconds = 2**60
    much_too_deep = run_pb2.Run(run_id="deep", agent_id="echo").SerializeToString()
    value = deep(33)
    much_too_deep += b"\x22" + _length(value) + value
    async with replica(url, echo) as it:
        before = await it.do("echo", "before")
        for run_id, data in {
            "poisoned": poisoned.SerializeToString(),
            "deep": much_too_deep,
            "damaged": b"\xff\xff",
            "deeper": b"\x22" + _length(deep(200)) + deep(200),
        }.items():
            await it.store.commit(
                Commit(
                    topic_of(run_id),
                    create=True,
                    queue="nobody",
                    indexes=(record.index_of("default"), record.index_of("default", "echo")),
                    puts={record.RUN: data},
                    schedule=Schedule.NEVER,
                )
            )
        after = await it.do("echo", "after")
        runs = {run.run_id: run for run in await every_run(it.channel, events_of=0)}
        assert set(runs) == {before.run_id, after.run_id, "poisoned", "deep", "damaged", "deeper"}
        for run_id in runs:
            json_format.MessageToJson(await it.get(run_id))
    assert from_value(runs["poisoned"].input) == ["NaN"]
    assert not runs["poisoned"].HasField("timeout")
    assert "[too deep] " in str(from_value(runs["deep"].input))
    assert runs["damaged"].error.reason == runs["deeper"].error.reason == "run_unreadable"


def _length(data: bytes) -> bytes:
    size, out = len(data), bytearray()
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*out, size])


@pytest.mark.parametrize(
    "data, field",
    [
        (b"\xff", "request"),
        (b"\x0a\x05abc", "request"),
        (b"\x0a\x01\xff", "agent_id"),
        (b"\x12\x03\x1a\x01\xff", "input"),
        (b"\x0a\x04echo\x12" + _length(deep(40)) + deep(40), "input"),
        (b"\x0a\x04echo\x2a\x02\x0a\x00\x2a\x03\x0a\x01\xff", "scorers[1].scorer_id"),
    ],
)
async def test_bytes_that_do_not_parse(
    memory_url: str, data: bytes, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are the caller's mistake: INVALID_ARGUMENT with a reason and the field, and not a word in the log."""
    method = AGENT_SERVICE.methods_by_name["StartRun"]
    async with replica(memory_url, echo) as it:
        refusal = await refused(Wire(it.channel).call(method, data))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")
        assert set(refusal.violations) == {field}
    assert_quiet(caplog)


async def test_an_input_that_is_too_deep_is_refused_with_its_path(memory_url: str) -> None:
    """31 levels are one too many; 30 are run and read back by every call."""
    async with replica(memory_url, echo) as it:
        await it.do("echo", nested(30))
        await every_run(it.channel)
        data = b"\x0a\x04echo\x12" + _length(deep(31)) + deep(31)
        refusal = await refused(Wire(it.channel).call(AGENT_SERVICE.methods_by_name["StartRun"], data))
        assert refusal.reason == "INVALID_REQUEST"
        assert refusal.violations == {"input" + ".a" * 30: "is nested more than 30 deep"}


async def test_clients_that_vanish_write_nothing_into_the_log(
    memory_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred calls of each kind that are cancelled, or whose connection closes, leave no traceback."""
    caplog.set_level(logging.WARNING)
    async with replica(memory_url, echo, asks) as it:
        waiting = await it.suspended((await it.start("asks", "x")).run_id)
        for turn in range(10):
            async with grpc.aio.insecure_channel(it.address, options=[("n", turn)]) as channel:
                wire = Wire(channel)
                calls = []
                for name, request in {
                    "WatchRun": pb.WatchRunRequest(run_id=waiting.run_id),
                    "ListRuns": pb.ListRunsRequest(),
                    "StartRun": pb.StartRunRequest(agent_id="echo"),
                    "GetRun": pb.GetRunRequest(run_id="nobody"),
                }.items():
                    method = AGENT_SERVICE.methods_by_name[name]
                    data = request.SerializeToString()  # type: ignore[attr-defined]
                    calls += [asyncio.ensure_future(wire.call(method, data, frames=99)) for _ in range(10)]
                await asyncio.sleep(0.002 * turn)
                for call in calls[::2]:
                    call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert (await it.get(waiting.run_id)).run_id == waiting.run_id
    assert_quiet(caplog)
