"""Which events of a conversation answer one message. No input or output here: both clients share it."""

from __future__ import annotations

from runwire.agent.v1 import run_event_pb2
from runwire.errors import ConversationEnded
from runwire.fold import Fold, Turn


class ReplyReader:
    """Follows one message: from the beginning of its turn, or from where it steers one, to the end of that turn."""

    def __init__(self) -> None:
        self.message_number = 0
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
