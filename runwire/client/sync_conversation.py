"""A conversation with an agent, without asyncio: as `runwire.client.conversation`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from google.protobuf import struct_pb2

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client.replies import ReplyReader
from runwire.fold import Turn
from runwire.values import Json

if TYPE_CHECKING:
    from runwire.client.sync import AgentClient, RunStream


class Conversation:
    """Messages to an agent, and its answers, in one run that stays open.

        with client.conversation("support") as chat:
            for event in chat.send("My parcel is late."):
                print(event.text_delta.text, end="")
            turn = chat.ask("Number 42.")
            print(turn.output)

    The run is started by the first message. To leave the block does not end the conversation: `run_id`, given to
    `AgentClient.conversation` again, continues with it, also from another process; `end` ends it. Made by AgentClient.
    """

    def __init__(
        self,
        client: AgentClient,
        agent_id: str,
        run_id: str,
        *,
        idle_timeout: timedelta | float | None,
        labels: Mapping[str, str] | None,
        request_id: str | None,
    ) -> None:
        self._client = client
        self._agent_id = agent_id
        self._idle_timeout = idle_timeout
        self._labels = labels
        self._request_id = request_id or str(uuid.uuid4())
        self.run_id = run_id
        """Empty before the first message."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the conversation as it is."""

    def send(self, message: Json | struct_pb2.Value, *, mode: run_pb2.MessageMode | str = "queue") -> Reply:
        """Says `message` once the first event is asked for; the events of the turn that answers it, through every cut.
        `mode` is `queue`, `steer` or `interrupt`, as in `AgentClient.send_message`."""
        return Reply(self, message, mode)

    def ask(self, message: Json | struct_pb2.Value, *, mode: run_pb2.MessageMode | str = "queue") -> Turn:
        """Says `message`, and returns the turn that answers it once it is over, whether it succeeded or not."""
        return self.send(message, mode=mode).result()

    def answer(self, answers: Sequence[run_event_pb2.Answer]) -> run_pb2.Run:
        """Answers what the turn under way waits for; see `AgentClient.resume_run`."""
        return self._client.resume_run(self.run_id, answers)

    def end(self) -> run_pb2.Run:
        """Ends the conversation once all that was said is answered."""
        return self._client.end_conversation(self.run_id)

    def _say(self, message: Json | struct_pb2.Value, mode: run_pb2.MessageMode | str) -> tuple[int, RunStream]:
        """The number of the message, and a stream of what follows."""
        if not self.run_id:
            run = self._client.start_run(
                self._agent_id,
                message,
                request_id=self._request_id,
                labels=self._labels,
                conversation=True,
                idle_timeout=self._idle_timeout,
            )
            self.run_id = run.run_id
            return 1, self._client.watch(run.run_id)
        before = self._client.get_run(self.run_id)
        number = self._client.send_message(self.run_id, message, mode=mode)
        return number, self._client.watch(self.run_id, after=before.cursor)


class Reply:
    """The events that answer one message: `for event in reply`. Ends with the turn, or with the run."""

    def __init__(
        self, conversation: Conversation, message: Json | struct_pb2.Value, mode: run_pb2.MessageMode | str
    ) -> None:
        self._conversation = conversation
        self._message = message
        self._mode = mode
        self._reader = ReplyReader()
        self._stream: RunStream | None = None

    @property
    def turn(self) -> Turn | None:
        """The turn so far; None until the message is consumed."""
        return self._reader.turn

    @property
    def run_ended(self) -> bool:
        """Whether the run ended with this turn, or without it."""
        return self._reader.run_ended

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> run_event_pb2.RunEvent:
        if self._stream is None:
            self._reader.message_number, self._stream = self._conversation._say(self._message, self._mode)
        while not self._reader.ended:
            event = next(self._stream)
            if self._reader.take(event):
                return event
        self._stream.close()
        raise StopIteration

    def result(self) -> Turn:
        """Reads to the end; the turn as it is then. Raises ConversationEnded if the run ended without it."""
        for _ in self:
            pass
        return self._reader.result()
