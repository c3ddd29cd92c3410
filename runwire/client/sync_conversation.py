"""A conversation with an agent, without asyncio: as `runwire.client.conversation`."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client.replies import ConversationBase, ReplyBase, number_under_way
from runwire.fold import Turn

if TYPE_CHECKING:
    from runwire.client.sync import AgentClient, RunStream


class Conversation(ConversationBase):
    """Messages to an agent, and its answers, in one run that stays open.

        with client.conversation("support") as chat:
            for event in chat.send("My parcel is late."):
                print(event.text_delta.text, end="")
            turn = chat.ask("Number 42.")
            print(turn.output)

    The run is started by the first message. To leave the block does not end the conversation: `run_id`, given to
    `AgentClient.conversation` again, continues with it, also from another process; `end` ends it. Made by AgentClient.
    """

    _client: AgentClient

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the conversation as it is."""

    def send(self, message: object, *, mode: run_pb2.MessageMode | str = "queue") -> Reply:
        """Says `message` once the first event is asked for; the events of the turn that answers it, through every cut.
        `mode` is `queue`, `steer` or `interrupt`, as in `AgentClient.send_message`."""
        return Reply(self, message, mode)

    def ask(self, message: object, *, mode: run_pb2.MessageMode | str = "queue") -> Turn:
        """Says `message`, and returns the turn that answers it once it is over, whether it succeeded or not."""
        return self.send(message, mode=mode).result()

    def under_way(self) -> Reply | None:
        """The turn under way, from its beginning: for a client that comes back. None between turns."""
        number = number_under_way(self._client.get_run(self.run_id)) if self.run_id else 0
        return Reply(self, number=number) if number else None

    def answer(self, answers: Sequence[run_event_pb2.Answer]) -> run_pb2.Run:
        """Answers what the turn under way waits for; see `AgentClient.resume_run`."""
        return self._client.resume_run(self.run_id, answers)

    def fork(self, turn: int | None = None) -> Conversation:
        """Another conversation, with all turns before `turn` (None: with all that are done), which waits for its next
        message. This one stays as it is. Raises NotForkable, JournalGone."""
        run = self._client.fork_run(self.run_id, turn=turn, wait=True)
        return Conversation(self._client, run_id=run.run_id)

    def end(self) -> run_pb2.Run:
        """Ends the conversation once all that was said is answered."""
        return self._client.end_conversation(self.run_id)

    def _say(self, message: object, mode: run_pb2.MessageMode | str) -> tuple[int, RunStream]:
        """The number of the message, and a stream of what follows."""
        if not self.run_id:
            run = self._client.start_run(self._agent_id, message, **self._beginning)
            self.run_id = run.run_id
            return 1, self._client.watch(run.run_id)
        before = self._client.get_run(self.run_id)
        number = self._client.send_message(self.run_id, message, mode=mode)
        return number, self._client.watch(self.run_id, after=before.cursor)


class Reply(ReplyBase[Conversation]):
    """The events that answer one message: `for event in reply`. Ends with the turn, or with the run."""

    _stream: RunStream | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> run_event_pb2.RunEvent:
        if self._stream is None:
            talk = self._conversation
            if self._reader.message_number:
                self._stream = talk._client.watch(talk.run_id)
            else:
                self._reader.message_number, self._stream = talk._say(self._message, self._mode)
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
