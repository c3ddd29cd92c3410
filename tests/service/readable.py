"""Whether everything that a service has stored can be listed and read, as a client in any language reads it."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import json_format

from runwire.agent.v1 import agent_service_pb2 as agent_pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.scorer.v1 import scorer_service_pb2 as scorer_pb
from runwire.scorer.v1 import scorer_service_pb2_grpc


async def pages(call: Any, request: Any, name: str) -> list[Any]:
    found: list[Any] = []
    while True:
        answer = await call(request)
        json_format.MessageToJson(answer)
        found.extend(getattr(answer, name))
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def every_run(channel: grpc.aio.Channel, *, events_of: int = 50) -> list[Any]:
    """All runs, each of which is in the list, by itself and as JSON; the events of the first ones too."""
    stub = agent_service_pb2_grpc.AgentServiceStub(channel)
    await pages(stub.ListAgents, agent_pb.ListAgentsRequest(), "agents")
    runs = await pages(stub.ListRuns, agent_pb.ListRunsRequest(page_size=200), "runs")
    for run in runs[:events_of]:
        json_format.MessageToJson(await stub.GetRun(agent_pb.GetRunRequest(run_id=run.run_id)))
        request = agent_pb.ListRunEventsRequest(run_id=run.run_id)
        await pages(stub.ListRunEvents, request, "events")
    return runs


async def every_scorer_run(channel: grpc.aio.Channel, *, samples_of: int = 100) -> list[Any]:
    """All scorer runs, each of which is in the list, by itself with its sample, and as JSON."""
    stub = scorer_service_pb2_grpc.ScorerServiceStub(channel)
    await pages(stub.ListScorers, scorer_pb.ListScorersRequest(), "scorers")
    found = await pages(stub.ListScorerRuns, scorer_pb.ListScorerRunsRequest(page_size=200), "scorer_runs")
    for each in found[:samples_of]:
        request = scorer_pb.GetScorerRunRequest(scorer_run_id=each.scorer_run_id, include_sample=True)
        json_format.MessageToJson(await stub.GetScorerRun(request))
    json_format.MessageToJson(await stub.GetScorerStats(scorer_pb.GetScorerStatsRequest()))
    return found
