"""chat: a conversation with an agent, on a terminal or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.cli import asking
from runwire.cli.follow import PlainView
from runwire.cli.interruption import CtrlC
from runwire.cli.output import compact, note, print_json, state_name
from runwire.cli.session import Interrupted, Session, pass_session, service_options
from runwire.client import from_value
from runwire.client.replies import number_under_way
from runwire.client.sync import AgentClient
from runwire.client.sync_conversation import Conversation, Reply
from runwire.errors import ConversationEnded, InvalidRequest, NotFound, PreconditionFailed, RunwireError

_HELP = (
    "/history shows what was said, /turns lists the turns, /fork [TURN] begins a copy (of the turns before TURN), "
    "/end ends the conversation, /cancel ends it at once, /quit leaves it as it is"
)


@click.command()
@click.argument("agent", required=False, default="")
@click.option("--run", "run_id", default="", metavar="RUN", help="Continue with this conversation.")
@service_options()
@pass_session
def chat(session: Session, agent: str, run_id: str) -> int:
    """Talk with AGENT: a line is a message, and the answer is shown as it comes, through every cut.

    What the agent asks for (approvals, results of tools that are executed elsewhere) is asked on the terminal. With
    --run, an answer that is under way is shown first. /help lists the commands. Ctrl-C and the end of the input leave
    the conversation as it is; exits with 1 if its last turn failed.
    """
    if bool(agent) == bool(run_id):
        raise click.UsageError("name an AGENT, or with --run a conversation to continue with")
    _check(session, agent, run_id)
    with session.asking_agents(patiently=True) as client, CtrlC().heard() as ctrl_c:
        talk = _Talk(session, client, client.conversation(agent, run_id=run_id), ctrl_c)
        try:
            if talk.come_back():
                for line in _lines():
                    if not talk.take(line):
                        break
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {talk.how_to_go_on()}") from None
        if talk.open:
            note(talk.how_to_go_on())
    return 1 if talk.failed else 0


def _check(session: Session, agent: str, run_id: str) -> None:
    """Asked first, and not patiently: a mistake is told before anything is typed."""
    with session.asking_agents() as client:
        if run_id:
            number_under_way(client.get_run(run_id))
        elif agent not in {each.agent_id for each in client.list_agents()}:
            raise NotFound(f"no agent {agent!r}; see: runwire agents")


def _lines() -> Iterator[str]:
    """What is typed, or piped in, without empty lines."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import readline  # noqa: F401 - from now on `input` has a history and line editing

    note(_HELP)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if line:
            yield line


class _Talk:
    """One conversation, message by message."""

    def __init__(self, session: Session, client: AgentClient, conversation: Conversation, ctrl_c: CtrlC) -> None:
        self._session = session
        self._client = client
        self._conversation = conversation
        self._ctrl_c = ctrl_c
        self.failed = False
        """The last turn did not succeed."""
        self.open = True

    def how_to_go_on(self) -> str:
        if not self._conversation.run_id:
            return "nothing was said"
        return f"the conversation continues. Come back with: runwire chat --run {self._conversation.run_id}"

    def come_back(self) -> bool:
        """Shows the answer that is under way. False: the conversation is over."""
        reply = self._conversation.under_way()
        return self._show_all(reply) if reply is not None else True

    def take(self, line: str) -> bool:
        """A message or a command. False: the conversation is over."""
        if not line.startswith("/"):
            return self._show_all(self._conversation.send(line))
        run_id = self._conversation.run_id
        command, _, argument = line.partition(" ")
        match command:
            case "/quit":
                return False
            case "/turns" if run_id:
                self._list_turns(run_id)
            case "/history" if run_id:
                self._show_history(run_id)
            case "/fork" if run_id:
                self._fork(argument.strip())
            case "/end" if run_id:
                self._conversation.end()
                self.open = False
                return False
            case "/cancel" if run_id:
                self._client.cancel_run(run_id, reason="cancelled in runwire chat")
                self.open = False
                return False
            case _:
                note(_HELP)
        return True

    def _list_turns(self, run_id: str) -> None:
        for turn in self._client.list_turns(run_id):
            if self._session.json:
                print_json(turn)
            else:
                note(f"{turn.turn} {_state(turn)}: {compact(from_value(turn.message))}")

    def _show_history(self, run_id: str) -> None:
        for turn in self._client.list_turns(run_id):
            if self._session.json:
                print_json(turn)
                continue
            print(f"> {compact(from_value(turn.message))}")
            if turn.HasField("output"):
                output = from_value(turn.output)
                print(output if isinstance(output, str) else compact(output))
            if turn.state != run_pb2.RUN_STATE_SUCCEEDED:
                print(f"[{_state(turn)}{f': {turn.error.reason}' if turn.error.reason else ''}]")
        sys.stdout.flush()

    def _fork(self, turn: str) -> None:
        """Continues in another conversation, which has the turns before this one."""
        if turn and not (turn.isdecimal() and len(turn) < 7):
            note(f"/fork takes the number of a turn, not {turn!r}")
            return
        before = self._conversation
        try:
            self._conversation = before.fork(int(turn) if turn else None)
        except (PreconditionFailed, InvalidRequest) as error:
            note(str(error))
        else:
            note(f"now in {self._conversation.run_id}; the other continues with: runwire chat --run {before.run_id}")

    def _show_all(self, reply: Reply) -> bool:
        """Shows the answer as it comes. False: the conversation is over."""
        try:
            with PlainView() as view:
                for event in reply:
                    # A library may swallow a Ctrl-C while we wait: it is heard here, after the event.
                    with self._ctrl_c.held_off():
                        self._show(event, view)
                    if event.HasField("run_suspended"):
                        self._answer(event.run_suspended.pending)
        except ConversationEnded as error:
            note(str(error))
            self.open = False
            return False
        return self._finish(reply)

    def _show(self, event: run_event_pb2.RunEvent, view: PlainView) -> None:
        if self._session.json:
            print_json(pb.WatchRunResponse(batch=pb.Batch(events=[event])))
        else:
            view.show([event], "")

    def _finish(self, reply: Reply) -> bool:
        turn = reply.turn
        self.failed = turn is None or turn.state != run_pb2.RUN_STATE_SUCCEEDED
        if turn is not None and not self._session.json:
            said = turn.output if isinstance(turn.output, str) else None
            if turn.output is not None and (said is None or said.strip() not in turn.text):
                print(turn.output if said is None else said, flush=True)
            if turn.error is not None:
                note(f"the turn failed: {turn.error.reason}: {turn.error.message}")
        self.open = not reply.run_ended
        return self.open

    def _answer(self, pending: Sequence[run_pb2.PendingRequest]) -> None:
        """Asks the person at the terminal for what is still to be answered. Where nobody is, the conversation is left
        as it is."""
        asked = {each.request_id for each in pending if each.kind != run_pb2.PENDING_KIND_TIME}
        if not asked:
            return
        # Of a turn that is shown from its beginning much is answered; others may answer at any time.
        open_still = [
            each for each in self._client.get_run(self._conversation.run_id).pending if each.request_id in asked
        ]
        if open_still and not sys.stdin.isatty():
            names = ", ".join(each.request_id for each in open_still)
            problem = f"it waits for {names}; answer with: runwire resume {self._conversation.run_id}"
            raise RunwireError(problem)
        answers = [asking.ask(each) for each in open_still]
        if answers:
            try:
                self._conversation.answer(answers)
            except PreconditionFailed as error:
                note(f"not taken: {error}")


def _state(turn: run_pb2.Turn) -> str:
    return state_name(turn.state, run_pb2.RunState)


COMMANDS = (chat,)
