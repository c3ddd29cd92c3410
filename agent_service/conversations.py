"""What can be asked of conversations: send a message, end, list the turns. The same on every replica."""

from __future__ import annotations

from typing import Final

from agent_service.agents.registry import Registry
from agent_service.log import inbox, record
from agent_service.log.inbox import Accepted, Consumed, Message, acceptance
from agent_service.runs import Runs
from runwire import frames
from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.errors import (
    AlreadyExists,
    ConversationEnded,
    Fenced,
    FieldExists,
    InvalidRequest,
    LogClosed,
    NotAConversation,
    StoreUnavailable,
    TooManyMessages,
)
from runwire.identity.principal import Principal
from runwire.paging import decode_token, encode_token, page_size
from runwire.pubsub import Store, Stored
from runwire.scorer_requests import topic_of
from runwire.threads import off_loop

_SEND_TRIES: Final = 200
"""How often a message is tried that meets another sender, or a worker at its claim."""
_MAX_PAGE_SIZE: Final = 100
_RETRY_SECONDS: Final = 1.0
_OF_SENDERS: Final = (*record.SUMMARY, inbox.INBOX, inbox.CONSUMED)


class Conversations:
    """The conversations among the runs of all tenants in one store."""

    def __init__(self, store: Store, runs: Runs, agents: Registry) -> None:
        self._store = store
        self._runs = runs
        self._agents = agents

    async def send(self, who: Principal, request: agent_service_pb2.SendMessageRequest) -> int:
        """Accepts a message, and returns its number; a repeat by request id returns that of the message that is there.

        Raises InvalidRequest, RunNotFound, RunExpired, NotAConversation, ConversationEnded, AlreadyExists,
        TooManyMessages.
        """
        sent = inbox.sent_field(request.request_id) if request.request_id else ""
        checked = False
        for _ in range(_SEND_TRIES):
            stored = await self._conversation(who, request.run_id, sent)
            if sent in stored.fields:
                return _repeated(stored.fields[sent], request)
            if not checked:
                await self._check(stored, request)
                checked = True
            accepted = _taking(stored)
            mode = request.mode or run_pb2.MESSAGE_MODE_QUEUE
            message = Message(accepted.count + 1, mode, request.message)
            _check_room(accepted, Consumed.of(stored.fields), message)
            remembered = {sent: inbox.pack_sent(message.number, request)} if sent else {}
            if await self._accept(stored, accepted, message, remembered):
                return message.number
        raise StoreUnavailable(f"run {request.run_id} changed {_SEND_TRIES} times meanwhile")

    async def end(self, who: Principal, run_id: str) -> run_pb2.Run:
        """Accepts the end, as a message. Of no effect where the conversation has ended, or is about to.

        Raises RunNotFound, RunExpired, NotAConversation.
        """
        for _ in range(_SEND_TRIES):
            stored = await self._conversation(who, run_id)
            try:
                accepted = _taking(stored)
            except ConversationEnded:
                return record.to_run(stored)
            if await self._accept(stored, accepted, Message.end(accepted.count + 1)):
                return await self._runs.get(who, run_id)
        raise StoreUnavailable(f"run {run_id} changed {_SEND_TRIES} times meanwhile")

    async def turns(
        self, who: Principal, request: agent_service_pb2.ListTurnsRequest
    ) -> agent_service_pb2.ListTurnsResponse:
        """A page of turns, oldest first. Raises InvalidRequest, RunNotFound, RunExpired."""
        size = min(page_size(request), _MAX_PAGE_SIZE)
        place = decode_token(request, float)
        run = await self._runs.get(who, request.run_id)
        newest = run.turn.turn
        first = max(int(place[0]) if place else 1, newest - record.MAX_TURNS + 1, 1)
        numbers = range(first, min(first + size, newest + 1))
        topic = topic_of(who.tenant, run.run_id)
        stored = await self._store.get(topic, [record.turn_field(number) for number in numbers])
        fields = stored.fields if stored is not None else {}
        response = agent_service_pb2.ListTurnsResponse()
        for number in numbers:
            if (data := fields.get(record.turn_field(number))) is not None:
                response.turns.add().MergeFromString(data)
            elif number == newest:
                response.turns.add().CopyFrom(run.turn)
        for turn in response.turns:
            await self._complete(topic, turn)
        if numbers and numbers[-1] < newest:
            response.next_page_token = encode_token(request, numbers[-1] + 1)
        return response

    async def _conversation(self, who: Principal, run_id: str, *more: str) -> Stored:
        stored = await self._runs.stored(who, run_id, [*_OF_SENDERS, *filter(None, more)])
        if not record.to_run(stored).HasField("conversation"):
            raise NotAConversation(
                f"run {run_id} is no conversation: it was started without StartRunRequest.conversation"
            )
        return stored

    async def _check(self, stored: Stored, request: agent_service_pb2.SendMessageRequest) -> None:
        """Raises InvalidRequest for a message that the agent does not take."""
        if not request.HasField("message"):
            raise InvalidRequest({"message": "must be set"})
        run = record.to_run(stored)
        if run.agent_id not in self._agents:
            return  # it is served elsewhere
        definition = self._agents.get(run.agent_id)
        if definition.kind == run_pb2.AGENT_KIND_AGENT:
            await off_loop(request.ByteSize(), definition.parse_input, request.message, "message")
        elif request.mode not in (run_pb2.MESSAGE_MODE_UNSPECIFIED, run_pb2.MESSAGE_MODE_QUEUE):
            raise InvalidRequest({"mode": "a workflow takes its messages one by one: MESSAGE_MODE_QUEUE"})

    async def _accept(
        self, stored: Stored, accepted: Accepted, message: Message, sent: dict[str, bytes] | None = None
    ) -> bool:
        spent = await self._spent(stored.topic, message.number - inbox.MAX_SENT)
        try:
            await self._runs.log.publish(
                acceptance(stored.topic, stored.head.attempt, accepted, message, sent, deletes=spent)
            )
        except (Fenced, FieldExists):
            return False
        except LogClosed:
            raise ConversationEnded("the conversation has ended") from None
        return True

    async def _spent(self, topic: str, number: int) -> list[str]:
        """The fields that remember the request id of a message so long ago."""
        if number < 1:
            return []
        sender = inbox.sender_field(number)
        stored = await self._store.get(topic, [sender])
        if stored is None or sender not in stored.fields:
            return []
        return [sender, stored.fields[sender].decode()]

    async def _complete(self, topic: str, turn: run_pb2.Turn) -> None:
        """Adds what the log has of it: the message, and the output."""
        started = await self._event(topic, turn.first_sequence)
        if started is not None and started.turn_started.HasField("message"):
            turn.message.CopyFrom(started.turn_started.message)
        finished = await self._event(topic, turn.last_sequence)
        if finished is not None and finished.turn_finished.HasField("output"):
            turn.output.CopyFrom(finished.turn_finished.output)

    async def _event(self, topic: str, sequence: int) -> run_event_pb2.RunEvent | None:
        """One event; None where it was trimmed."""
        if not sequence:
            return None
        page = await self._store.read(topic, sequence - 1, max_events=1)
        for entry in page.entries:
            for data in frames.events(entry.body):
                event = run_event_pb2.RunEvent.FromString(data)
                if event.sequence == sequence:
                    return event
        return None


def _taking(stored: Stored) -> Accepted:
    """The inbox, if it takes messages. Raises ConversationEnded."""
    accepted = Accepted.of(stored.fields)
    if stored.head.final or accepted.ended or record.CANCEL in stored.fields:
        raise ConversationEnded("the conversation has ended, or is about to")
    return accepted


def _repeated(sent: bytes, request: agent_service_pb2.SendMessageRequest) -> int:
    number = inbox.number_sent(sent, request)
    if not number:
        raise AlreadyExists("the request id was used for another message of this conversation", run_id=request.run_id)
    return number


def _check_room(accepted: Accepted, consumed: Consumed, message: Message) -> None:
    count, size = accepted.count - consumed.count, accepted.size_bytes - consumed.size_bytes
    if count >= inbox.MAX_WAITING or size + message.size_bytes > inbox.MAX_WAITING_BYTES:
        problem = f"{count} messages of {size} bytes wait to be consumed: send this one later"
        raise TooManyMessages(problem, _RETRY_SECONDS)
