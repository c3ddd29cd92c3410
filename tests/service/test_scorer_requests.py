"""What a finishing run asks of the scorer service: read from the store's queue, as that service does."""

import hashlib
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from agent_service import Definition, ScorerRef, workflow
from agent_service.agents.context import RunContext
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import ConfigurationError
from runwire.scorer.v1 import scorer_run_requested_pb2 as pb
from runwire.scorer_requests import QUEUE, is_sampled
from runwire.values import from_struct, from_value, to_struct, to_value
from tests.service.replica import Replica, mortal_worker, replica
from tests.service.test_durability import Ledger
from tests.service.test_frames import Held
from tests.service.test_runs import asks, echo, fails


async def requests(it: Replica) -> list[pb.ScorerRunRequested]:
    """All messages of the queue, in order."""
    found = await it.store.receive(QUEUE, consumer="test", limit=1000, lease_seconds=60)
    await it.store.acknowledge(QUEUE, [delivery.message_id for delivery in found])
    return [pb.ScorerRunRequested.FromString(delivery.body) for delivery in found]


def asked(found: Sequence[pb.ScorerRunRequested]) -> list[str]:
    return sorted(request.scorer_id for request in found)


def scorer(scorer_id: str, **fields: Any) -> run_pb2.ScorerRef:
    return run_pb2.ScorerRef(scorer_id=scorer_id, **fields)


@workflow(id="scored", version="7", scorers=[ScorerRef("brevity", version="2", options={"words": 3})])
async def scored(ctx: RunContext, input: dict[str, Any]) -> str:
    await ctx.emit_text("before ")
    await ctx.step("first", say, ctx, "hello")
    await ctx.step("second", call, ctx)
    return "output"


async def say(ctx: RunContext, word: str) -> None:
    await ctx.emit_text(word)


async def call(ctx: RunContext) -> None:
    for outcome, name in enumerate(("succeeded", "failed", "denied", "unknown"), start=1):
        arguments = to_value({"n": outcome})
        await ctx.emit(run_event_pb2.ToolCallStarted(tool_call_id=name, tool_name=f"tool {name}", arguments=arguments))
        await ctx.emit(
            run_event_pb2.ToolCallFinished(
                tool_call_id=name, tool_name=f"tool {name}", result=to_value([outcome]), outcome=outcome
            )
        )


async def test_a_request_holds_all_that_a_scorer_needs(url: str) -> None:
    """A message for each scorer, in the documented form: ids, sampling, the sample with its steps and tool calls."""
    async with replica(url, scored) as it:
        run = await it.do(
            "scored",
            {"question": "?"},
            labels={"tier": "gold"},
            scorers=[scorer("other")],
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            tracestate="vendor=1",
        )
        brevity, other = sorted(await requests(it), key=lambda request: request.scorer_id)
    parts = ("default", run.run_id, "brevity", "2")
    assert brevity.scorer_run_id == hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    assert other.scorer_run_id == hashlib.sha256("\0".join((*parts[:2], "other", "")).encode()).hexdigest()[:32]
    assert (brevity.tenant, brevity.scorer_id, brevity.scorer_version) == ("default", "brevity", "2")
    assert from_struct(brevity.options) == {"words": 3}
    assert not other.HasField("options")
    assert brevity.sampling == pb.SamplingDecision(rate=1.0, sampled=True)
    assert (brevity.traceparent, brevity.tracestate) == (
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "vendor=1",
    )
    assert brevity.sibling_count == other.sibling_count == 2
    assert brevity.request_time == run.end_time
    sample = brevity.sample
    assert sample == other.sample
    assert (sample.run_id, sample.agent_id, sample.agent_version) == (run.run_id, "scored", "7")
    assert (sample.run_state, sample.by_reference) == ("succeeded", False)
    assert (from_value(sample.input), from_value(sample.output)) == ({"question": "?"}, "output")
    assert dict(sample.labels) == {"tier": "gold"}
    assert (sample.start_time, sample.end_time) == (run.start_time, run.end_time)
    assert [(step.step, step.name, step.text) for step in sample.steps] == [
        (1, "scored", "before "),
        (2, "first", "hello"),
        (3, "second", ""),
    ]
    names = ["succeeded", "failed", "denied", "unknown"]
    assert [call.tool_call_id for call in sample.tool_calls] == names
    assert [call.outcome for call in sample.tool_calls] == ["succeeded", "failed", "denied", "unknown_after_crash"]
    assert [from_value(call.arguments) for call in sample.tool_calls] == [{"n": n} for n in range(1, 5)]
    assert [from_value(call.result) for call in sample.tool_calls] == [[n] for n in range(1, 5)]
    assert {call.step for call in sample.tool_calls} == {3}


async def test_a_run_without_scorers_asks_for_nothing(url: str) -> None:
    """No scorers, no messages."""
    async with replica(url, echo) as it:
        await it.do("echo", "x")
        assert await requests(it) == []


async def test_a_scorer_of_the_request_replaces_the_agent_s(url: str) -> None:
    """One of the agent's with the same id and name is replaced; one with another name stands beside it."""
    async with replica(url, scored) as it:
        refs = [scorer("brevity", scorer_version="9"), scorer("brevity", name="strict")]
        await it.do("scored", {}, scorers=refs)
        found = {request.scorer_name: request for request in await requests(it)}
    assert sorted(found) == ["", "strict"]
    assert found[""].scorer_version == "9"
    assert {request.sibling_count for request in found.values()} == {2}


async def test_one_scorer_several_times(url: str) -> None:
    """Each use of a scorer has a name, options and an id of its own, which the documented formula gives."""
    refs = [scorer("x", name=name, options=to_struct({"n": name})) for name in ("", "a", "b")]
    async with replica(url, echo) as it:
        run = await it.do("echo", "x", scorers=refs)
        found = await requests(it)
    assert {each.scorer_name: each.options["n"] for each in found} == {"": "", "a": "a", "b": "b"}
    for each in found:
        parts = ["default", run.run_id, "x", "", *([each.scorer_name] if each.scorer_name else [])]
        assert each.scorer_run_id == hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@pytest.mark.parametrize("names", [("", ""), ("a", "b", "a")])
async def test_a_scorer_twice_under_one_name_is_refused(sqlite_url: str, names: tuple[str, ...]) -> None:
    """One of the two would be dropped without a word: INVALID_ARGUMENT names the second."""
    async with replica(sqlite_url, echo) as it:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.start("echo", "x", scorers=[scorer("x", name=name) for name in names])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"scorers[{len(names) - 1}].name" in str(caught.value.details())


def test_an_agent_with_a_scorer_twice_is_refused() -> None:
    """The author is told at the definition, with the reference that repeats another."""
    with pytest.raises(ConfigurationError, match="'strict'"):
        Definition("a", echo.body, scorers=[ScorerRef("x", name="strict"), ScorerRef("x", name="strict")])
    with pytest.raises(ConfigurationError, match="printable"):
        ScorerRef("x", name="a\n").to_proto()


async def test_only_runs_that_end_as_wanted_are_eligible(url: str) -> None:
    """By default a run that succeeded; one that failed or was cancelled only if the scorer asks for such."""
    refs = [
        scorer("default"),
        scorer("succeeded", match_states=[run_pb2.RUN_STATE_SUCCEEDED]),
        scorer("failed", match_states=[run_pb2.RUN_STATE_FAILED]),
        scorer("cancelled", match_states=[run_pb2.RUN_STATE_CANCELLED]),
        scorer("any", match_states=[4, 5, 6]),
    ]
    async with replica(url, echo, fails, asks) as it:
        await it.do("echo", "x", scorers=refs)
        assert asked(await requests(it)) == ["any", "default", "succeeded"]
        await it.do("fails", "no", scorers=refs)
        failed = await requests(it)
        assert asked(failed) == ["any", "failed"]
        assert {(each.sample.run_state, each.sample.error_reason) for each in failed} == {("failed", "agent_error")}
        assert {each.sample.error_message for each in failed} == {"'no'"}
        waiting = await it.start("asks", ["name"], scorers=refs)
        await it.suspended(waiting.run_id)
        assert await requests(it) == []
        await it.cancel(waiting.run_id)
        await it.ended(waiting.run_id)
        cancelled = await requests(it)
        assert asked(cancelled) == ["any", "cancelled"]
        assert {each.sample.run_state for each in cancelled} == {"cancelled"}


async def test_only_runs_with_the_labels_wanted_are_eligible(url: str) -> None:
    """All of `match_labels` must be there with their values; a run that lacks one makes no request."""
    refs = [
        scorer("gold", match_labels={"tier": "gold"}),
        scorer("gold in eu", match_labels={"tier": "gold", "region": "eu"}),
        scorer("empty", match_labels={"tier": ""}),
    ]
    async with replica(url, echo) as it:
        for labels, expected in (
            ({}, []),
            ({"tier": "gold"}, ["gold"]),
            ({"tier": "silver", "region": "eu"}, []),
            ({"tier": "gold", "region": "eu", "more": "x"}, ["gold", "gold in eu"]),
        ):
            run = await it.do("echo", "x", labels=labels, scorers=refs)
            found = await requests(it)
            assert asked(found) == expected, run.labels
            assert {request.sibling_count for request in found} <= {len(expected)}


async def test_sampling_is_recorded_either_way(url: str) -> None:
    """A request is made for every run and says whether it is sampled; who is at one rate is at every higher one."""
    rates = [0.0, 0.1, 0.3, 0.5, 0.9, 1.0]
    async with replica(url, echo) as it:
        for number in range(30):
            run = await it.do("echo", number, scorers=[scorer(str(rate), sampling=rate) for rate in rates])
            decisions = {request.sampling.rate: request.sampling.sampled for request in await requests(it)}
            place = int.from_bytes(hashlib.sha256(run.run_id.encode()).digest()[:6], "big") / 2**48
            assert decisions == {rate: place < rate for rate in rates}


def test_sampling_takes_its_share() -> None:
    """Of many runs about as many are sampled as the rate says, and those of a rate are among those of a higher one."""
    runs = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(20_000)]
    before: set[str] = set()
    for rate in (0.0, 0.01, 0.25, 0.8, 1.0):
        sampled = {run for run in runs if is_sampled(run, rate)}
        assert before <= sampled
        assert len(sampled) / len(runs) == pytest.approx(rate, abs=0.01)
        before = sampled


async def test_a_large_sample_goes_by_reference(url: str) -> None:
    """A sample above the limit leaves out what GetRun and ListRunEvents have, and says so."""
    async with replica(url, echo, max_sample_bytes=10_000) as it:
        small = await it.do("echo", "x" * 4_000, scorers=[scorer("s")])
        [request] = await requests(it)
        assert request.sample.output == small.output
        assert not request.sample.by_reference
        large = await it.do("echo", "x" * 6_000, labels={"a": "b"}, scorers=[scorer("s")])
        [request] = await requests(it)
    sample = request.sample
    assert sample.by_reference
    assert not sample.HasField("input")
    assert not sample.HasField("output")
    assert not sample.steps
    assert (sample.run_id, sample.run_state, dict(sample.labels)) == (large.run_id, "succeeded", {"a": "b"})
    assert sample.ByteSize() < 500


async def test_one_set_of_requests_however_many_workers_died(url: str) -> None:
    """A run whose workers died asks once, and its sample has each step once, as it was done last."""
    ledger = Ledger()

    @workflow(id="falters", scorers=[ScorerRef("a"), ScorerRef("b")])
    async def falters(ctx: RunContext, input: Any) -> None:
        async def speak() -> None:
            await ctx.emit_text(f"{ledger.note('speak')} ")
            if ledger.done["speak"] < 3:
                ledger.note("died")
                await Held().words.get()

        await ctx.step("speak", speak)

    async with replica(url, falters, role="serve") as it:
        run = await it.start("falters")
        for number in (1, 2):
            async with mortal_worker(url, falters, lease_seconds=0.2):
                await ledger.wait_for("died", number)
        async with mortal_worker(url, falters, lease_seconds=0.2):
            await it.ended(run.run_id)
        found = await requests(it)
    assert asked(found) == ["a", "b"]
    assert [(step.name, step.text) for step in found[0].sample.steps] == [("speak", "2 ")]


async def test_the_same_run_never_asks_twice(url: str) -> None:
    """A repeated StartRun, a late CancelRun and a late worker add no request."""
    async with replica(url, scored) as it, replica(url, scored) as other:
        run = await it.start("scored", {}, request_id="one")
        await it.ended(run.run_id)
        await other.start("scored", {}, request_id="one")
        await other.cancel(run.run_id)
        assert asked(await requests(it)) == ["brevity"]
        assert await requests(other) == []


def test_options_are_kept() -> None:
    """The options of a ScorerRef reach the request as they are."""
    ref = ScorerRef("s", options={"keywords": ["a"], "n": 1.5}, match_labels={"a": "b"}, match_states=("failed",))
    proto = ref.to_proto()
    assert proto.options == to_struct({"keywords": ["a"], "n": 1.5})
    assert list(proto.match_states) == [run_pb2.RUN_STATE_FAILED]
