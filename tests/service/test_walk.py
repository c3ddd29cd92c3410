"""Every field of every request of both services, set to every extreme."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from runwire import bounds
from runwire.agent.v1 import agent_service_pb2 as agent_pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.scorer.v1 import scorer_port_pb2 as port_pb
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer.v1 import scorer_service_pb2 as scorer_pb
from runwire.values import to_value
from tests.scorer.stage import service
from tests.service.fuzzing import AGENT_SERVICE, SCORER_SERVICE, Wire, extremes, fault, fields, wrapped
from tests.service.readable import every_run, every_scorer_run
from tests.service.replica import replica
from tests.service.test_fuzz import asks, assert_quiet, echo

METHODS: list[MethodDescriptor] = [*AGENT_SERVICE.methods, *SCORER_SERVICE.methods]


def walk(method: MethodDescriptor) -> Iterator[tuple[Sequence[FieldDescriptor], bytes]]:
    for way in fields(method.input_type):
        for content in extremes(way[-1], largest=len(way) == 1):
            yield way, wrapped(way, content)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_field_has_a_bound(method: MethodDescriptor) -> None:
    """No field of text, bytes, a list or a map of a request is without a bound."""
    assert bounds.unbounded(method.input_type) == []


def test_no_bound_is_of_nothing() -> None:
    """Each entry of the table is a field of a request."""
    there = {way[-1].full_name for method in METHODS for way in fields(method.input_type)}
    assert set(bounds.BOUNDS) <= there


async def walked(wire: Wire, methods: Any, good: dict[str, bytes]) -> list[str]:
    """What was wrong with the answers to `good` requests with one field set to each extreme."""
    faults = []
    for method in methods:
        for way, content in walk(method):
            refusal = await wire.refusal(method, good.get(method.name, b"") + content)
            path = ".".join(each.name for each in way)
            if problem := fault(refusal):
                faults.append(f"{method.name} {path} {content[:60]!r}: {problem}")
            elif refusal is not None and refusal.reason in ("INVALID_REQUEST", "REQUEST_MALFORMED"):
                named = [field.partition("[")[0].partition(".")[0] for field in refusal.violations]
                if way[0].name not in named:
                    faults.append(f"{method.name} {path} {content[:60]!r}: names {list(refusal.violations)}")
    return faults


async def test_every_field_of_agents_at_its_extremes(memory_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each is refused with a status of the contract and a violation that names the field, or is accepted, and then
    everything is still listed and read."""
    caplog.set_level(logging.WARNING)
    async with replica(memory_url, echo, asks) as it:
        waiting = await it.suspended((await it.start("asks", "who?")).run_id)
        answer = run_event_pb2.Answer(request_id="suspend/name", data=to_value("me"))
        talk = await it.start("asks", "who?", conversation=run_pb2.Conversation())
        good = {
            "StartRun": agent_pb.StartRunRequest(agent_id="echo", input=to_value("x")),
            "GetRun": agent_pb.GetRunRequest(run_id=waiting.run_id),
            "WatchRun": agent_pb.WatchRunRequest(run_id=waiting.run_id),
            "ListRunEvents": agent_pb.ListRunEventsRequest(run_id=waiting.run_id),
            "DeleteRuns": agent_pb.DeleteRunsRequest(run_ids=["x"]),
            "CancelRun": agent_pb.CancelRunRequest(run_id=waiting.run_id),
            "CreateRunToken": agent_pb.CreateRunTokenRequest(run_id=waiting.run_id),
            "ResumeRun": agent_pb.ResumeRunRequest(run_id=waiting.run_id, answers=[answer]),
            "SendMessage": agent_pb.SendMessageRequest(run_id=talk.run_id, message=to_value("x")),
            "EndConversation": agent_pb.EndConversationRequest(run_id=talk.run_id),
            "ForkRun": agent_pb.ForkRunRequest(run_id=waiting.run_id),
            "ListTurns": agent_pb.ListTurnsRequest(run_id=talk.run_id),
        }
        faults = await walked(
            Wire(it.channel),
            AGENT_SERVICE.methods,
            {name: request.SerializeToString() for name, request in good.items()},  # type: ignore[attr-defined]
        )
        assert not faults, "\n".join(faults[:10])
        assert await every_run(it.channel)
    assert_quiet(caplog)


async def test_every_field_of_scorers_at_its_extremes(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The same of ScorerService."""
    caplog.set_level(logging.WARNING)
    async with service(sqlite_url) as it, grpc.aio.insecure_channel(it.address) as channel:
        sample = scorer_run_requested_pb2.Sample(run_id="run-1", output=to_value("red"))
        good = {
            "GetScorerRun": scorer_pb.GetScorerRunRequest(scorer_run_id="x"),
            "WatchScorerRuns": scorer_pb.WatchScorerRunsRequest(run_id="run-1"),
            "RequestScorerRun": scorer_pb.RequestScorerRunRequest(scorer_id="keyword-coverage", sample=sample),
            "RetryScorerRuns": scorer_pb.RetryScorerRunsRequest(scorer_run_ids=["x"]),
            "DeleteScorerRuns": scorer_pb.DeleteScorerRunsRequest(run_ids=["x"]),
            "CancelScorerRuns": scorer_pb.CancelScorerRunsRequest(scorer_run_ids=["x"]),
            "PauseScorer": scorer_pb.PauseScorerRequest(scorer_id="brevity"),
            "ResumeScorer": scorer_pb.ResumeScorerRequest(scorer_id="brevity"),
            "SetScorerBudget": scorer_pb.SetScorerBudgetRequest(
                budget={"max_tokens": 10**9, "window": {"seconds": 60}}
            ),
            "SubmitScore": scorer_pb.SubmitScoreRequest(run_id="run-1", scorer_id="helpful", value=1),
            "RegisterScorer": port_pb.RegisterScorerRequest(
                scorer=port_pb.ExternalScorer(scorer_id="elsewhere", version="1")
            ),
            "ClaimScorerRuns": port_pb.ClaimScorerRunsRequest(
                worker="w", scorers=[port_pb.ScorerVersion(scorer_id="elsewhere", version="1")]
            ),
            "ReportScorerRun": port_pb.ReportScorerRunRequest(worker="w", scorer_run_id="x", score={"value": 1}),
        }
        faults = await walked(
            Wire(channel),
            SCORER_SERVICE.methods,
            {name: request.SerializeToString() for name, request in good.items()},  # type: ignore[attr-defined]
        )
        assert not faults, "\n".join(faults[:10])
        assert await every_scorer_run(channel)
    assert_quiet(caplog)
