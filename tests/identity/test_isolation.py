"""The isolation walk: every RPC of both services, by everybody who may not, on SQLite and on Redis."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf import duration_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from agent_service import RunContext, workflow
from runwire.agent.v1 import agent_service_pb2 as agent_pb
from runwire.agent.v1 import run_event_pb2
from runwire.identity import policy, run_tokens, static_tokens, watched_files
from runwire.identity.principal import ADMIN, OWN, SCOPES, Principal
from runwire.identity.run_tokens import RunTokens
from runwire.scorer.v1 import scorer_port_pb2 as port_pb
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer.v1 import scorer_service_pb2 as scorer_pb
from runwire.values import to_value
from tests.identity.proofs import FAR, Issuer, Proofs, metadata
from tests.scorer.stage import service
from tests.servers import PostgresServer
from tests.service.conftest import sqlite_url, valkey_server, valkey_url  # noqa: F401 - fixtures
from tests.service.fuzzing import AGENT_SERVICE, SCORER_SERVICE, class_of
from tests.service.replica import LIMIT_SECONDS, Refusal, refusal_of, replica

METHODS: list[MethodDescriptor] = [*AGENT_SERVICE.methods, *SCORER_SERVICE.methods]
SECRET = "what nobody else may read"
MISSING_RUN = "0" * 32


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr("agent_service.app._COMING_IN_SECONDS", 0.0)


@workflow(id="asks")
async def asks(ctx: RunContext, input: str) -> str:
    """Asks for a name, and waits."""
    return str(await ctx.suspend("name", {"hint": input}))


@workflow(id="echo")
async def echo(ctx: RunContext, input: str) -> str:
    """Says it again."""
    return input


@dataclass
class Deployment:
    """Both services on one store, and who calls them."""

    proofs: Proofs
    channels: Mapping[str, grpc.aio.Channel]

    async def call(self, method: MethodDescriptor, request: Message, token: str) -> Message:
        """The answer, or the first frame. Raises AioRpcError."""
        channel = self.channels[method.containing_service.name]
        path = f"/{method.containing_service.full_name}/{method.name}"
        make = channel.unary_stream if method.server_streaming else channel.unary_unary
        call: Any = make(path, type(request).SerializeToString, class_of(method.output_type).FromString)(
            request, metadata=metadata(token), timeout=LIMIT_SECONDS
        )
        if not method.server_streaming:
            return await call  # type: ignore[no-any-return]
        try:
            frame = await call.read()
            assert frame is not grpc.aio.EOF
            return frame  # type: ignore[no-any-return]
        finally:
            call.cancel()

    async def refusal(self, method: MethodDescriptor, request: Message, token: str) -> Refusal | None:
        try:
            await self.call(method, request, token)
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)
        return None

    async def do(self, name: str, token: str, **fields: Any) -> Any:
        """Calls a method by its name."""
        method = next(each for each in METHODS if each.name == name)
        return await self.call(method, class_of(method.input_type)(**fields), token)


@asynccontextmanager
async def deployment(url: str, folder: Path) -> AsyncIterator[Deployment]:
    proofs = Proofs(folder)
    async with (
        replica(url, asks, echo, **proofs.settings) as agent,
        service(f"sqlite:///{folder}/scores.db", store=url, **proofs.settings) as scorer,
        grpc.aio.insecure_channel(scorer.address) as channel,
    ):
        yield Deployment(proofs, {"AgentService": agent.channel, "ScorerService": channel})


@dataclass(frozen=True)
class Things:
    """What somebody has."""

    run_id: str
    scorer_run_id: str


async def things_of(it: Deployment, token: str) -> Things:
    """A suspended run, and a scorer run of it. Everybody's have the same request ids and labels."""
    given = {"agent_id": "asks", "input": to_value(SECRET), "request_id": "one", "labels": {"team": "blue"}}
    run = (await it.do("StartRun", token, **given)).run
    while not (await it.do("GetRun", token, run_id=run.run_id)).run.pending:
        pass
    sample = scorer_run_requested_pb2.Sample(run_id=run.run_id, agent_id="asks", output=to_value(SECRET))
    asked = await it.do("RequestScorerRun", token, scorer_id="brevity", sample=sample, request_id="one")
    things = Things(run.run_id, asked.scorer_run.scorer_run_id)
    while not asked.scorer_run.HasField("end_time"):
        asked = await it.do("GetScorerRun", token, scorer_run_id=things.scorer_run_id)
    return things


def requests(things: Things) -> dict[str, Message]:
    """A good request of each RPC, for the things of somebody. An RPC without one fails the walk."""
    answer = run_event_pb2.Answer(request_id="suspend/name", data=to_value("me"))
    sample = scorer_run_requested_pb2.Sample(run_id=things.run_id, by_reference=True)
    by_run, second = scorer_pb.ScorerRunFilter(run_id=things.run_id), duration_pb2.Duration(seconds=1)
    return {
        "ListAgents": agent_pb.ListAgentsRequest(),
        "StartRun": agent_pb.StartRunRequest(agent_id="echo", input=to_value("x")),
        "GetRun": agent_pb.GetRunRequest(run_id=things.run_id),
        "ListRuns": agent_pb.ListRunsRequest(labels={"team": "blue"}),
        "WatchRun": agent_pb.WatchRunRequest(run_id=things.run_id),
        "ListRunEvents": agent_pb.ListRunEventsRequest(run_id=things.run_id),
        "CancelRun": agent_pb.CancelRunRequest(run_id=things.run_id),
        "ResumeRun": agent_pb.ResumeRunRequest(run_id=things.run_id, answers=[answer]),
        "CreateRunToken": agent_pb.CreateRunTokenRequest(run_id=things.run_id),
        "SendMessage": agent_pb.SendMessageRequest(run_id=things.run_id, message=to_value("x")),
        "EndConversation": agent_pb.EndConversationRequest(run_id=things.run_id),
        "ForkRun": agent_pb.ForkRunRequest(run_id=things.run_id),
        "DeleteRuns": agent_pb.DeleteRunsRequest(run_ids=[things.run_id]),
        "DeleteScorerRuns": scorer_pb.DeleteScorerRunsRequest(run_ids=[things.run_id]),
        "ListTurns": agent_pb.ListTurnsRequest(run_id=things.run_id),
        "ListWorkers": agent_pb.ListWorkersRequest(),
        "ListQueues": agent_pb.ListQueuesRequest(),
        "ListScorerWorkers": scorer_pb.ListScorerWorkersRequest(),
        "ListScorerQueues": scorer_pb.ListScorerQueuesRequest(),
        "ListScorers": scorer_pb.ListScorersRequest(),
        "GetScorerRun": scorer_pb.GetScorerRunRequest(scorer_run_id=things.scorer_run_id, include_sample=True),
        "ListScorerRuns": scorer_pb.ListScorerRunsRequest(filter=by_run),
        "WatchScorerRuns": scorer_pb.WatchScorerRunsRequest(run_id=things.run_id, heartbeat_interval=second),
        "RequestScorerRun": scorer_pb.RequestScorerRunRequest(scorer_id="brevity", sample=sample),
        "RetryScorerRuns": scorer_pb.RetryScorerRunsRequest(filter=by_run),
        "CancelScorerRuns": scorer_pb.CancelScorerRunsRequest(filter=by_run),
        "PauseScorer": scorer_pb.PauseScorerRequest(scorer_id="brevity"),
        "ResumeScorer": scorer_pb.ResumeScorerRequest(scorer_id="brevity"),
        "GetScorerStats": scorer_pb.GetScorerStatsRequest(),
        "ListScorerBudgets": scorer_pb.ListScorerBudgetsRequest(),
        "SetScorerBudget": scorer_pb.SetScorerBudgetRequest(budget={"max_tokens": 10**9, "window": {"seconds": 60}}),
        "SubmitScore": scorer_pb.SubmitScoreRequest(run_id=things.run_id, scorer_id="helpful", value=1),
        "RegisterScorer": port_pb.RegisterScorerRequest(scorer=port_pb.ExternalScorer(scorer_id="mine", version="1")),
        "ClaimScorerRuns": port_pb.ClaimScorerRunsRequest(
            worker="w", scorers=[port_pb.ScorerVersion(scorer_id="brevity", version="1")]
        ),
        "ReportScorerRun": port_pb.ReportScorerRunRequest(
            worker="w", scorer_run_id=things.scorer_run_id, claim=1, scorer_version="1", score={"value": 1}
        ),
    }


NAMES_A_THING = (
    "GetRun",
    "WatchRun",
    "ListRunEvents",
    "CancelRun",
    "ResumeRun",
    "SendMessage",
    "EndConversation",
    "ListTurns",
    "ForkRun",
    "CreateRunToken",
    "GetScorerRun",
    "SubmitScore",
)
"""RPCs about one thing: another's is NOT_FOUND, in the words of one that there is not."""


OF_ALL_TENANTS = ("PauseScorer", "ResumeScorer", "ListWorkers", "ListQueues", "ListScorerWorkers", "ListScorerQueues")
"""RPCs for operators: they name nothing of a tenant, and processes and agents are of all."""

MAKES_A_THING = ("StartRun", "RequestScorerRun")
"""RPCs whose answer is new each time, and one's own."""


def _other_key(proofs: Proofs, folder: Path) -> str:
    return Issuer(folder / "other.json").token(scope=" ".join(SCOPES))


def _other_run_token(proofs: Proofs, folder: Path) -> str:
    path = folder / "other-keys"
    path.write_text(run_tokens.new_key())
    admin = Principal("x", "acme", frozenset({ADMIN}))
    return RunTokens(path).create(admin, MISSING_RUN, 60.0)[0]


BAD: dict[str, tuple[Callable[[Proofs, Path], str], str, str]] = {
    "no token": (lambda proofs, _: "", "UNAUTHENTICATED", "TOKEN_MISSING"),
    "a made-up token": (lambda *_: "rw_0123456789ab_" + "A" * 43, "UNAUTHENTICATED", "TOKEN_INVALID"),
    "an altered token": (lambda proofs, _: proofs.token("x")[:-2] + "__", "UNAUTHENTICATED", "TOKEN_INVALID"),
    "a forged JWT": (_other_key, "UNAUTHENTICATED", "TOKEN_INVALID"),
    "an expired token": (
        lambda proofs, _: proofs.token("x", expire_time=time.time() - 1),
        "UNAUTHENTICATED",
        "TOKEN_EXPIRED",
    ),
    "an expired JWT": (
        lambda proofs, _: proofs.issuer.token(exp=time.time() - 3600),
        "UNAUTHENTICATED",
        "TOKEN_EXPIRED",
    ),
    "a revoked token": (lambda proofs, _: proofs.revoked("x"), "UNAUTHENTICATED", "TOKEN_REVOKED"),
    "a JWT for others": (lambda proofs, _: proofs.issuer.token(aud="other"), "UNAUTHENTICATED", "TOKEN_INVALID"),
    "a JWT of others": (lambda proofs, _: proofs.issuer.token(iss="other"), "UNAUTHENTICATED", "TOKEN_INVALID"),
    "an altered run token": (_other_run_token, "UNAUTHENTICATED", "TOKEN_INVALID"),
    "a JWT of no tenant": (lambda proofs, _: proofs.issuer.token(tenant=None), "UNAUTHENTICATED", "TOKEN_INVALID"),
}
"""How each proof is made, and how every call with it ends."""


async def test_the_walk(url: str, tmp_path: Path) -> None:
    """Whoever has no proof, no scope, or nothing to do with a thing gets the documented status from every RPC, and
    finds out nothing; then the things are as they were."""
    async with deployment(url, tmp_path) as it:
        victim = it.proofs.token("victim", "acme")
        things = await things_of(it, victim)
        before = [
            await it.do("GetRun", victim, run_id=things.run_id),
            await it.do("GetScorerRun", victim, scorer_run_id=things.scorer_run_id),
        ]
        good, missing = requests(things), requests(Things(MISSING_RUN, MISSING_RUN))
        faults = [
            *await unproven(it, good, tmp_path),
            *await without_scope(it, good),
            *await foreign(it, good, missing, things, it.proofs.token("victim", "other")),
            *await foreign(it, good, missing, things, it.proofs.token("victim", "third", ADMIN)),
            *await foreign(it, good, missing, things, it.proofs.issuer.token(sub="victim", tenant="ac", scope=ADMIN)),
            *await foreign(it, good, missing, things, it.proofs.token("else", "acme", own=True)),
        ]
        assert not faults, "\n".join(faults[:20])
        after = [
            await it.do("GetRun", victim, run_id=things.run_id),
            await it.do("GetScorerRun", victim, scorer_run_id=things.scorer_run_id),
        ]
        assert before == after


async def unproven(it: Deployment, good: dict[str, Message], folder: Path) -> list[str]:
    faults = []
    for kind, (make, code, reason) in BAD.items():
        token = make(it.proofs, folder)
        for method in METHODS:
            refusal = await it.refusal(method, good[method.name], token)
            if refusal is None or (refusal.code.name, refusal.reason) != (code, reason):
                faults.append(f"{method.name} with {kind}: {refusal}")
    return faults


async def without_scope(it: Deployment, good: dict[str, Message]) -> list[str]:
    faults = []
    for method in METHODS:
        scope = _rule(method)
        token = it.proofs.token("x", "acme", *(each for each in SCOPES if each not in (scope, ADMIN, OWN)))
        refusal = await it.refusal(method, good[method.name], token)
        if refusal is None or (refusal.code.name, refusal.reason) != ("PERMISSION_DENIED", "SCOPE_MISSING"):
            faults.append(f"{method.name} without {scope}: {refusal}")
    return faults


def _rule(method: MethodDescriptor) -> str:
    return policy.RULES[f"/{method.containing_service.full_name}/{method.name}"]


async def foreign(
    it: Deployment, good: dict[str, Message], missing: dict[str, Message], things: Things, token: str
) -> list[str]:
    """What somebody finds out who has all scopes, and to whom the things do not belong."""
    faults = []
    for method in sorted(METHODS, key=lambda each: each.name in MAKES_A_THING):
        if method.name in OF_ALL_TENANTS:
            continue
        answers = [await _answer(it, method, each[method.name], token) for each in (good, missing)]
        there, absent = (_anonymous(answer, things) for answer in answers)
        if method.name in NAMES_A_THING and not there.startswith("NOT_FOUND"):
            faults.append(f"{method.name} of another: {there}")
        if method.name not in MAKES_A_THING and there != absent:
            faults.append(f"{method.name} tells what is there: {there} instead of {absent}")
        if SECRET in there or things.scorer_run_id in there:
            faults.append(f"{method.name} tells a secret: {there}")
    return faults


async def _answer(it: Deployment, method: MethodDescriptor, request: Message, token: str) -> str:
    try:
        answer = await it.call(method, request, token)
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        return f"{refusal.code.name} {refusal}"
    for field in ("cursor", "heartbeat"):  # of one's own log, and of now
        if field in type(answer).DESCRIPTOR.fields_by_name:
            answer.ClearField(field)
    return str(answer)


def _anonymous(answer: str, things: Things) -> str:
    for name in (things.run_id, things.scorer_run_id, MISSING_RUN):
        answer = answer.replace(name, "ID")
    return answer


async def test_two_tenants_with_the_same_names(url: str, tmp_path: Path) -> None:
    """Tenants with the same request ids, agents and labels have runs and scores of their own, and each list, page,
    cursor, filter and statistic is of one tenant."""
    async with deployment(url, tmp_path) as it:
        tokens = [it.proofs.token("anna", tenant, *SCOPES[:5]) for tenant in ("acme", "other", "ac")]
        found = [await things_of(it, token) for token in tokens]
        assert len({each.run_id for each in found}) == len({each.scorer_run_id for each in found}) == 3
        for token, own in zip(tokens, found, strict=True):
            for filters in ({}, {"labels": {"team": "blue"}}, {"agent_id": "asks"}, {"states": [3]}):
                listed = (await it.do("ListRuns", token, **filters)).runs
                assert [run.run_id for run in listed] == [own.run_id], filters
            scores = (await it.do("ListScorerRuns", token)).scorer_runs
            assert [run.scorer_run_id for run in scores] == [own.scorer_run_id]
            stats = (await it.do("GetScorerStats", token)).stats
            assert sum(sum(count.count for count in each.counts) for each in stats) <= 1
        for place in ("ListRunEvents", "WatchRun"):
            cursor = (await it.do("ListRunEvents", tokens[0], run_id=found[0].run_id)).cursor
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await it.do(place, tokens[1], run_id=found[1].run_id, cursor=cursor)
            assert refusal_of(caught.value).reason == "CURSOR_MISMATCH"


async def test_owners_of_one_tenant(url: str, tmp_path: Path) -> None:
    """Who sees only its own sees what it started, with request ids of its own; who sees all sees everybody's, with
    the owner."""
    async with deployment(url, tmp_path) as it:
        tokens = {name: it.proofs.token(name, "acme", own=True) for name in ("anna", "ben")}
        found = {name: await things_of(it, token) for name, token in tokens.items()}
        for name, token in tokens.items():
            own = found[name]
            run = (await it.do("GetRun", token, run_id=own.run_id)).run
            assert run.owner == name
            assert [each.run_id for each in (await it.do("ListRuns", token)).runs] == [own.run_id]
            by_run = scorer_pb.ScorerRunFilter(run_id=own.run_id)
            listed = (await it.do("ListScorerRuns", token, filter=by_run)).scorer_runs
            assert [each.scorer_run_id for each in listed] == [own.scorer_run_id]
            for method in ("ListScorerRuns", "GetScorerStats"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await it.do(method, token)
                assert refusal_of(caught.value).reason == "OWN_ONLY"
        everybody = it.proofs.token("chief", "acme")
        listed = (await it.do("ListRuns", everybody)).runs
        assert {each.run_id: each.owner for each in listed} == {found[name].run_id: name for name in tokens}
        await it.do("CancelRun", tokens["anna"], run_id=found["anna"].run_id)


async def test_two_deployments_on_one_redis(valkey_url: str, tmp_path: Path) -> None:  # noqa: F811 - a fixture
    """With a prefix each, the same tenant, request id and agent are two runs, and neither deployment sees, executes or
    ends the other's."""
    async with (
        deployment(f"{valkey_url}?prefix=blue:", tmp_path) as blue,
        replica(f"{valkey_url}?prefix=green:", asks, **blue.proofs.settings) as green,
    ):
        token = blue.proofs.token("anna", "acme")
        things = await things_of(blue, token)
        green_stub = Deployment(blue.proofs, {"AgentService": green.channel})
        assert not (await green_stub.do("ListRuns", token)).runs
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await green_stub.do("GetRun", token, run_id=things.run_id)
        assert refusal_of(caught.value).reason == "RUN_NOT_FOUND"
        same = (await green_stub.do("StartRun", token, agent_id="asks", input=to_value("y"), request_id="one")).run
        assert same.run_id == things.run_id
        await green_stub.do("CancelRun", token, run_id=same.run_id)
        assert not (await blue.do("GetRun", token, run_id=things.run_id)).run.cancel_requested


async def test_two_deployments_in_one_postgresql(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """With a schema each, the same tenant and request id are two scorer runs; neither deployment lists, counts or
    cancels the other's, and a pause holds in its own."""
    database = postgres_url.rpartition("/")[2]
    connection = await asyncpg.connect(postgres_server.url(database))
    try:
        await connection.execute("CREATE SCHEMA blue; CREATE SCHEMA green")
    finally:
        await connection.close()
    proofs = Proofs(tmp_path)
    urls = {name: f"{postgres_url}?options=-c%20search_path%3D{name}" for name in ("blue", "green")}
    stores = {name: f"sqlite:///{tmp_path}/{name}.db" for name in urls}
    async with (
        service(urls["blue"], store=stores["blue"], **proofs.settings) as blue,
        service(urls["green"], store=stores["green"], **proofs.settings) as green,
        grpc.aio.insecure_channel(blue.address) as blue_channel,
        grpc.aio.insecure_channel(green.address) as green_channel,
    ):
        here, there = (Deployment(proofs, {"ScorerService": each}) for each in (blue_channel, green_channel))
        token = proofs.token("anna", "acme", ADMIN)
        await here.do("PauseScorer", token, scorer_id="brevity")
        sample = scorer_run_requested_pb2.Sample(output=to_value(SECRET))
        given = {"scorer_id": "brevity", "sample": sample, "request_id": "one"}
        asked = (await here.do("RequestScorerRun", token, **given)).scorer_run
        assert not (await there.do("ListScorerRuns", token)).scorer_runs
        assert not any(each.eligible for each in (await there.do("GetScorerStats", token)).stats)
        assert (await there.do("CancelScorerRuns", token, scorer_run_ids=[asked.scorer_run_id])).count == 0
        assert not any(each.paused for each in (await there.do("ListScorers", token)).scorers)
        same = (await there.do("RequestScorerRun", token, **given)).scorer_run
        assert same.scorer_run_id == asked.scorer_run_id
        while not same.HasField("end_time"):
            same = (await there.do("GetScorerRun", token, scorer_run_id=same.scorer_run_id)).scorer_run
        held = (await here.do("GetScorerRun", token, scorer_run_id=asked.scorer_run_id)).scorer_run
        assert not held.HasField("end_time"), "a pause here held nothing here"


async def test_a_run_token_reads_one_run(url: str, tmp_path: Path) -> None:
    """It reads its run by four RPCs; every other call with it is refused, every other run is NOT_FOUND, and a key that
    is taken out of the file ends it."""
    async with deployment(url, tmp_path) as it:
        victim = it.proofs.token("victim", "acme")
        things = await things_of(it, victim)
        another = (await it.do("StartRun", victim, agent_id="echo", input=to_value("y"))).run.run_id
        token = (await it.do("CreateRunToken", victim, run_id=things.run_id)).token
        good, others = requests(things), requests(Things(another, things.scorer_run_id))
        for method in METHODS:
            reads = method.name in ("GetRun", "WatchRun", "ListRunEvents", "ListTurns")
            refusal = await it.refusal(method, good[method.name], token)
            assert (refusal and refusal.reason) == (None if reads else "SCOPE_MISSING"), method.name
            refusal = await it.refusal(method, others[method.name], token)
            assert refusal is not None, method.name
            assert refusal.reason == ("RUN_NOT_FOUND" if reads else "SCOPE_MISSING"), method.name
        old = it.proofs.keys.read_text()
        it.proofs.keys.write_text(run_tokens.new_key() + "\n" + old)
        newer = (await it.do("CreateRunToken", victim, run_id=things.run_id)).token
        for each in (token, newer):
            assert (await it.do("GetRun", each, run_id=things.run_id)).run.run_id == things.run_id
        it.proofs.keys.write_text(it.proofs.keys.read_text().splitlines()[0])
        assert (await it.do("GetRun", newer, run_id=things.run_id)).run.run_id == things.run_id
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.do("GetRun", token, run_id=things.run_id)
        assert refusal_of(caught.value).reason == "TOKEN_INVALID"


async def test_who_did_it_is_kept(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run says who started, answered and cancelled it, whatever the request says of that; the audit log has a line
    for each change by a principal, with its outcome, and no secret."""
    async with deployment(url, tmp_path) as it:
        tokens = {name: it.proofs.token(name, "acme") for name in ("anna", "ben", "cleo")}
        things = await things_of(it, tokens["anna"])
        answer = run_event_pb2.Answer(request_id="suspend/name", data=to_value(SECRET), by="somebody else")
        await it.do("ResumeRun", tokens["ben"], run_id=things.run_id, answers=[answer])
        other = (await it.do("StartRun", tokens["anna"], agent_id="asks", input=to_value("x"))).run.run_id
        for name in ("cleo", "ben"):
            run = (await it.do("CancelRun", tokens[name], run_id=other)).run
        assert (run.owner, run.cancelled_by) == ("anna", "cleo")
        listed = (await it.do("ListRuns", tokens["ben"])).runs
        assert {each.run_id: each.cancelled_by for each in listed} == {other: "cleo", things.run_id: ""}
        events: list[run_event_pb2.RunEvent] = []
        while not any(event.HasField("run_resumed") for event in events):
            events = list((await it.do("ListRunEvents", tokens["ben"], run_id=things.run_id)).events)
        resumed = next(event.run_resumed for event in events if event.HasField("run_resumed"))
        assert [each.by for each in resumed.answers] == ["ben"]
        with pytest.raises(grpc.aio.AioRpcError):
            await it.do("ResumeRun", tokens["cleo"], run_id=things.run_id, answers=[answer])
    lines = [json.loads(record.message) for record in caplog.records if record.name == "runwire.audit"]
    assert [(line["subject"], line["action"], line["outcome"]) for line in lines] == [
        ("anna", "StartRun", "done"),
        ("anna", "RequestScorerRun", "done"),
        ("ben", "ResumeRun", "done"),
        ("anna", "StartRun", "done"),
        ("cleo", "CancelRun", "done"),
        ("ben", "CancelRun", "done"),
        ("cleo", "ResumeRun", "failed"),
    ]
    assert all(line["tenant"] == "acme" and "run_id" in line for line in lines if line["action"] != "RequestScorerRun")
    assert SECRET not in str(lines)


async def test_who_did_it_is_shown_of_scores(url: str, tmp_path: Path) -> None:
    """A scorer run says who asked for it, cancelled and redrove it, in answers and lists; a scorer who paused it, to
    the tenant of that principal alone."""
    async with deployment(url, tmp_path) as it:
        tokens = {name: it.proofs.token(name, "acme") for name in ("anna", "cleo")}
        tokens["ben"] = it.proofs.token("ben", "acme", ADMIN)
        stranger = it.proofs.token("stranger", "globex")
        paused = (await it.do("PauseScorer", tokens["ben"], scorer_id="brevity")).scorer
        assert (paused.paused, paused.paused_by) == (True, "ben")
        for token, by in ((tokens["cleo"], "ben"), (stranger, "")):
            listed = (await it.do("ListScorers", token)).scorers
            assert [(each.paused, each.paused_by) for each in listed if each.scorer_id == "brevity"] == [(True, by)]
        sample = scorer_run_requested_pb2.Sample(output=to_value("x"))
        asked = (await it.do("RequestScorerRun", tokens["anna"], scorer_id="brevity", sample=sample)).scorer_run
        ids = [asked.scorer_run_id]
        assert (await it.do("CancelScorerRuns", stranger, scorer_run_ids=ids)).count == 0

        async def who() -> tuple[str, str, str]:
            found = (await it.do("GetScorerRun", tokens["anna"], scorer_run_id=ids[0])).scorer_run
            [listed] = (await it.do("ListScorerRuns", tokens["anna"], filter=scorer_pb.ScorerRunFilter())).scorer_runs
            assert found.cancelled_by == listed.cancelled_by
            return found.requested_by, found.redriven_by, found.cancelled_by

        assert await who() == ("anna", "", "")
        assert (await it.do("CancelScorerRuns", tokens["ben"], scorer_run_ids=ids, dry_run=True)).count == 1
        assert await who() == ("anna", "", "")
        assert (await it.do("CancelScorerRuns", tokens["ben"], scorer_run_ids=ids)).count == 1
        assert await who() == ("anna", "", "ben")
        assert (await it.do("RetryScorerRuns", tokens["cleo"], scorer_run_ids=ids)).count == 1
        assert await who() == ("anna", "cleo", "")
        resumed = (await it.do("ResumeScorer", tokens["ben"], scorer_id="brevity")).scorer
        assert (resumed.paused, resumed.paused_by) == (False, "")


async def test_a_stream_ends_with_its_proof(url: str, tmp_path: Path) -> None:
    """A stream whose token is revoked continues for a heartbeat at most, and cannot be resumed with it."""
    async with deployment(url, tmp_path) as it:
        token = it.proofs.token("anna", "acme", expire_time=FAR)
        things = await things_of(it, token)
        stub = it.channels["AgentService"].unary_stream(
            "/runwire.agent.v1.AgentService/WatchRun",
            agent_pb.WatchRunRequest.SerializeToString,
            agent_pb.WatchRunResponse.FromString,
        )
        request = agent_pb.WatchRunRequest(run_id=things.run_id)
        request.heartbeat_interval.FromSeconds(1)
        call = stub(request, metadata=metadata(token), timeout=LIMIT_SECONDS)
        while (await call.read()).WhichOneof("frame") != "caught_up":
            pass
        static_tokens.revoke(it.proofs.tokens, token.split("_")[1])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_out(call)
        assert refusal_of(caught.value).reason == "STREAM_MAX_AGE"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(request, metadata=metadata(token), timeout=LIMIT_SECONDS).read()
        assert refusal_of(caught.value).reason == "TOKEN_REVOKED"


async def _read_out(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
