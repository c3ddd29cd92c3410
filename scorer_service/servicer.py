"""ScorerService over gRPC: answered by Queries, Controls and Watch. That requests keep their bounds is seen to by
`runwire.rpc`; here is checked what depends on more than one field."""

from __future__ import annotations

import json
import math
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias

import grpc

from runwire.agent.v1 import run_pb2
from runwire.errors import (
    InvalidRequest,
    RunNotFound,
    ScorerNotFound,
    ScorerRunNotFound,
    StreamMaxAge,
)
from runwire.identity.principal import Principal, caller
from runwire.paging import decode_token, encode_token, page_size
from runwire.scorer.v1 import scorer_port_pb2, scorer_run_pb2, scorer_service_pb2_grpc
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.scorer_requests import PEOPLE, scorer_run_id
from runwire.times import microseconds_of, seconds_of, timestamp
from runwire.values import from_struct
from scorer_service.answers import budgets as budget_messages
from scorer_service.answers import messages
from scorer_service.answers.controls import Controls, Place, Selection, Walk
from scorer_service.answers.queries import MAX_ANSWER_WEIGHT, Filter, Found, Queries
from scorer_service.answers.statistics import Statistics
from scorer_service.answers.tallied import Window
from scorer_service.answers.watch import Frame, Watch
from scorer_service.people import messages as people_messages
from scorer_service.people.opinions import Opinions
from scorer_service.port import messages as port_messages
from scorer_service.port.external import External
from scorer_service.port.port import Port
from scorer_service.queue.budgets import Budgets
from scorer_service.queue.holders import Holder, Holders, by_scorer
from scorer_service.registry import Registry, newest_of
from scorer_service.results.records import NewRun, Priority, json_text

_ALL_SECONDS: Final = 20.0
_MAX_TIME: Final = sys.float_info.max
_PAGE_SECONDS: Final = 5.0
_DEFAULT_HEARTBEAT_SECONDS: Final = 10.0

Context = Any
Owns: TypeAlias = Callable[[str, str, str], Awaitable[bool]]
"""Whether a run (tenant, run_id) was started by a subject."""
Brief: TypeAlias = Callable[[str, str], Awaitable[run_pb2.Run | None]]
"""A run (tenant, run_id) of the store, or None."""
_Walked: TypeAlias = pb.RetryScorerRunsRequest | pb.CancelScorerRunsRequest


class ScorerServicer(scorer_service_pb2_grpc.ScorerServiceServicer):
    """See proto/runwire/scorer/v1/scorer_service.proto for what each call promises."""

    def __init__(
        self,
        queries: Queries,
        statistics: Statistics,
        controls: Controls,
        watch: Watch,
        registry: Registry,
        holders: Holders,
        port: Port,
        opinions: Opinions,
        budgets: Budgets,
        *,
        owns: Owns,
        brief: Brief,
        judge_model: str,
        max_sample_bytes: int,
    ) -> None:
        self._holders = holders
        self._port = port
        self._opinions = opinions
        self._budgets = budgets
        self._brief = brief
        self._queries = queries
        self._statistics = statistics
        self._controls = controls
        self._watch = watch
        self._registry = registry
        self._judge_model = judge_model
        self._owns = owns
        self._max_sample_bytes = max_sample_bytes

    async def ListScorers(self, request: pb.ListScorersRequest, context: Context) -> pb.ListScorersResponse:
        size, place = page_size(request), decode_token(request, str)
        found = by_scorer(await self._holders.all(caller().tenant))
        external = await self._external()
        known = sorted({*self._registry.ids, *found, *external})
        names = [name for name in known if place is None or name > place[0]]
        paused = await self._queries.paused(caller().tenant)
        scorers = [self._listed(name, paused, found.get(name, ()), external.get(name)) for name in names[:size]]
        token = encode_token(request, names[size - 1]) if len(names) > size else ""
        return pb.ListScorersResponse(scorers=scorers, next_page_token=token)

    async def GetScorerRun(self, request: pb.GetScorerRunRequest, context: Context) -> pb.GetScorerRunResponse:
        who = caller()
        found = await self._queries.get(
            who.tenant, _text(request.scorer_run_id, "scorer_run_id"), with_sample=request.include_sample
        )
        if found is None or not await self._sees(who, found.run.run_id):
            raise ScorerRunNotFound(f"there is no scorer run {request.scorer_run_id!r}")
        return pb.GetScorerRunResponse(scorer_run=await self._whole(found))

    async def _whole(self, found: Found) -> scorer_run_pb2.ScorerRun:
        """A scorer run with all that is known of it."""
        message = messages.scorer_run(found, partial_results=True)
        if message.scorer_name == PEOPLE and message.author:
            message.opinions.extend(map(people_messages.opinion, await self._opinions.of(message.scorer_run_id)))
        return message

    async def ListScorerRuns(self, request: pb.ListScorerRunsRequest, context: Context) -> pb.ListScorerRunsResponse:
        size, wanted = page_size(request), _filter(caller(), request.filter)
        if not await self._may_see(caller(), request.filter.run_id, "a list of all runs' scores"):
            return pb.ListScorerRunsResponse()
        place = decode_token(request, float, str)
        page = await self._queries.page(wanted, limit=size, after=(place[0], place[1]) if place else None)
        made = (messages.scorer_run(one) for one in page.found)
        runs = list(messages.within(made, MAX_ANSWER_WEIGHT))
        last = page.after
        if len(runs) < len(page.found):
            cut = page.found[len(runs) - 1].run
            last = (cut.create_time, cut.scorer_run_id)
        token = encode_token(request, [_finite(last[0]), last[1]]) if last else ""
        return pb.ListScorerRunsResponse(scorer_runs=runs, next_page_token=token)

    async def WatchScorerRuns(
        self, request: pb.WatchScorerRunsRequest, context: Context
    ) -> AsyncIterator[pb.WatchScorerRunsResponse]:
        run_id = _text(request.run_id, "run_id", required=not request.all_runs)
        if run_id and request.all_runs:
            raise InvalidRequest({"all_runs": "must not be set beside run_id"})
        seconds = _heartbeat_seconds(request)
        if not await self._may_see(caller(), run_id, "what all runs score"):
            raise RunNotFound(f"no such run: {run_id}", run_id=run_id)
        async for frame in self._watch.read(caller().tenant, run_id, request.cursor, seconds):
            yield _frame(frame)
            if not caller().is_proven():
                raise StreamMaxAge("what proved who you are is over: resume with what proves it now")

    async def RequestScorerRun(
        self, request: pb.RequestScorerRunRequest, context: Context
    ) -> pb.RequestScorerRunResponse:
        await self._check_scorer(request.scorer_id, request.scorer_version)
        who = caller()
        if request.sample.run_id and not await self._sees(who, request.sample.run_id):
            raise RunNotFound(f"no such run: {request.sample.run_id}", run_id=request.sample.run_id)
        new = self._ad_hoc(who, request)
        await self._controls.request(new)
        found = await self._queries.get(who.tenant, new.scorer_run_id)
        if found is None:
            raise ScorerRunNotFound(f"scorer run {new.scorer_run_id!r} was purged meanwhile")
        return pb.RequestScorerRunResponse(scorer_run=messages.scorer_run(found))

    def _ad_hoc(self, who: Principal, request: pb.RequestScorerRunRequest) -> NewRun:
        sample, problems = request.sample, dict[str, str]()
        if not request.HasField("sample"):
            problems["sample"] = "must be set"
        if sample.ByteSize() > self._max_sample_bytes and not sample.by_reference:
            problems["sample"] = f"has {sample.ByteSize()} bytes; at most {self._max_sample_bytes} are taken"
        if sample.by_reference and not sample.run_id:
            problems["sample.run_id"] = "must be set for a sample by reference"
        try:
            options = json_text(from_struct(request.options))
        except ValueError as error:
            problems["options"] = f"cannot be kept: {error}"
        if problems:
            raise InvalidRequest(problems)
        request.request_id = request.request_id or uuid.uuid4().hex  # so that the fingerprints of two calls differ
        return NewRun(
            scorer_run_id=scorer_run_id(who.tenant, "request", who.owner or "", request.request_id),
            tenant=who.tenant,
            scorer_id=request.scorer_id,
            scorer_name=request.scorer_name,
            run_id=sample.run_id,
            agent_id=sample.agent_id,
            wanted_version=request.scorer_version,
            priority=Priority.HIGH,
            options=options,
            labels=json.dumps(dict(sample.labels)),
            sample=sample.SerializeToString(deterministic=True),
            fingerprint=sha256(request.SerializeToString(deterministic=True)).hexdigest(),
            requested_by=who.name,
        )

    async def RetryScorerRuns(self, request: pb.RetryScorerRunsRequest, context: Context) -> pb.RetryScorerRunsResponse:
        who, selection, version = caller(), await self._selection(request), request.scorer_version
        if selection is None:
            return pb.RetryScorerRunsResponse()
        if version:
            await self._check_version(request)
        if _only_begins(request, selection):
            place = await self._controls.begin()
            return pb.RetryScorerRunsResponse(next_page_token=_walk_token(request, place))
        how: dict[str, Any] = {"by": who.name, "dry_run": request.dry_run, "walk": _walk(request, context)}
        if version:
            touched = await self._controls.rescore(who.tenant, selection, version, **how)
        else:
            touched = await self._controls.redrive(who.tenant, selection, **how)
        token = _walk_token(request, touched.rest)
        return pb.RetryScorerRunsResponse(count=touched.count, scorer_run_ids=touched.ids, next_page_token=token)

    async def CancelScorerRuns(
        self, request: pb.CancelScorerRunsRequest, context: Context
    ) -> pb.CancelScorerRunsResponse:
        who, selection = caller(), await self._selection(request)
        if selection is None:
            return pb.CancelScorerRunsResponse()
        if _only_begins(request, selection):
            place = await self._controls.begin()
            return pb.CancelScorerRunsResponse(next_page_token=_walk_token(request, place))
        how: dict[str, Any] = {"by": who.name, "dry_run": request.dry_run, "walk": _walk(request, context)}
        touched = await self._controls.cancel(who.tenant, selection, **how)
        token = _walk_token(request, touched.rest)
        return pb.CancelScorerRunsResponse(count=touched.count, scorer_run_ids=touched.ids, next_page_token=token)

    async def DeleteScorerRuns(
        self, request: pb.DeleteScorerRunsRequest, context: Context
    ) -> pb.DeleteScorerRunsResponse:
        if not request.run_ids:
            raise InvalidRequest({"run_ids": "must be set"})
        count, more = await self._controls.delete(caller().tenant, request.run_ids, dry_run=request.dry_run)
        return pb.DeleteScorerRunsResponse(count=count, more=more)

    async def PauseScorer(self, request: pb.PauseScorerRequest, context: Context) -> pb.PauseScorerResponse:
        await self._check_scorer(request.scorer_id)
        await self._controls.pause(request.scorer_id, True, (caller().tenant, caller().name))
        return pb.PauseScorerResponse(scorer=await self._now(request.scorer_id))

    async def ResumeScorer(self, request: pb.ResumeScorerRequest, context: Context) -> pb.ResumeScorerResponse:
        await self._check_scorer(request.scorer_id)
        await self._controls.pause(request.scorer_id, False)
        return pb.ResumeScorerResponse(scorer=await self._now(request.scorer_id))

    async def GetScorerStats(self, request: pb.GetScorerStatsRequest, context: Context) -> pb.GetScorerStatsResponse:
        who = caller()
        who.sees_all("a statistic")
        window = Window(
            who.tenant,
            request.scorer_id,
            _seconds(request, "created_after"),
            _seconds(request, "created_before"),
        )
        found = await self._statistics.ask(window)
        agreements = await self._opinions.agreement(who.tenant, window.scorer_id, window.after, window.before)
        stats = [messages.stats(one) for one in found]
        for one in stats:
            if agreed := agreements.get((one.scorer_id, one.scorer_name)):
                one.compared_with_people = agreed.pairs
                one.agreement, one.mean_distance = agreed.agreement, agreed.mean_distance
        return pb.GetScorerStatsResponse(stats=stats)

    async def ListScorerWorkers(
        self, request: pb.ListScorerWorkersRequest, context: Context
    ) -> pb.ListScorerWorkersResponse:
        size, place = page_size(request), decode_token(request, str)
        found = [one for one in await self._holders.workers() if place is None or one.name > place[0]]
        token = encode_token(request, found[size - 1].name) if len(found) > size else ""
        return pb.ListScorerWorkersResponse(workers=map(messages.worker, found[:size]), next_page_token=token)

    async def ListScorerQueues(
        self, request: pb.ListScorerQueuesRequest, context: Context
    ) -> pb.ListScorerQueuesResponse:
        size, place = page_size(request), decode_token(request, str, str)
        queues, now = await self._holders.queues()
        found = [one for one in queues if place is None or (one.scorer_id, one.version) > place]
        last = found[size - 1] if len(found) > size else None
        token = encode_token(request, [last.scorer_id, last.version]) if last else ""
        return pb.ListScorerQueuesResponse(
            queues=[messages.queue(one, now) for one in found[:size]], next_page_token=token
        )

    async def SetScorerBudget(self, request: pb.SetScorerBudgetRequest, context: Context) -> pb.SetScorerBudgetResponse:
        who, budget = caller(), budget_messages.budget_of(caller().tenant, request)
        await self._budgets.set(budget)
        present = {one.scorer_id: one for one in await self._budgets.all(who.tenant)}
        return pb.SetScorerBudgetResponse(budget=budget_messages.shown(present.get(budget.scorer_id, budget)))

    async def ListScorerBudgets(
        self, request: pb.ListScorerBudgetsRequest, context: Context
    ) -> pb.ListScorerBudgetsResponse:
        who = caller()
        who.sees_all("what a tenant spends")
        found = await self._budgets.all(who.tenant)
        return pb.ListScorerBudgetsResponse(budgets=map(budget_messages.shown, found))

    async def SubmitScore(self, request: pb.SubmitScoreRequest, context: Context) -> pb.SubmitScoreResponse:
        who = caller()
        people_messages.checked(request)
        agent_id, labels = await self._scored_run(who, request.run_id)
        key = await self._opinions.submit(people_messages.said_of(who, request, agent_id, labels))
        found = await self._queries.get(who.tenant, key)
        if found is None:
            raise ScorerRunNotFound(f"scorer run {key!r} was purged meanwhile")
        return pb.SubmitScoreResponse(scorer_run=await self._whole(found))

    async def _scored_run(self, who: Principal, run_id: str) -> tuple[str, Mapping[str, str]]:
        """Agent and labels of a run that the caller sees. Raises RunNotFound."""
        if await self._sees(who, run_id):
            run = await self._brief(who.tenant, run_id)
            if run is not None:
                return run.agent_id, run.labels
            agent_id = await self._opinions.agent_of(who.tenant, run_id)
            if agent_id is not None:
                return agent_id, {}
        raise RunNotFound(f"no such run: {run_id}", run_id=run_id)

    async def RegisterScorer(
        self, request: scorer_port_pb2.RegisterScorerRequest, context: Context
    ) -> scorer_port_pb2.RegisterScorerResponse:
        if not request.HasField("scorer"):
            raise InvalidRequest({"scorer": "must be set"})
        scorer = port_messages.external_of(caller().tenant, request.scorer)
        await self._port.register(scorer)
        return scorer_port_pb2.RegisterScorerResponse(scorer=port_messages.registered(scorer))

    async def ClaimScorerRuns(
        self, request: scorer_port_pb2.ClaimScorerRunsRequest, context: Context
    ) -> scorer_port_pb2.ClaimScorerRunsResponse:
        who, wanted = caller(), port_messages.wanted_of(request)
        who.sees_all("the samples of all runs")
        found, claims = await self._port.claim(who, wanted)
        traces = await claims.traces(found.jobs) if found.jobs else {}
        given = [
            port_messages.claimed(job, wanted, claims.lease_seconds, traces.get(job.scorer_run_id, ("", "")))
            for job in found.jobs
        ]
        return scorer_port_pb2.ClaimScorerRunsResponse(scorer_runs=given, alone_waiting=found.alone)

    async def ReportScorerRun(
        self, request: scorer_port_pb2.ReportScorerRunRequest, context: Context
    ) -> scorer_port_pb2.ReportScorerRunResponse:
        who = caller()
        who.sees_all("what all runs score")
        required = {name: "must be set" for name in ("worker", "scorer_run_id") if not getattr(request, name)}
        if request.WhichOneof("report") is None:
            required["score"] = "set one of score, error, not_scorable, extension, release"
        if required:
            raise InvalidRequest(required)
        state, due_time = await self._port.report(who, request)
        due = None if due_time is None else timestamp(due_time)
        return scorer_port_pb2.ReportScorerRunResponse(state=state, due_time=due)  # type: ignore[arg-type]

    async def _external(self) -> dict[str, External]:
        """The newest versions of the caller's external scorers, by id."""
        by_id: dict[str, dict[str, External]] = {}
        for (scorer_id, version), scorer in (await self._port.externals.of(caller().tenant)).items():
            by_id.setdefault(scorer_id, {})[version] = scorer
        return {scorer_id: versions[newest_of(versions)] for scorer_id, versions in by_id.items()}

    async def _sees(self, who: Principal, run_id: str) -> bool:
        """Whether the scores of a run are the caller's to see; those of no run are not, where it sees only its own."""
        return who.owner is None or (bool(run_id) and await self._owns(who.tenant, run_id, who.owner))

    async def _may_see(self, who: Principal, run_id: str, what: str) -> bool:
        """As `_sees`. Raises OwnOnly if no run is named, which `what` puts in words."""
        if not run_id:
            who.sees_all(what)
        return await self._sees(who, run_id)

    async def _selection(self, request: _Walked) -> Selection | None:
        """What a call is about; None for a run that is not the caller's to see."""
        ids = list(request.scorer_run_ids)
        if ids and request.HasField("filter"):
            raise InvalidRequest({"filter": "must not be set beside scorer_run_ids"})
        if not ids and not request.HasField("filter"):
            raise InvalidRequest({"scorer_run_ids": "give ids, or a filter"})
        who = caller()
        visible = await self._may_see(who, request.filter.run_id, "a selection of scorer runs")
        return (ids or _filter(who, request.filter)) if visible else None

    def _scorer(self, scorer_id: str, paused: bool) -> scorer_run_pb2.Scorer:
        return messages.scorer(self._registry.newest(scorer_id), paused=paused, judge_model=self._judge_model)

    async def _now(self, scorer_id: str) -> scorer_run_pb2.Scorer:
        having = by_scorer(await self._holders.all(caller().tenant)).get(scorer_id, ())
        paused = await self._queries.paused(caller().tenant)
        return self._listed(scorer_id, paused, having, (await self._external()).get(scorer_id))

    def _listed(
        self, scorer_id: str, paused_by: Mapping[str, str], having: Sequence[Holder], external: External | None
    ) -> scorer_run_pb2.Scorer:
        """A scorer of this process, an external one, or one of another process: then only its name and its versions
        are known here."""
        paused = scorer_id in paused_by
        if scorer_id in self._registry:
            listed = self._scorer(scorer_id, paused)
        elif external is not None:
            listed = port_messages.listed(external, paused=paused)
        else:
            version = newest_of([one.version for one in having])
            listed = scorer_run_pb2.Scorer(scorer_id=scorer_id, version=version, paused=paused)
        listed.paused_by = paused_by.get(scorer_id, "")
        listed.holders.extend(messages.holder(one) for one in having)
        return listed

    async def _check_scorer(self, scorer_id: str, version: str = "") -> None:
        """That this process has it, or another one."""
        _text(scorer_id, "scorer_id")
        problem = self._registry.problem(scorer_id, version)
        if problem and not await self._is_elsewhere(scorer_id, version):
            raise ScorerNotFound(problem, scorer_id=scorer_id)

    async def _check_version(self, request: pb.RetryScorerRunsRequest) -> None:
        version, scorer_id = request.scorer_version, request.filter.scorer_id
        names = [scorer_id] if scorer_id else self._registry.ids
        if any(self._registry.find(name, version) for name in names) or await self._is_elsewhere(scorer_id, version):
            return
        raise InvalidRequest({"scorer_version": f"no such version {version!r} of {scorer_id or 'any scorer'}"})

    async def _is_elsewhere(self, scorer_id: str, version: str) -> bool:
        """Whether a process has this scorer, or any; in this version, or in any; or it is carried out elsewhere."""
        who = caller()
        pairs = [(one.scorer_id, one.version) for one in await self._holders.all(who.tenant)]
        pairs += await self._port.externals.of(who.tenant)
        return any(scorer_id in ("", name) and version in ("", each) for name, each in pairs)


def _only_begins(request: _Walked, selection: Selection) -> bool:
    """Whether the call only fixes what is selected."""
    size = page_size(request, default=0)
    return size > 0 and not request.page_token and isinstance(selection, Filter)


def _walk(request: _Walked, context: Context) -> Walk:
    """The part of a walk that a call is: well before its caller gives up."""
    most = page_size(request, default=0) or None
    left = context.time_remaining()
    seconds = min(_ALL_SECONDS if most is None else _PAGE_SECONDS, _ALL_SECONDS if left is None else left * 0.5)
    token = decode_token(request, float, float, float, str)
    if token is None:
        return Walk(None, most, seconds)
    revision, segment, created, key = token
    if not (0 <= revision < 2**53 and 0 <= segment < 100):
        raise InvalidRequest({"page_token": "not a token of this service"})
    place = Place(int(revision), int(segment), (created, key) if key else None)
    return Walk(place, most, seconds, f"{request.page_token}/{most}")


def _walk_token(request: _Walked, place: Place | None) -> str:
    if place is None:
        return ""
    created, key = place.after or (0.0, "")
    return encode_token(request, [place.revision, place.segment, _finite(created), key])


def _finite(created: Any) -> float:
    """A time that a token can name, so that a row whose own is damaged does not end a list: it is the newest."""
    if isinstance(created, (int, float)) and -_MAX_TIME <= created <= _MAX_TIME:
        return float(created)
    return -_MAX_TIME if created == -math.inf else _MAX_TIME


def _filter(who: Principal, wanted: pb.ScorerRunFilter) -> Filter:
    return Filter(
        tenant=who.tenant,
        run_id=wanted.run_id,
        agent_id=wanted.agent_id,
        scorer_id=wanted.scorer_id,
        states=[int(state) for state in wanted.states],
        created_after=_seconds(wanted, "created_after"),
        created_before=_seconds(wanted, "created_before"),
        scorer_name=wanted.scorer_name if wanted.HasField("scorer_name") else None,
        error_reason=wanted.error_reason,
    )


def _text(text: str, path: str, *, required: bool = True) -> str:
    if required and not text:
        raise InvalidRequest({path: "must not be empty"})
    return text


def _seconds(message: Any, name: str) -> float | None:
    if not message.HasField(name):
        return None
    return microseconds_of(getattr(message, name))


def _heartbeat_seconds(request: pb.WatchScorerRunsRequest) -> float:
    if not request.HasField("heartbeat_interval"):
        return _DEFAULT_HEARTBEAT_SECONDS
    return seconds_of(request.heartbeat_interval)


def _frame(frame: Frame) -> pb.WatchScorerRunsResponse:
    response = pb.WatchScorerRunsResponse(cursor=frame.cursor)
    if frame.ended:
        response.ended.SetInParent()
    elif frame.found:
        response.batch.scorer_runs.extend(messages.shared(one) for one in frame.found)
    else:
        response.heartbeat.send_time.GetCurrentTime()
    return response


def register(servicer: ScorerServicer, server: grpc.aio.Server) -> None:
    """Adds the servicer to a server."""
    scorer_service_pb2_grpc.add_ScorerServiceServicer_to_server(servicer, server)


SERVICE: Final = pb.DESCRIPTOR.services_by_name["ScorerService"].full_name
