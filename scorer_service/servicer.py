"""ScorerService over gRPC: requests are checked here, and answered by Queries, Controls and Watch."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from runwire.errors import InvalidRequest, ScorerNotFound, ScorerRunNotFound
from runwire.paging import decode_token, encode_token, page_size
from runwire.scorer.v1 import scorer_run_pb2, scorer_service_pb2_grpc
from runwire.scorer.v1 import scorer_service_pb2 as pb
from scorer_service import messages
from scorer_service.controls import Controls, Selection, Touched
from scorer_service.holders import Holder, Holders, by_scorer
from scorer_service.intake import DEFAULT_TENANT, MAX_ID_LENGTH
from scorer_service.queries import Filter, Queries, within_weight
from scorer_service.records import NewRun, Priority, json_text, scorer_run_id
from scorer_service.registry import Registry, newest_of
from scorer_service.samples import struct_of
from scorer_service.watch import Frame, Watch

_MAX_REQUEST_ID: Final = 128
_MAX_IDS: Final = 1000
_MAX_OPTIONS_BYTES: Final = 65_536
_DEFAULT_HEARTBEAT_SECONDS: Final = 10.0

Context = Any


class ScorerServicer(scorer_service_pb2_grpc.ScorerServiceServicer):
    """See proto/runwire/scorer/v1/scorer_service.proto for what each call promises."""

    def __init__(
        self,
        queries: Queries,
        controls: Controls,
        watch: Watch,
        registry: Registry,
        holders: Holders,
        *,
        judge_model: str,
        max_sample_bytes: int,
    ) -> None:
        self._holders = holders
        self._queries = queries
        self._controls = controls
        self._watch = watch
        self._registry = registry
        self._judge_model = judge_model
        self._max_sample_bytes = max_sample_bytes

    async def ListScorers(self, request: pb.ListScorersRequest, context: Context) -> pb.ListScorersResponse:
        size, after = page_size(request), decode_token(request)
        found = by_scorer(await self._holders.all())
        names = [name for name in sorted({*self._registry.ids, *found}) if after is None or name > after]
        paused = await self._queries.paused()
        scorers = [self._listed(name, name in paused, found.get(name, ())) for name in names[:size]]
        token = encode_token(request, names[size - 1]) if len(names) > size else ""
        return pb.ListScorersResponse(scorers=scorers, next_page_token=token)

    async def GetScorerRun(self, request: pb.GetScorerRunRequest, context: Context) -> pb.GetScorerRunResponse:
        found = await self._queries.get(
            DEFAULT_TENANT, _text(request.scorer_run_id, "scorer_run_id"), with_sample=request.include_sample
        )
        if found is None:
            raise ScorerRunNotFound(f"there is no scorer run {request.scorer_run_id!r}")
        return pb.GetScorerRunResponse(scorer_run=messages.scorer_run(found, partial_results=True))

    async def ListScorerRuns(self, request: pb.ListScorerRunsRequest, context: Context) -> pb.ListScorerRunsResponse:
        size, wanted = page_size(request), _filter(request.filter)
        place = decode_token(request)
        after = (float(place[0]), str(place[1])) if place else None
        found = await self._queries.page(wanted, limit=size + 1, after=after)
        page, token = found[: min(size, within_weight(found))], ""
        if len(found) > len(page):
            last = page[-1].run
            token = encode_token(request, [last.create_time, last.scorer_run_id])
        return pb.ListScorerRunsResponse(scorer_runs=[messages.scorer_run(one) for one in page], next_page_token=token)

    async def WatchScorerRuns(
        self, request: pb.WatchScorerRunsRequest, context: Context
    ) -> AsyncIterator[pb.WatchScorerRunsResponse]:
        run_id = _text(request.run_id, "run_id", required=False)
        seconds = _heartbeat_seconds(request)
        async for frame in self._watch.read(DEFAULT_TENANT, run_id, request.cursor, seconds):
            yield _frame(frame)

    async def RequestScorerRun(
        self, request: pb.RequestScorerRunRequest, context: Context
    ) -> pb.RequestScorerRunResponse:
        self._check_scorer(request.scorer_id, request.scorer_version)
        new = self._ad_hoc(request)
        await self._controls.request(new)
        found = await self._queries.get(DEFAULT_TENANT, new.scorer_run_id)
        if found is None:
            raise ScorerRunNotFound(f"scorer run {new.scorer_run_id!r} was purged meanwhile")
        return pb.RequestScorerRunResponse(scorer_run=messages.scorer_run(found))

    def _ad_hoc(self, request: pb.RequestScorerRunRequest) -> NewRun:
        sample, problems = request.sample, dict[str, str]()
        if not request.HasField("sample"):
            problems["sample"] = "must be set"
        for path, text in (("sample.run_id", sample.run_id), ("sample.agent_id", sample.agent_id)):
            if len(text) > MAX_ID_LENGTH or "\0" in text:
                problems[path] = f"must have at most {MAX_ID_LENGTH} characters and no NUL"
        if sample.ByteSize() > self._max_sample_bytes and not sample.by_reference:
            problems["sample"] = f"has {sample.ByteSize()} bytes; at most {self._max_sample_bytes} are taken"
        if sample.by_reference and not sample.run_id:
            problems["sample.run_id"] = "must be set for a sample by reference"
        if len(request.request_id) > _MAX_REQUEST_ID or "\0" in request.request_id:
            problems["request_id"] = f"must have at most {_MAX_REQUEST_ID} characters and no NUL"
        if request.options.ByteSize() > _MAX_OPTIONS_BYTES:
            problems["options"] = f"must have at most {_MAX_OPTIONS_BYTES} bytes"
        try:
            options = json_text(struct_of(request.options))
        except ValueError as error:
            problems["options"] = f"cannot be kept: {error}"
        if problems:
            raise InvalidRequest(problems)
        request_id = request.request_id or uuid.uuid4().hex
        return NewRun(
            scorer_run_id=scorer_run_id(DEFAULT_TENANT, "request", "", request_id),
            tenant=DEFAULT_TENANT,
            scorer_id=request.scorer_id,
            run_id=sample.run_id,
            agent_id=sample.agent_id,
            wanted_version=request.scorer_version,
            priority=Priority.HIGH,
            options=options,
            labels=json.dumps(dict(sample.labels)),
            sample=sample.SerializeToString(deterministic=True),
            fingerprint=sha256(request.SerializeToString(deterministic=True)).hexdigest(),
        )

    async def RetryScorerRuns(self, request: pb.RetryScorerRunsRequest, context: Context) -> pb.RetryScorerRunsResponse:
        selection = _selection(request)
        if request.scorer_version:
            self._check_version(request)
            touched = await self._controls.rescore(
                DEFAULT_TENANT, selection, request.scorer_version, dry_run=request.dry_run
            )
        else:
            touched = await self._controls.redrive(DEFAULT_TENANT, selection, dry_run=request.dry_run)
        return pb.RetryScorerRunsResponse(count=touched.count, scorer_run_ids=touched.ids)

    async def CancelScorerRuns(
        self, request: pb.CancelScorerRunsRequest, context: Context
    ) -> pb.CancelScorerRunsResponse:
        touched: Touched = await self._controls.cancel(DEFAULT_TENANT, _selection(request), dry_run=request.dry_run)
        return pb.CancelScorerRunsResponse(count=touched.count, scorer_run_ids=touched.ids)

    async def PauseScorer(self, request: pb.PauseScorerRequest, context: Context) -> pb.PauseScorerResponse:
        self._check_scorer(request.scorer_id)
        await self._controls.pause(request.scorer_id, True)
        return pb.PauseScorerResponse(scorer=self._scorer(request.scorer_id, True))

    async def ResumeScorer(self, request: pb.ResumeScorerRequest, context: Context) -> pb.ResumeScorerResponse:
        self._check_scorer(request.scorer_id)
        await self._controls.pause(request.scorer_id, False)
        return pb.ResumeScorerResponse(scorer=self._scorer(request.scorer_id, False))

    async def GetScorerStats(self, request: pb.GetScorerStatsRequest, context: Context) -> pb.GetScorerStatsResponse:
        found = await self._queries.stats(
            DEFAULT_TENANT,
            scorer_id=_text(request.scorer_id, "scorer_id", required=False),
            after=_seconds(request, "created_after", ""),
            before=_seconds(request, "created_before", ""),
        )
        return pb.GetScorerStatsResponse(stats=[messages.stats(one) for one in found])

    def _scorer(self, scorer_id: str, paused: bool) -> scorer_run_pb2.Scorer:
        return messages.scorer(self._registry.newest(scorer_id), paused=paused, judge_model=self._judge_model)

    def _listed(self, scorer_id: str, paused: bool, having: Sequence[Holder]) -> scorer_run_pb2.Scorer:
        """A scorer of this process, or of another one: then only its name and its versions are known here."""
        if scorer_id in self._registry:
            listed = self._scorer(scorer_id, paused)
        else:
            version = newest_of([one.version for one in having])
            listed = scorer_run_pb2.Scorer(scorer_id=scorer_id, version=version, paused=paused)
        listed.holders.extend(messages.holder(one) for one in having)
        return listed

    def _check_scorer(self, scorer_id: str, version: str = "") -> None:
        _text(scorer_id, "scorer_id")
        if problem := self._registry.problem(scorer_id, version):
            raise ScorerNotFound(problem, scorer_id=scorer_id)

    def _check_version(self, request: pb.RetryScorerRunsRequest) -> None:
        version, scorer_id = request.scorer_version, request.filter.scorer_id
        names = [scorer_id] if scorer_id else self._registry.ids
        if not any(self._registry.find(name, version) for name in names):
            raise InvalidRequest({"scorer_version": f"no such version {version!r} of {scorer_id or 'any scorer'} here"})


def _selection(request: pb.RetryScorerRunsRequest | pb.CancelScorerRunsRequest) -> Selection:
    ids = list(request.scorer_run_ids)
    if ids and request.HasField("filter"):
        raise InvalidRequest({"filter": "must not be set beside scorer_run_ids"})
    if len(ids) > _MAX_IDS:
        raise InvalidRequest({"scorer_run_ids": f"at most {_MAX_IDS} at once, got {len(ids)}"})
    if not ids and not request.HasField("filter"):
        raise InvalidRequest({"scorer_run_ids": "give ids, or a filter"})
    return [_text(key, "scorer_run_ids") for key in ids] or _filter(request.filter)


def _filter(wanted: pb.ScorerRunFilter) -> Filter:
    return Filter(
        tenant=DEFAULT_TENANT,
        run_id=_text(wanted.run_id, "filter.run_id", required=False),
        agent_id=_text(wanted.agent_id, "filter.agent_id", required=False),
        scorer_id=_text(wanted.scorer_id, "filter.scorer_id", required=False),
        states=_states(wanted),
        created_after=_seconds(wanted, "created_after", "filter."),
        created_before=_seconds(wanted, "created_before", "filter."),
    )


def _states(wanted: pb.ScorerRunFilter) -> list[int]:
    for index, state in enumerate(wanted.states):
        if state not in scorer_run_pb2.ScorerRunState.values() or state == 0:
            raise InvalidRequest({f"filter.states[{index}]": f"no such state: {state}"})
    return [int(state) for state in wanted.states]


def _text(text: str, path: str, *, required: bool = True) -> str:
    if required and not text:
        raise InvalidRequest({path: "must not be empty"})
    if len(text) > MAX_ID_LENGTH or "\0" in text:
        raise InvalidRequest({path: f"must have at most {MAX_ID_LENGTH} characters and no NUL"})
    return text


def _seconds(message: Any, name: str, prefix: str) -> float | None:
    if not message.HasField(name):
        return None
    stamp: Timestamp = getattr(message, name)
    if not (-62135596800 <= stamp.seconds <= 253402300799 and 0 <= stamp.nanos < 1_000_000_000):
        raise InvalidRequest({f"{prefix}{name}": "not a time between the years 1 and 9999"})
    return (stamp.seconds * 1_000_000 + stamp.nanos // 1000) / 1e6


def _heartbeat_seconds(request: pb.WatchScorerRunsRequest) -> float:
    if not request.HasField("heartbeat_interval"):
        return _DEFAULT_HEARTBEAT_SECONDS
    interval = request.heartbeat_interval
    seconds = float(interval.seconds + interval.nanos / 1e9)
    if not 1.0 <= seconds <= 60.0:
        raise InvalidRequest({"heartbeat_interval": f"must be 1 to 60 seconds, got {seconds:g}"})
    return seconds


def _frame(frame: Frame) -> pb.WatchScorerRunsResponse:
    response = pb.WatchScorerRunsResponse(cursor=frame.cursor)
    if frame.ended:
        response.ended.SetInParent()
    elif frame.found:
        response.batch.scorer_runs.extend(messages.scorer_run(one) for one in frame.found)
    else:
        response.heartbeat.send_time.GetCurrentTime()
    return response


def register(servicer: ScorerServicer, server: grpc.aio.Server) -> None:
    """Adds the servicer to a server."""
    scorer_service_pb2_grpc.add_ScorerServiceServicer_to_server(servicer, server)


SERVICE: Final = pb.DESCRIPTOR.services_by_name["ScorerService"].full_name
