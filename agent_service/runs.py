"""What can be asked of runs: start, get, list, cancel, resume. The same on every replica."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from agent_service.agents.definition import repeated_scorer
from agent_service.agents.registry import Registry
from agent_service.log import record, telling, turns
from agent_service.queue_limit import QueueLimit
from runwire import parts, tracing
from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.bounds import FILES_BY_URL, MAX_INPUT_BYTES, too_large
from runwire.caching_pubsub import CachingPubSub
from runwire.errors import (
    AlreadyAnswered,
    AlreadyExists,
    Fenced,
    FieldExists,
    InvalidRequest,
    LogClosed,
    NotSuspended,
    QueueFull,
    RunExpired,
    RunNotFound,
    StoreUnavailable,
    TopicExists,
)
from runwire.identity.principal import Principal
from runwire.paging import decode_token, encode_token, page_size
from runwire.pubsub import Commit, Scan, Schedule, Store, Stored
from runwire.scan import merged, place_of
from runwire.scorer_requests import OWNER, is_owned, topic_of
from runwire.threads import off_loop
from runwire.times import seconds_of, timestamp
from runwire.values import to_value

MAX_PAGE_BYTES: Final = 1024 * 1024
"""Of the runs of one page, after the first: a run is at most about 2.5 MiB, and a client takes 4 MiB by default."""
MAX_TRACEPARENT_LENGTH: Final = 256
MAX_TRACE_LENGTH: Final = 512
_SCAN_ROUNDS: Final = 4
"""A page that is still short after so many looks more than a full one takes is returned as it is, with a token to go
on: a search that finds little costs its caller more pages, and the service no more than another call."""
_MAX_SCANNED: Final = 64
"""Runs of one look, so that many labels do not fill the memory."""
_RESUME_TRIES: Final = 5
"""How often an answer is tried that meets a worker at work on the run."""
_ROUNDING_SECONDS: Final = 2e-6
"""The store's time is finer than the times that are shown."""
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Runs:
    """The runs of all tenants in one store."""

    def __init__(self, store: Store, log: CachingPubSub, agents: Registry, max_queued: int = 0) -> None:
        """`max_queued`: how many runs of a tenant may wait for a worker; 0: any number."""
        self.store = store
        self._queue_limit = QueueLimit(store, self._queues, max_queued)
        self.log = log
        """The log of every run, to be read."""
        self._agents = agents

    async def start(self, who: Principal, request: agent_service_pb2.StartRunRequest) -> run_pb2.Run:
        """Accepts a run; a repeat by request id returns the run that is there.

        Raises InvalidRequest, AgentNotFound, AlreadyExists, QueueFull.
        """
        given = tracing.carrier_of(request.traceparent, request.tracestate)
        with tracing.span(
            "StartRun", kind="server", parent=given, rpc__system="grpc", gen_ai__agent__id=request.agent_id
        ) as span:
            run = await self._start(who, request, span.carrier or given)
            span.set(runwire__run__id=run.run_id)
            return run

    async def _start(
        self, who: Principal, request: agent_service_pb2.StartRunRequest, trace: Mapping[str, str]
    ) -> run_pb2.Run:
        if not request.agent_id:
            raise InvalidRequest({"agent_id": "must be set"})
        _check_scorers(request)
        definition = self._agents.get(request.agent_id)
        size = request.ByteSize()
        if request.parts:
            request = await off_loop(size, _with_parts, request)
        await off_loop(size, definition.parse_input, request.input)
        definition.check_model(request.model)
        run = run_pb2.Run(
            run_id=run_id_of(who, request.request_id),
            owner=who.name,
            agent_id=request.agent_id,
            agent_version=definition.version,
            state=run_pb2.RUN_STATE_QUEUED,
            trace_id=tracing.trace_id(trace.get("traceparent", "")),
            input=request.input if request.HasField("input") else None,
            labels=request.labels,
            scorers=_merge(definition.scorer_protos, request.scorers),
            timeout=request.timeout if request.HasField("timeout") else None,
            conversation=request.conversation if request.HasField("conversation") else None,
            model=request.model if request.HasField("model") else None,
        )
        topic, digest = topic_of(who.tenant, run.run_id), await off_loop(size, _digest, request)
        commit = Commit(
            topic,
            create=True,
            queue=record.queue_of(run.agent_id, run.agent_version),
            indexes=record.lists_of(who.tenant, run),
            puts={
                **record.puts(run),
                record.REQUEST: digest,
                record.TRACE: record.pack_trace(trace),
                **({record.CONTEXT: request.context.SerializeToString()} if request.HasField("context") else {}),
                record.FORMAT: b"%d" % record.FORMAT_VERSION,
                **_owner(who),
                **turns.first_fields(run),
            },
            schedule=Schedule.DUE,
        )
        await self.admit(who, topic)
        try:
            committed = await self.log.publish(commit)
        except TopicExists:
            return await self.repeated(topic, run.run_id, digest)
        telling.accepted(who.tenant, run)
        if request.HasField("context"):
            run.context.CopyFrom(request.context)
        return record.with_head(run, topic, committed.head, False)

    def _queues(self) -> Sequence[str]:
        """Where the runs that are accepted here wait."""
        agents = [(definition.agent_id, definition.version) for definition in self._agents]
        return [*{record.queue_of(*agent) for agent in agents}, *{record.any_queue_of(name) for name, _ in agents}]

    async def admit(self, who: Principal, topic: str) -> None:
        """Whether another run may be accepted; what was accepted before is not asked. Raises QueueFull."""
        try:
            await self._queue_limit.check(who)
        except QueueFull:
            if await self.store.get(topic, ()) is None:
                raise

    async def get(self, who: Principal, run_id: str) -> run_pb2.Run:
        """Raises RunNotFound, RunExpired."""
        return record.to_run(await self.stored(who, run_id, record.WHOLE))

    async def check_visible(self, who: Principal, run_id: str) -> None:
        """Raises RunNotFound for a run that is not the principal's to see. Only where it sees its own alone the store
        is asked: whose tenant a run is of, its topic says."""
        if who.owner is not None or not who.sees(run_id):
            await self.stored(who, run_id, ())

    async def list(
        self, who: Principal, request: agent_service_pb2.ListRunsRequest
    ) -> tuple[Sequence[run_pb2.Run], str]:
        """A page, newest first, and the token of the next one. Raises InvalidRequest."""
        size, place = page_size(request), _place(request)
        since = seconds_of(request.created_after) - _ROUNDING_SECONDS if request.HasField("created_after") else 0.0
        runs: list[run_pb2.Run] = []
        room = MAX_PAGE_BYTES
        for _ in range(_SCAN_ROUNDS + size // _MAX_SCANNED):
            page = await self._scan(who, request, place, since, min(size - len(runs), _MAX_SCANNED))
            for stored in page.found:
                run = await self._listed(stored)
                if run is not None and who.owner in (None, run.owner) and _matches(run, request):
                    room -= run.ByteSize()
                    if runs and room < 0:
                        return runs, encode_token(request, place)
                    runs.append(run)
                place = place_of(stored)
            place = page.next
            if place is None:
                return runs, ""
            if len(runs) == size:
                break
        return runs, encode_token(request, place)

    async def _listed(self, stored: Stored) -> run_pb2.Run | None:
        """What a list shows of a run; None where it is purged just now."""
        if record.BRIEF in stored.fields:
            return record.to_listed(stored)
        # A process of an earlier version has written it, and in no list but its tenant's and its agent's.
        whole = await self.store.get(stored.topic, record.SUMMARY)
        return record.to_run(whole) if whole is not None and record.RUN in whole.fields else None

    async def _scan(
        self,
        who: Principal,
        request: agent_service_pb2.ListRunsRequest,
        place: tuple[float, str] | None,
        since: float,
        limit: int,
    ) -> Scan:
        """Runs that may be what is asked for, by the lists that they stand in."""
        tenant = who.tenant
        lists = [record.owner_list(tenant, who.owner)] if who.owner is not None else []
        lists += [record.label_list(tenant, key, value) for key, value in request.labels.items()]
        if request.agent_id:
            lists.append(record.index_of(tenant, request.agent_id))
        states = sorted(set(request.states).intersection(run_pb2.RunState.values()))
        starts = [record.state_list(tenant, state) for state in states] or lists[:1] or [record.index_of(tenant)]
        if request.states and not states:
            return Scan((), None)  # no run is like that
        pages = [
            await self.store.scan(start, also=lists, fields=record.LISTED, before=place, since=since, limit=limit)
            for start in starts
        ]
        return merged(pages, limit)

    async def cancel(self, who: Principal, run_id: str, reason: str) -> run_pb2.Run:
        """Asks the run to stop; of no effect on one that has ended. Raises RunNotFound, RunExpired."""
        stored = await self.stored(who, run_id, record.SUMMARY)
        if not stored.head.final and record.CANCEL not in stored.fields:
            puts = {record.CANCEL: reason.encode(), **({record.CANCELLER: who.name.encode()} if who.name else {})}
            # To end it, any version of its agent will do.
            run = record.to_run(stored)
            queue = record.any_queue_of(run.agent_id) if run.agent_id else ""
            commit = Commit(stored.topic, queue=queue, puts=puts, schedule=Schedule.WAKE)
            try:
                await self.log.publish(commit)
            except LogClosed:
                pass
        return await self.get(who, run_id)

    async def resume(self, who: Principal, run_id: str, answers: Sequence[run_event_pb2.Answer]) -> run_pb2.Run:
        """Answers what a suspended run waits for; all of the answers are taken, or none.

        Raises InvalidRequest, RunNotFound, RunExpired, NotSuspended, AlreadyAnswered.
        """
        for answer in answers:
            answer.by = who.name
        # Not the journal, which may be of any size.
        fields = (*record.SUMMARY, *dict.fromkeys(record.ANSWER + answer.request_id for answer in answers))
        for _ in range(_RESUME_TRIES):
            stored = await self.stored(who, run_id, fields)
            time = await self.store.now()
            _check_answers(answers, record.to_run(stored).pending, stored.fields, time)
            commit = Commit(
                stored.topic,
                # No worker may have had the run since it was read: it could have gone on without this answer.
                attempt=stored.head.attempt,
                puts_once={record.ANSWER + answer.request_id: record.pack_answer(answer, time) for answer in answers},
                schedule=Schedule.WAKE,
            )
            try:
                await self.log.publish(commit)
            except Fenced:
                continue
            except FieldExists as error:
                raise _answered(error.field.removeprefix(record.ANSWER), error.value) from None
            except LogClosed:
                raise NotSuspended(f"run {run_id} has ended") from None
            return await self.get(who, run_id)
        raise StoreUnavailable(f"run {run_id} changed hands {_RESUME_TRIES} times meanwhile")

    async def repeated(self, topic: str, run_id: str, digest: bytes) -> run_pb2.Run:
        """The run that a request with this digest, under the same id, has become. Raises AlreadyExists."""
        stored = await self.store.get(topic, (*record.WHOLE, record.REQUEST))
        if stored is None or stored.head.expired:
            raise AlreadyExists(f"the request id was used before, for run {run_id}, which is purged", run_id=run_id)
        if stored.fields[record.REQUEST] != digest:
            raise AlreadyExists(
                f"the request id was used for another request, which became run {run_id}", run_id=run_id
            )
        return record.to_run(stored)

    async def stored(self, who: Principal, run_id: str, fields: Sequence[str]) -> Stored:
        """Its topic with these fields. Raises InvalidRequest, RunNotFound, RunExpired."""
        stored = await self.store.get(topic_of(who.tenant, check_run_id(run_id)), (*fields, OWNER))
        # Of a purged run nobody knows any more whose it was.
        if stored is None or not who.sees(run_id) or not is_owned(stored.fields, who.owner):
            raise RunNotFound(f"no such run: {run_id}", run_id=run_id)
        if stored.head.expired:
            state = run_pb2.RunState.Name(stored.head.final)
            raise RunExpired(f"run {run_id} is purged; it ended as {state}", run_id=run_id, final_state=state)
        return stored


def check_run_id(run_id: str) -> str:
    """`run_id`, if it could be one. Raises InvalidRequest."""
    if not _RUN_ID.fullmatch(run_id):
        problem = "must be set" if not run_id else "must be 1 to 128 letters, digits, '.', '_' or '-'"
        raise InvalidRequest({"run_id": problem})
    return run_id


def _check_scorers(request: agent_service_pb2.StartRunRequest) -> None:
    if (place := repeated_scorer(request.scorers)) is not None:
        problem = "the same scorer stands there already under this name; give each use its own"
        raise InvalidRequest({f"scorers[{place}].name": problem})


def _with_parts(request: agent_service_pb2.StartRunRequest) -> agent_service_pb2.StartRunRequest:
    """The request with its parts as its input, in the form in which everybody reads it. Raises InvalidRequest."""
    if request.HasField("input"):
        raise InvalidRequest({"parts": "must not be set beside input"})
    plain = agent_service_pb2.StartRunRequest()
    plain.CopyFrom(request)
    plain.ClearField("parts")
    plain.input.CopyFrom(to_value([parts.of_proto(part, f"parts[{i}]") for i, part in enumerate(request.parts)]))
    if (size := plain.input.ByteSize()) > MAX_INPUT_BYTES:
        raise InvalidRequest({"parts": too_large(size, MAX_INPUT_BYTES, FILES_BY_URL)})
    return plain


def _owner(who: Principal) -> dict[str, bytes]:
    return {OWNER: who.name.encode()} if who.name else {}


def run_id_of(who: Principal, request_id: str) -> str:
    """Of the run that a request becomes; at random without a request id."""
    if not request_id:
        return secrets.token_hex(16)
    names = f"{who.tenant}\0{request_id}"
    if who.owner is not None:
        # A principal that sees only its own has request ids of its own too: those of others would show in conflicts.
        # No tenant begins like this.
        names = f"\0{who.tenant}\0{who.owner}\0{request_id}"
    return hashlib.sha256(names.encode()).hexdigest()[:32]


def _digest(request: agent_service_pb2.StartRunRequest) -> bytes:
    """Of what makes two requests the same: not of the trace context, which differs in a retry."""
    return record.digest_of(request, "request_id", "traceparent", "tracestate")


def _merge(own: Sequence[run_pb2.ScorerRef], asked: Sequence[run_pb2.ScorerRef]) -> Sequence[run_pb2.ScorerRef]:
    """The agent's scorers and those of the request, which takes the place of the agent's under the same name."""
    return list({(scorer.scorer_id, scorer.name): scorer for scorer in (*own, *asked)}.values())


def _place(request: agent_service_pb2.ListRunsRequest) -> tuple[float, str] | None:
    place = decode_token(request, float, str)
    if place is not None:
        return place[0], place[1]
    if request.HasField("created_before"):
        return seconds_of(request.created_before) + _ROUNDING_SECONDS, ""
    return None


def _matches(run: run_pb2.Run, request: agent_service_pb2.ListRunsRequest) -> bool:
    if request.states and run.state not in request.states:
        return False
    created = run.create_time.ToNanoseconds()
    if request.HasField("created_after") and created < request.created_after.ToNanoseconds():
        return False
    if request.HasField("created_before") and created >= request.created_before.ToNanoseconds():
        return False
    return all(run.labels.get(key) == value for key, value in request.labels.items())


def _check_answers(
    answers: Sequence[run_event_pb2.Answer],
    requests: Iterable[run_pb2.PendingRequest],
    fields: Mapping[str, bytes],
    time: float,
) -> None:
    if not answers:
        raise InvalidRequest({"answers": "must hold at least one answer"})
    pending = {request.request_id: request for request in requests}
    wrong: dict[str, str] = {}
    seen: set[str] = set()
    for index, answer in enumerate(answers):
        path = f"answers[{index}]"
        if answer.request_id in seen:
            wrong[f"{path}.request_id"] = f"{answer.request_id!r} is answered twice"
        seen.add(answer.request_id)
        given = fields.get(record.ANSWER + answer.request_id)
        if given is not None:
            raise _answered(answer.request_id, given)
        request = pending.get(answer.request_id)
        if request is None or request.kind == run_pb2.PENDING_KIND_TIME:
            raise NotSuspended(f"the run does not wait for an answer to {answer.request_id!r}")
        if request.HasField("deadline") and time >= seconds_of(request.deadline):
            raise NotSuspended(f"{answer.request_id!r} has lapsed: nobody answered until its deadline")
        decision = answer.WhichOneof("decision")
        if decision is None:
            wrong[path] = "holds no decision: one of approve, deny, data"
        elif (request.kind == run_pb2.PENDING_KIND_APPROVAL) == (decision == "data"):
            wrong[f"{path}.{decision}"] = f"does not answer a {run_pb2.PendingKind.Name(request.kind)}"
    if wrong:
        raise InvalidRequest(wrong)


def _answered(request_id: str, data: bytes) -> AlreadyAnswered:
    time = timestamp(record.unpack_answer(data)[0]).ToJsonString()
    return AlreadyAnswered(f"{request_id!r} was answered at {time}", request_id=request_id, answer_time=time)
