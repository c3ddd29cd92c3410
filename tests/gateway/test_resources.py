"""The unary RPCs as HTTP resources."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from gateway import openapi
from gateway.resources import RESOURCES
from runwire.agent.v1 import agent_service_pb2
from runwire.scorer.v1 import scorer_service_pb2


def test_every_rpc_has_a_path() -> None:
    """No RPC of either service is without a resource, but those that are streams or the pages of one."""
    services = (
        agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"],
        scorer_service_pb2.DESCRIPTOR.services_by_name["ScorerService"],
    )
    rpcs = {method.name for service in services for method in service.methods}
    assert rpcs - {each.rpc for each in RESOURCES} == {"WatchRun", "ListRunEvents", "WatchScorerRuns"}


def test_a_run_from_start_to_end(http: httpx.Client, start: Callable[..., str]) -> None:
    """A run is started, found by its label, and shown with what it returned."""
    run_id = start("ticker", {"count": 3, "interval_ms": 1}, labels={"team": "a b"})
    with http.stream("GET", f"/v1/runs/{run_id}/events", headers={"Accept": "text/event-stream"}) as stream:
        stream.read()
    run = http.get(f"/v1/runs/{run_id}").json()
    assert run["state"] == "RUN_STATE_SUCCEEDED"
    assert run["output"] == {"count": 3.0}
    found = http.get("/v1/runs", params={"agent": "ticker", "label": "team=a b", "state": "succeeded"}).json()["runs"]
    assert run_id in [each["runId"] for each in found]


def test_an_answer(http: httpx.Client, start: Callable[..., str]) -> None:
    """What a suspended run waits for is answered by a POST, and a second answer is a conflict."""
    run_id = start("asker", "why?")
    with http.stream("GET", f"/v1/runs/{run_id}/events", headers={"Accept": "text/event-stream"}) as stream:
        for line in stream.iter_lines():
            if "runSuspended" in line:
                break
    wanted = http.get(f"/v1/runs/{run_id}").json()["pending"][0]["requestId"]
    answers = {"answers": [{"requestId": wanted, "data": "Ada"}]}
    assert http.post(f"/v1/runs/{run_id}/answers", json=answers).status_code == 200
    answers["answers"][0]["data"] = "Bob"
    assert http.post(f"/v1/runs/{run_id}/answers", json=answers).status_code == 409


def test_scores(http: httpx.Client) -> None:
    """A sample is scored ad hoc, and its scorer run is listed and counted."""
    asked = {"sample": {"input": "a b", "output": "a b", "runState": "succeeded"}, "requestId": "gateway"}
    made = http.post("/v1/scorers/content-similarity/scorer-runs", json=asked)
    assert made.status_code == 201, made.text
    scorer_run_id = made.json()["scorerRunId"]
    assert http.get(f"/v1/scorer-runs/{scorer_run_id}").json()["scorerId"] == "content-similarity"
    listed = http.get("/v1/scorer-runs", params={"scorer": "content-similarity", "pageSize": 5}).json()["scorerRuns"]
    assert scorer_run_id in [each["scorerRunId"] for each in listed]
    assert http.get("/v1/scorer-stats", params={"scorer": "content-similarity"}).status_code == 200


@pytest.mark.parametrize(
    "method, path, body, status, reason, field",
    [
        ("GET", "/v1/runs/none", None, 404, "RUN_NOT_FOUND", None),
        ("GET", "/v1/nothing", None, 404, "NO_SUCH_RESOURCE", None),
        ("DELETE", "/v1/runs", None, 405, "NO_SUCH_RESOURCE", None),
        ("GET", "/v1/runs?state=odd", None, 400, "INVALID_REQUEST", "state"),
        ("GET", "/v1/runs?colour=red", None, 400, "INVALID_REQUEST", "colour"),
        ("GET", "/v1/runs?label=nothing", None, 400, "INVALID_REQUEST", "label"),
        ("GET", "/v1/runs?agent=a&agent=b", None, 400, "INVALID_REQUEST", "agent"),
        ("GET", "/v1/runs?pageSize=many", None, 400, "INVALID_REQUEST", "pageSize"),
        ("POST", "/v1/agents/none/runs", "{}", 404, "AGENT_NOT_FOUND", None),
        ("POST", "/v1/agents/ticker/runs", "{", 400, "INVALID_REQUEST", "body"),
        ("POST", "/v1/agents/ticker/runs", "[]", 400, "INVALID_REQUEST", "body"),
        ("POST", "/v1/agents/ticker/runs", "[" * 100_000, 400, "INVALID_REQUEST", "body"),
        ("POST", "/v1/agents/ticker/runs", '{"labels": {"a": 1}}', 400, "INVALID_REQUEST", "labels"),
        ("POST", "/v1/agents/ticker/runs", '{"inputs": 1}', 400, "INVALID_REQUEST", "inputs"),
        ("POST", "/v1/agents/ticker/runs", '{"agentId": "other"}', 400, "INVALID_REQUEST", "agentId"),
        ("POST", "/v1/agents/ticker/runs", '{"input": "no ticks"}', 400, "INVALID_REQUEST", "input"),
        ("POST", "/v1/agents/ticker/runs", " " * (4 * 1024 * 1024 + 1), 413, "NO_SUCH_RESOURCE", None),
        ("POST", "/v1/scorer-runs/retry", "{}", 400, "INVALID_REQUEST", None),
    ],
)  # fmt: skip
def test_problems(
    http: httpx.Client, method: str, path: str, body: str | None, status: int, reason: str, field: str | None
) -> None:
    """What is wrong with a request is told as problem+json with the reason, and the field where there is one."""
    answer = http.request(method, path, content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["reason"] == reason
    if field is not None:
        assert field in [each["field"] for each in problem["violations"]]


def test_the_document_names_every_path(http: httpx.Client) -> None:
    """The OpenAPI document has every resource, and every reference in it leads somewhere."""
    document = http.get("/openapi.json").json()
    assert {each.path for each in RESOURCES} <= set(document["paths"])

    def references(part: object) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            return own.union(*map(references, part.values()))
        return set().union(*map(references, part)) if isinstance(part, list) else set()

    made = {f"#/components/schemas/{name}" for name in openapi.document()["components"]["schemas"]}
    assert references(document) <= made


def test_pages_elsewhere(http: httpx.Client) -> None:
    """Only origins that are allowed may read answers, and none may use the cookie of our pages."""
    ours = http.get("/v1/agents", headers={"Origin": "https://app.example"})
    assert ours.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in ours.headers
    assert (
        "access-control-allow-origin" not in http.get("/v1/agents", headers={"Origin": "https://evil.example"}).headers
    )


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_page_elsewhere_changes_nothing(http: httpx.Client, headers: dict[str, str]) -> None:
    """A request that another origin's page makes the browser send, with its cookie, starts nothing."""
    http.cookies.set("runwire_token", "stolen")
    answer = http.post("/v1/agents/ticker/runs", json={}, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["reason"] == "CROSS_ORIGIN"
