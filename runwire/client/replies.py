"""What both clients know of a conversation: which run it is, and which events answer one message. No input or output
here; `conversation` and `sync_conversation` add the waiting."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import ConversationEnded, NotAConversation
from runwire.fold import Fold, Turn
from runwire.values import Json

Talk = TypeVar("Talk")


class ConversationBase:
    """A conversation, which begins with its first message, or is one that was begun before."""

    def __init__(
        self,
        client: Any,
        agent_id: str = "",
        run_id: str = "",
        *,
        idle_timeout: timedelta | float | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        context: Mapping[str, object] | None = None,
        model: str = "",
        model_settings: Mapping[str, Json] | None = None,
    ) -> None:
        self._client = client
        self.run_id = run_id
        """Empty before the first message."""
        self._agent_id = agent_id
        self._beginning: dict[str, Any] = {
            "request_id": request_id or str(uuid.uuid4()),
            "labels": labels,
            "conversation": True,
            "idle_timeout": idle_timeout,
            "context": context,
            "model": model,
            "model_settings": model_settings,
        }
        """What its run is started with, beside agent and message."""


class ReplyBase(Generic[Talk]):
    """The events that answer one message. Ends with the turn, or with the run."""

    def __init__(
        self, conversation: Talk, message: object = None, mode: run_pb2.MessageMode | str = "queue", *, number: int = 0
    ) -> None:
        """`number`: of a message that was accepted before; then there is none to say."""
        self._conversation = conversation
        self._message = message
        self._mode = mode
        self._reader = ReplyReader(number)

    @property
    def turn(self) -> Turn | None:
        """The turn so far; None until the message is consumed."""
        return self._reader.turn

    @property
    def run_ended(self) -> bool:
        """Whether the run ended with this turn, or without it."""
        return self._reader.run_ended


class ReplyReader:
    """Follows one message: from the beginning of its turn, or from where it steers one, to the end of that turn."""

    def __init__(self, message_number: int = 0) -> None:
        self.message_number = message_number
        """Known once the message is accepted."""
        self.turn_number = 0
        """Of the turn that the message is part of; 0 until it is consumed."""
        self.ended = False
        self.run_ended = False
        self._folded = Fold()

    @property
    def turn(self) -> Turn | None:
        """The turn so far; None until the message is consumed."""
        return self._folded.view.turns.get(self.turn_number)

    def take(self, event: run_event_pb2.RunEvent) -> bool:
        """Whether the event answers the message."""
        self._folded.add(event)
        payload = event.WhichOneof("payload")
        consumed = 0
        if payload == "turn_started":
            consumed = event.turn_started.message_number
        elif payload == "message_received":
            consumed = event.message_received.message_number
        if consumed == self.message_number:
            self.turn_number = event.turn
        self.run_ended = payload == "run_finished"
        mine = self.run_ended or (self.turn_number > 0 and event.turn == self.turn_number)
        self.ended = self.run_ended or (mine and payload == "turn_finished")
        return mine

    def result(self) -> Turn:
        """The turn, once all was read. Raises ConversationEnded where the run ended before it began."""
        if self.turn is None:
            raise ConversationEnded("the run ended before it came to this message")
        return self.turn


def number_under_way(run: run_pb2.Run) -> int:
    """Of the message that is answered now; 0 between turns. Raises NotAConversation."""
    if not run.HasField("conversation"):
        raise NotAConversation(f"run {run.run_id} is no conversation")
    if run.state == run_pb2.RUN_STATE_QUEUED and not run.turn.turn:
        return 1
    return run.turn.message_number if run.turn.state == run_pb2.RUN_STATE_RUNNING else 0
