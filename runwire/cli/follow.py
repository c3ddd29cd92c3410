"""Following a run on the command line: live on a terminal, plain into a pipe, frames as JSON for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Final, Protocol, Self

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.cli import asking
from runwire.cli.interruption import CtrlC
from runwire.cli.output import STYLES, compact, note, print_json, span, state_name
from runwire.cli.session import Interrupted, Session, on_terminal
from runwire.client import Fold, RunView, from_value
from runwire.client.sync import AgentClient, RunStream

WAITS: Final = 5
"""Exit code: the run waits for an answer, and there was nobody to ask."""

_MARKS = {
    run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED: ("✓", "green"),
    run_event_pb2.TOOL_CALL_OUTCOME_FAILED: ("✗", "red"),
    run_event_pb2.TOOL_CALL_OUTCOME_DENIED: ("⊘", "yellow"),
    run_event_pb2.TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH: ("?", "yellow"),
}


def follow(session: Session, run_id: str, *, after: str = "", latest: bool = False, answers: bool = False) -> int:
    """Shows a run until it ends; returns the exit code. Ctrl-C raises Interrupted with the cursor to continue from.

    With `answers` the person at the terminal is asked what the run waits for; where nobody is, it is not followed any
    longer: the exit code is WAITS.
    """
    shown = after
    try:
        with (
            CtrlC().heard() as ctrl_c,
            session.asking_agents(patiently=True) as client,
            client.watch(run_id, after=after, latest=latest) as stream,
            _view(session, stream) as view,
        ):
            for batch in stream.batches():
                # Shown and remembered together, so that continuing from the cursor repeats nothing.
                with ctrl_c.held_off():
                    view.show(batch, stream.next_cursor)
                    shown = stream.next_cursor
                if answers and (asked := _asked(client, run_id, batch)):
                    if not asking.is_possible():
                        names = ", ".join(each.request_id for each in asked)
                        note(f"it waits for {names}; answer with: runwire resume {run_id}")
                        return WAITS
                    with view.paused():
                        client.resume_run(run_id, [asking.ask(each) for each in asked])
            view.end(stream)
    except KeyboardInterrupt:
        cursor = f" --after {shown}" if shown else ""
        raise Interrupted(f"interrupted; the run continues. Follow it with: runwire watch {run_id}{cursor}") from None
    return 0 if stream.state == run_pb2.RUN_STATE_SUCCEEDED else 1


def _asked(client: AgentClient, run_id: str, events: Sequence[run_event_pb2.RunEvent]) -> list[run_pb2.PendingRequest]:
    """What the run waits for that somebody can answer; looked at only where the newest events say that it waits."""
    if not events or not events[-1].HasField("run_suspended"):
        return []
    pending = client.get_run(run_id).pending
    return [each for each in pending if each.kind != run_pb2.PENDING_KIND_TIME]


class View(Protocol):
    """Shows the events of one run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, events: Sequence[run_event_pb2.RunEvent], cursor: str) -> None:
        """Shows the next events; `cursor` is the place after them."""

    def end(self, stream: RunStream) -> None:
        """Says how the run ended."""

    def paused(self) -> AbstractContextManager[object]:
        """Inside, the terminal is somebody else's."""


def _view(session: Session, stream: RunStream) -> View:
    if session.json:
        return JsonView()
    return TerminalView(stream) if on_terminal() else PlainView()


class JsonView:
    """One WatchRunResponse a line: batches with the cursor after them, then `ended`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self, events: Sequence[run_event_pb2.RunEvent], cursor: str) -> None:
        print_json(pb.WatchRunResponse(cursor=cursor, batch=pb.Batch(events=events)))

    def paused(self) -> AbstractContextManager[object]:
        return nullcontext()

    def end(self, stream: RunStream) -> None:
        ended = pb.Ended(state=stream.state, last_sequence=stream.last_sequence)
        print_json(pb.WatchRunResponse(cursor=stream.cursor, ended=ended))


class PlainView:
    """The text goes to stdout as it comes, and everything else in lines to stderr."""

    def __init__(self) -> None:
        self._fold = Fold()
        self._line_open = False
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._break_line()

    def show(self, events: Sequence[run_event_pb2.RunEvent], cursor: str) -> None:
        for event in events:
            line = describe(event, self._fold.view)
            self._fold.add(event)
            if event.HasField("text_delta"):
                self._text(event.text_delta.text)
            elif line:
                self._break_line()
                note(line.plain)
        sys.stdout.flush()

    def end(self, stream: RunStream) -> None:
        self._break_line()
        output = output_text(self._fold.view)
        if output:
            print(output, flush=True)
        note(summary(self._fold.view, stream, time.monotonic() - self._began).plain)

    def paused(self) -> AbstractContextManager[object]:
        self._break_line()
        return nullcontext()

    def _text(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            self._line_open = not text.endswith("\n")

    def _break_line(self) -> None:
        if self._line_open:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._line_open = False


class TerminalView:
    """Text as it comes, tool calls, and a line at the bottom that says where the run is.

    Finished lines are printed for good; only the line under way and the status line are redrawn.
    """

    def __init__(self, stream: RunStream) -> None:
        self._stream = stream
        self._console = Console(highlight=False)
        self._fold = Fold()
        self._partial = ""
        self._style = ""
        self._began = time.monotonic()
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=12,
            transient=True,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._break_line()
        self._live.stop()

    def show(self, events: Sequence[run_event_pb2.RunEvent], cursor: str) -> None:
        for event in events:
            line = describe(event, self._fold.view)
            self._fold.add(event)
            if event.HasField("text_delta"):
                self._text(event.text_delta.text, "")
            elif event.HasField("reasoning_delta"):
                self._text(event.reasoning_delta.text, "dim italic")
            elif line:
                self._break_line()
                line.truncate(max(20, self._console.width), overflow="ellipsis")
                self._console.print(line, soft_wrap=True)

    def end(self, stream: RunStream) -> None:
        self._break_line()
        output = output_text(self._fold.view)
        if output:
            self._console.print(output, markup=False)
        self._console.print(summary(self._fold.view, stream, time.monotonic() - self._began))

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._break_line()
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def _text(self, text: str, style: str) -> None:
        if style != self._style:
            self._break_line()
            self._style = style
        *lines, partial = (self._partial + text).split("\n")
        for line in lines:
            self._console.print(Text(line, style=style))
        width = self._console.width
        if cell_len(partial) > width:
            *wrapped, last = Text(partial).wrap(self._console, width)
            for piece in wrapped:
                self._console.print(Text(piece.plain, style=style))
            partial = last.plain
        self._partial = partial

    def _break_line(self) -> None:
        if self._partial:
            self._console.print(Text(self._partial, style=self._style))
            self._partial = ""

    def _render(self) -> RenderableType:
        view = self._fold.view
        status = Text(" · ".join(progress(view, time.monotonic() - self._began)), style="dim", no_wrap=True)
        if not self._stream.connected:
            status = Text.assemble(("connecting", "yellow"), " · ", status)
        self._spinner.update(text=status)
        return Group(Text(self._partial, style=self._style), self._spinner) if self._partial else self._spinner


def describe(event: run_event_pb2.RunEvent, before: RunView) -> Text | None:
    """The line that tells of an event; None for text, and for what needs no line. `before` is the view without it."""
    kind = event.WhichOneof("payload")
    return _LINES[kind](event, before) if kind in _LINES else None


def _step_started(event: run_event_pb2.RunEvent, before: RunView) -> Text | None:
    if event.step not in before.steps:
        return None
    return Text(
        f"↻ step {event.step} ({event.step_started.name}) begins again in attempt {event.attempt}; "
        "what it said before is void",
        style="yellow",
    )


def _run_started(event: run_event_pb2.RunEvent, before: RunView) -> Text | None:
    if not before.last_sequence:
        return None
    return Text("↻ the run begins again; what it said before is void", style="yellow")


def _tool_started(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    call = event.tool_call_started
    return Text.assemble(("→ ", "cyan"), (call.tool_name, "bold"), " ", (compact(from_value(call.arguments)), "dim"))


def _tool_finished(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    done = event.tool_call_finished
    mark, style = _MARKS.get(done.outcome, ("·", ""))
    return Text.assemble((f"{mark} ", style), (done.tool_name, "bold"), " ", (compact(from_value(done.result)), "dim"))


def _tool_retried(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    retried = event.tool_call_retried
    words = compact(f"{retried.error.error_class}: {retried.error.message}")
    return Text.assemble(("↻ ", "yellow"), (retried.tool_name, "bold"), " ", (f"is called again after {words}", "dim"))


def _citation(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    added = event.citation_added
    return Text.assemble(("❝ ", "cyan"), compact(added.title or added.source), " ", (added.url, "dim"))


def _custom(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    data = {key: from_value(value) for key, value in event.custom.data.fields.items()}
    return Text.assemble(("· ", "cyan"), event.custom.type, " ", (compact(data), "dim"))


def _suspended(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    asks = ", ".join(f"{each.name} ({each.request_id})" for each in event.run_suspended.pending)
    return Text(f"⏸ waits for {asks or 'a time'}; answer with `runwire resume`", style="yellow")


def _resumed(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    return Text("▶ resumed", style="cyan")


def _turn_started(event: run_event_pb2.RunEvent, before: RunView) -> Text | None:
    if event.turn not in before.turns:
        return None
    return Text(f"↻ turn {event.turn} begins again; what it said before is void", style="yellow")


def _turn_finished(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    state = state_name(event.turn_finished.state, run_pb2.RunState)
    return Text.assemble(("■ ", STYLES.get(state, "")), f"turn {event.turn} {state}")


def _message_received(event: run_event_pb2.RunEvent, before: RunView) -> Text:
    return Text.assemble(("← ", "cyan"), compact(from_value(event.message_received.message)))


_LINES: dict[str | None, Any] = {
    "run_started": _run_started,
    "step_started": _step_started,
    "tool_call_started": _tool_started,
    "tool_call_finished": _tool_finished,
    "tool_call_retried": _tool_retried,
    "citation_added": _citation,
    "custom": _custom,
    "run_suspended": _suspended,
    "run_resumed": _resumed,
    "turn_started": _turn_started,
    "turn_finished": _turn_finished,
    "message_received": _message_received,
}


def output_text(view: RunView) -> str:
    """What a run returned, unless its text said it already."""
    if view.output is None or (isinstance(view.output, str) and view.output.strip() in view.text):
        return ""
    return view.output if isinstance(view.output, str) else json.dumps(view.output, ensure_ascii=False, indent=2)


def progress(view: RunView, seconds: float) -> list[str]:
    """The parts of the status line."""
    parts = [state_name(view.state, run_pb2.RunState) if view.state else "waiting"]
    if view.steps and max(view.steps):
        parts.append(f"step {max(view.steps)}")
    if view.attempt > 1:
        parts.append(f"attempt {view.attempt}")
    parts.append(f"{view.last_sequence} events")
    if tokens := view.usage.input_tokens + view.usage.output_tokens:
        parts.append(f"{tokens:,} tokens")
    return [*parts, span(seconds)]


def summary(view: RunView, stream: RunStream, seconds: float) -> Text:
    """The last line."""
    view.state = stream.state
    state, *rest = progress(view, seconds)
    if stream.reconnects:
        rest.append(f"resumed {stream.reconnects} times" if stream.reconnects > 1 else "resumed once")
    line = Text.assemble((state, STYLES.get(state, "")), (f" · {' · '.join(rest)}", "dim"))
    if view.error is not None:
        line.append(f"\n{view.error.reason}: {view.error.message}", style="red")
    return line
