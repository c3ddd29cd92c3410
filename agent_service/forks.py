"""Runs that continue from others: at a step of one that has ended, or at a turn of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from google.protobuf import struct_pb2

from agent_service.agents.definition import Definition
from agent_service.agents.registry import Registry
from agent_service.log import inbox, origin, record, telling
from agent_service.log.origin import ALL_STEPS, Origin, Told
from agent_service.log.remembered import REMEMBERED, Remembered, history_field
from agent_service.runs import Runs, run_id_of
from runwire import frames
from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.errors import InvalidRequest, JournalGone, NotForkable, TopicExists
from runwire.identity.principal import Principal
from runwire.pubsub import Commit, Schedule, Store, Stored
from runwire.scorer_requests import OWNER, topic_of
from runwire.threads import off_loop
from runwire.times import seconds_of

MAX_TAKEN_BYTES: Final = 16 * 1024 * 1024
"""Of the journal, or of what a conversation remembers, that a fork takes over in one commit."""
_FIELDS: Final = (*record.WHOLE, inbox.INBOX, inbox.CONSUMED, REMEMBERED, record.TRACE, record.FORMAT)
_ENDED_OTHERWISE: Final = (run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED)


@dataclass
class _Place:
    """Where a run is forked, and what is taken over of it."""

    origin: Origin
    fields: dict[str, bytes] = field(default_factory=dict)
    turn: run_pb2.Turn | None = None
    """Of a conversation: the last one that is taken over."""
    message: struct_pb2.Value | None = None
    """What the fork begins with: its input, or the message of its next turn; None: it waits for one."""
    message_number: int = 1
    """Of that message, or of the one that it waits for."""


class Forks:
    """Makes forks of the runs of all tenants in one store."""

    def __init__(self, store: Store, runs: Runs, agents: Registry, retention_seconds: float) -> None:
        """`retention_seconds`: how long after its end a run can be forked."""
        self._store = store
        self._runs = runs
        self._agents = agents
        self._retention_seconds = retention_seconds

    async def fork(self, who: Principal, request: agent_service_pb2.ForkRunRequest) -> run_pb2.Run:
        """Accepts a run that continues from another; a repeat by request id returns the run that is there.

        Raises InvalidRequest, RunNotFound, RunExpired, AgentNotFound, NotForkable, JournalGone, AlreadyExists,
        QueueFull.
        """
        run_id, digest = run_id_of(who, request.request_id), _digest(request)
        topic = topic_of(who.tenant, run_id)
        if request.request_id and await self._store.get(topic, ()) is not None:
            return await self._runs.repeated(topic, run_id, digest)
        source = await self._runs.stored(who, request.run_id, _FIELDS)
        before = record.to_run(source)
        definition = await self._definition(before, request)
        conversation = before.HasField("conversation")
        _check_at(request, conversation)
        place = await (self._at_turn if conversation else self._at_step)(source, before, definition, request)
        run = _fork_of(before, place, definition, run_id, who.name)
        if request.HasField("model"):
            run.model.CopyFrom(request.model)
        elif before.HasField("model") and definition.agent_id == before.agent_id:
            run.model.CopyFrom(before.model)
        commit = Commit(
            topic,
            create=True,
            queue=record.any_queue_of(run.agent_id)
            if conversation
            else record.queue_of(run.agent_id, run.agent_version),
            indexes=record.lists_of(who.tenant, run),
            puts={
                **place.fields,
                **record.puts(run),
                **(_inbox(place) if conversation else {}),
                record.REQUEST: digest,
                record.TRACE: source.fields.get(record.TRACE, b""),
                record.FORK: place.origin.pack(),
                record.FORMAT: source.fields.get(record.FORMAT, b"1"),
                **({record.CONTEXT: source.fields[record.CONTEXT]} if record.CONTEXT in source.fields else {}),
                **({OWNER: who.name.encode()} if who.name else {}),
            },
            schedule=Schedule.DUE,
        )
        await self._runs.admit(who, topic)
        try:
            committed = await self._runs.log.publish(commit)
        except TopicExists:
            return await self._runs.repeated(topic, run_id, digest)
        telling.accepted(who.tenant, run)
        return (
            await self._runs.get(who, run_id)
            if record.CONTEXT in source.fields
            else record.with_head(run, topic, committed.head, False)
        )

    async def _definition(self, before: run_pb2.Run, request: agent_service_pb2.ForkRunRequest) -> Definition:
        """Who continues. Raises AgentNotFound, and InvalidRequest where it cannot, or does not take the message."""
        definition = self._agents.get(request.agent_id or before.agent_id)
        if before.agent_id in self._agents and self._agents.get(before.agent_id).kind != definition.kind:
            raise InvalidRequest({"agent_id": f"{definition.agent_id!r} is of another kind than {before.agent_id!r}"})
        definition.check_model(request.model)
        if request.HasField("message"):
            parse = definition.parse_input
            if not (before.HasField("conversation") and definition.kind == run_pb2.AGENT_KIND_WORKFLOW):
                await off_loop(request.ByteSize(), parse, request.message, "message")
        return definition

    async def _check_kept(self, before: run_pb2.Run) -> None:
        if before.HasField("end_time"):
            left = seconds_of(before.end_time) + self._retention_seconds - await self._store.now()
            if left <= 0:
                raise JournalGone(f"run {before.run_id} ended more than {self._retention_seconds:g} s ago")

    async def _told(self, topic: str, last: int) -> Told:
        """What the log tells up to this event."""
        told = Told()
        async for event in origin.events(partial(self._runs.log.get_history, topic), last):
            told.add(event)
        return told

    # A run that is no conversation

    async def _at_step(
        self,
        source: Stored,
        before: run_pb2.Run,
        definition: Definition,
        request: agent_service_pb2.ForkRunRequest,
    ) -> _Place:
        if not source.head.final:
            raise NotForkable(f"run {before.run_id} has not ended")
        if source.head.final not in _ENDED_OTHERWISE and request.WhichOneof("at") is None:
            raise NotForkable(
                f"run {before.run_id} has neither failed nor been cancelled: name the step to continue at"
            )
        message = request.message if request.HasField("message") else None
        told = await self._told(source.topic, source.head.last)
        step = _step(request, told)
        last = told.begun[step] - 1 if step in told.begun else source.head.last
        place = _Place(Origin(before.run_id, told.after, last, step), message=message)
        if step > 1:
            await self._check_kept(before)
            place.fields = await self._journal(source.topic, told, place.origin, definition)
        return place

    async def _journal(self, topic: str, told: Told, at: Origin, definition: Definition) -> dict[str, bytes]:
        """What is taken over of it. Raises JournalGone."""
        whole = await self._store.get(topic)
        kept = told.kept(whole.fields if whole is not None else {}, at)
        workflow = definition.agent_id if definition.kind == run_pb2.AGENT_KIND_WORKFLOW else ""
        if step := told.lacks(kept, at, workflow):
            raise JournalGone(f"what step {step} of run {at.run_id} left is not kept")
        _check_size(kept.values())
        return kept

    # A conversation

    async def _at_turn(
        self,
        source: Stored,
        before: run_pb2.Run,
        definition: Definition,
        request: agent_service_pb2.ForkRunRequest,
    ) -> _Place:
        done = before.turn.turn - (1 if before.turn.state == run_pb2.RUN_STATE_RUNNING else 0)
        turn = request.turn if request.WhichOneof("at") else done + 1
        if not 1 <= turn <= done + 1:
            raise InvalidRequest({"turn": f"is {turn}: the conversation has {done} turns that are done"})
        await self._check_kept(before)
        turns = await self._turns(source, before, turn)
        last = turns.get(turn - 1)
        at = Origin(
            before.run_id,
            0,
            last.last_sequence if last is not None else 0,
            last.last_step + 1 if last is not None else 1,
            turn,
        )
        place = _Place(at, turn=last, message_number=_next_number(source, turns.get(turn)))
        if request.HasField("message"):
            place.message = request.message
        elif request.WhichOneof("at") and not request.wait and turn in turns:
            place.message = await self._message(source, before, turns[turn])
        if turn == 1 and place.message is None:
            raise InvalidRequest({"message": "must be set: a conversation begins with a message"})
        if turn > 1:
            place.fields = await self._remembered(source, turn - 1)
            if definition.kind == run_pb2.AGENT_KIND_WORKFLOW:
                told = await self._told(source.topic, at.last)
                place.fields |= await self._journal(source.topic, told, at, definition)
        return place

    async def _turns(self, source: Stored, before: run_pb2.Run, turn: int) -> dict[int, run_pb2.Turn]:
        """The turn before the place, and the one at it, as far as there are such."""
        numbers = [number for number in (turn - 1, turn) if 1 <= number <= before.turn.turn]
        fields = await record.read(self._store, source.topic, [record.turn_field(number) for number in numbers])
        turns = {}
        for number in numbers:
            if (data := fields.get(record.turn_field(number))) is not None:
                turns[number] = run_pb2.Turn.FromString(data)
            elif number == before.turn.turn:
                turns[number] = before.turn
            else:
                raise JournalGone(f"turn {number} of run {before.run_id} is not kept")
        return turns

    async def _message(self, source: Stored, before: run_pb2.Run, turn: run_pb2.Turn) -> struct_pb2.Value:
        """That the turn began with."""
        if turn.message_number == 1:
            return before.input
        page = await self._store.read(source.topic, turn.first_sequence - 1, max_events=1)
        for entry in page.entries:
            for data in frames.events(entry.body):
                event = run_event_pb2.RunEvent.FromString(data)
                if event.sequence == turn.first_sequence and event.turn_started.HasField("message"):
                    return event.turn_started.message
        raise JournalGone(f"the message of turn {turn.turn} of run {before.run_id} is not kept: give one")

    async def _remembered(self, source: Stored, turn: int) -> dict[str, bytes]:
        """The fields that hold what the agent remembered after this turn. Raises JournalGone."""
        if REMEMBERED not in source.fields:
            return {}  # it is a workflow, or remembers nothing
        now = Remembered.unpack(source.fields[REMEMBERED])
        if turn < now.kept and not now.dropped_bytes:
            return {}  # nothing was remembered until then
        header = await self._named(source.topic, [history_field(turn)])
        state = Remembered.unpack(header[history_field(turn)])
        fields = await self._named(source.topic, state.fields())
        kept = [Remembered.size_of(data) for name, data in fields.items() if name.startswith(history_field(0)[:-1])]
        state = replace(state, kept=state.first, dropped_bytes=state.written_bytes - sum(kept))
        return fields | header | {REMEMBERED: state.pack()}

    async def _named(self, topic: str, names: list[str]) -> dict[str, bytes]:
        """These fields, all of them. Raises JournalGone."""
        found = await record.read(self._store, topic, names)
        if len(found) < len(names):
            raise JournalGone(f"what {topic.partition('/')[2]} remembered of its turns then is not kept")
        _check_size(found.values())
        return found


def _fork_of(before: run_pb2.Run, place: _Place, definition: Definition, run_id: str, owner: str) -> run_pb2.Run:
    """The run as it is accepted."""
    conversation = before.HasField("conversation")
    first = place.message if place.message_number == 1 else None
    at = place.origin
    return run_pb2.Run(
        run_id=run_id,
        owner=owner,
        agent_id=definition.agent_id,
        agent_version=definition.version,
        state=run_pb2.RUN_STATE_QUEUED,
        input=first or (before.input if before.HasField("input") else None),
        labels=before.labels,
        scorers=before.scorers,
        timeout=before.timeout if before.HasField("timeout") else None,
        conversation=before.conversation if conversation else None,
        turn=place.turn,
        trace_id=before.trace_id,
        forked_from=before.run_id,
        forked_from_sequence=at.last,
        forked_from_turn=at.turn,
        forked_from_step=0 if at.turn or at.step == ALL_STEPS else at.step,
    )


def _inbox(place: _Place) -> Mapping[str, bytes]:
    """The messages of a conversation so far, and the one that comes next, as consumed and accepted."""
    number = place.message_number
    if number == 1:
        return {inbox.INBOX: inbox.Accepted(count=1).pack()}
    consumed = {inbox.CONSUMED: inbox.Consumed(number - 1).pack()}
    accepted = inbox.Accepted(count=number - 1)
    if place.message is None:
        return {inbox.INBOX: accepted.pack(), **consumed}
    message = inbox.Message(number, run_pb2.MESSAGE_MODE_QUEUE, place.message)
    return {inbox.INBOX: accepted.and_one(message).pack(), message.field: message.pack(), **consumed}


def _next_number(source: Stored, turn: run_pb2.Turn | None) -> int:
    """Of the first message that is not taken over: that of the turn, or the one after all that were consumed."""
    if turn is not None:
        return turn.message_number
    consumed, accepted = inbox.Consumed.of(source.fields), inbox.Accepted.of(source.fields)
    over = accepted.ended and accepted.count == consumed.count
    return consumed.count if over else consumed.count + 1


def _step(request: agent_service_pb2.ForkRunRequest, told: Told) -> int:
    """The first step that is done again. Raises InvalidRequest."""
    at = request.WhichOneof("at")
    if at == "step":
        if request.step != 1 and request.step not in told.begun:
            raise InvalidRequest({"step": f"is {request.step}: the run has the steps {_shown(told.begun)}"})
        return request.step
    if at == "step_name":
        numbers = [number for number, name in told.names.items() if name == request.step_name]
        if len(numbers) != 1:
            problem = f"{len(numbers)} steps have the name {request.step_name!r}: give a number of {_shown(told.begun)}"
            raise InvalidRequest({"step_name": problem})
        return numbers[0]
    return ALL_STEPS


def _shown(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    return f"{ordered[0]} to {ordered[-1]}" if ordered else "none"


def _check_at(request: agent_service_pb2.ForkRunRequest, conversation: bool) -> None:
    """Raises InvalidRequest for a place that runs of this kind do not have."""
    at = request.WhichOneof("at")
    if conversation and at in ("step", "step_name"):
        raise InvalidRequest({at: "the run is a conversation, which is forked at a turn"})
    if not conversation and at == "turn":
        raise InvalidRequest({at: "the run is no conversation: it is forked at a step"})
    if request.wait and (not conversation or request.HasField("message")):
        raise InvalidRequest({"wait": "is for a conversation that is to wait for its message"})


def _check_size(parts: Iterable[bytes]) -> None:
    if (size := sum(map(len, parts))) > MAX_TAKEN_BYTES:
        raise NotForkable(f"what would be taken over has {size} bytes, more than {MAX_TAKEN_BYTES}")


def _digest(request: agent_service_pb2.ForkRunRequest) -> bytes:
    """Of what makes two requests the same; never that of a StartRun."""
    return record.digest_of(request, "request_id", kind=b"fork\0")
