"""How a run ends: its last commit, built from parts that each fall back to less, and never to nothing.

Rule: **every way out of an attempt ends in a commit that cannot raise.** What a run leaves was made by its agent,
and an agent can make anything: values that nothing can hold, exceptions whose text raises, a log that this version
cannot read. So each part is built by itself, and the whole is written in the richest `Form` that can be built and that
the store takes. A run is never executed again because its end was hard to write.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from google.protobuf import struct_pb2

from agent_service.agents.context import BudgetExceeded, ModelFailed
from agent_service.execution import scoring
from agent_service.log import inbox, record
from agent_service.log.history import Excerpt
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.pubsub import Claim, Message
from runwire.redaction import masked, redact
from runwire.times import timestamp
from runwire.values import carry_text, from_value

_MAX_TRACE_LENGTH: Final = 10_000
"""Of the traceback of a failed run in the log of the process."""
_MAX_WORDS: Final = 100_000
"""Characters of an exception's text that are looked at for secrets; far fewer are kept."""
_MAX_OUTPUT_TEXT: Final = 2_000
_MAX_FRAMES: Final = 5
_MAX_LINE: Final = 500
_NOT_THE_AUTHORS: Final = (f"{os.sep}agent_service{os.sep}", "site-packages", f"{os.sep}asyncio{os.sep}", "<frozen")
_MARK: Final = " [the output itself could not be kept]"

logger = logging.getLogger("agent_service.execution.ending")


class OutputInvalid(Exception):
    """The output is not of the type that the agent declares. `output` is what it returned: it is paid for, and kept."""

    def __init__(self, problem: str, output: struct_pb2.Value) -> None:
        super().__init__(problem)
        self.output = output


_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (BudgetExceeded, "budget_exceeded"),
    (ModelFailed, "model_error"),
    (OutputInvalid, "output_invalid"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed."""

    reason: str
    message: str
    error_class: str = ""

    def to_proto(self) -> run_pb2.RunError:
        """As it is stored; of what cannot be, the reason is left."""
        try:
            return run_pb2.RunError(
                reason=self.reason, message=redact(self.message[:_MAX_WORDS]), error_class=self.error_class
            )
        except Exception:
            logger.exception("the message of a failure (%s) cannot be kept", self.reason)
            return run_pb2.RunError(reason=self.reason)


def failure_of(error: BaseException) -> Failure:
    """What an agent raised, as far as it can be told."""
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "agent_error")
    return Failure(reason, words(error), _class_name(error))


def words(error: BaseException) -> str:
    """What an exception says. Its class is the agent's, and may fail in this too."""
    try:
        return str(error)[:_MAX_WORDS] or _class_name(error)
    except BaseException:
        return _class_name(error)


def frames_of(error: BaseException) -> str:
    """Where an agent failed, in a line: the author's last frames first, without secrets."""
    try:
        frames = [
            f"{frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}"
            for frame in reversed(traceback.extract_tb(error.__traceback__))
            if not any(part in frame.filename for part in _NOT_THE_AUTHORS)
        ]
        where = f" at {', '.join(frames[:_MAX_FRAMES])}" if frames else ""
        return carry_text(masked(f"{_class_name(error)}: {words(error)[:_MAX_LINE]}{where}"))
    except BaseException:
        return _class_name(error)


def trace(error: BaseException) -> str:
    """The traceback for the log of the process, without secrets."""
    try:
        return carry_text(masked("".join(traceback.format_exception(error))[-_MAX_WORDS:])[-_MAX_TRACE_LENGTH:])
    except BaseException:
        return _class_name(error)


def _class_name(error: BaseException) -> str:
    try:
        return str(type(error).__name__)[:256].encode(errors="replace").decode()
    except BaseException:  # of a metaclass
        return "Exception"


class Form(Enum):
    """How much of an end is written."""

    WHOLE = "whole"
    REFERENCED = "without samples for scorers, which fetch them"
    TEXT = "without its output, but a part of its text"
    LEAST = "with its state and reason alone"


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of the end."""

    claim: Claim
    run: run_pb2.Run
    excerpt: Excerpt
    whole: bool
    """Whether the log was read, and `excerpt` told of all of it."""
    state: run_pb2.RunState
    output: struct_pb2.Value | None
    failure: Failure | None
    time: float
    message: inbox.Message | None = None
    """That the turn began with, where it is the end of a turn and not of the run."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """W3C trace context of the attempt; empty: that of StartRun's caller."""

    def finished(self, form: Form) -> tuple[run_pb2.Run, run_event_pb2.RunFinished]:
        """The Run as it is kept, and the event that says so."""
        run = self.run if form is not Form.LEAST else self._least()
        run.state = self.state
        del run.pending[:]
        output = self.output_in(form)
        run.ClearField("output")
        if output is not None:
            run.output.CopyFrom(output)
        if self.failure is not None:
            run.error.CopyFrom(
                self.failure.to_proto() if form is not Form.LEAST else run_pb2.RunError(reason=self.failure.reason)
            )
        run.end_time.CopyFrom(timestamp(self.time))
        finished = run_event_pb2.RunFinished(state=self.state, output=output, usage=run.usage)
        if self.failure is not None:
            finished.error.CopyFrom(run.error)
        return run, finished

    def output_in(self, form: Form) -> struct_pb2.Value | None:
        """As much of the output as this form holds."""
        if self.output is None or form in (Form.WHOLE, Form.REFERENCED):
            return self.output
        return struct_pb2.Value(string_value=_text_of(self.output)) if form is Form.TEXT else None

    def _least(self) -> run_pb2.Run:
        """The run as it was accepted; where even that cannot be read, its name."""
        run = read_run(self.claim) or run_pb2.Run()
        _, run.run_id = record.split_topic(self.claim.topic)
        run.attempt = self.claim.head.attempt
        return run

    def messages(self, form: Form, run: run_pb2.Run, max_sample_bytes: int) -> list[Message]:
        """What it asks of scorers; an end that can ask none is an end all the same."""
        try:
            return list(self._requests(form, run, max_sample_bytes))
        except Exception:
            logger.exception("%s: no scorer can be asked", self.claim.topic)
            return []

    def _of_turn(self, run: run_pb2.Run, form: Form) -> run_pb2.Run:
        """The turn as scorers see it: a run of its own."""
        assert self.message is not None
        turn = run_pb2.Run()
        turn.CopyFrom(run)
        turn.state = self.state
        turn.usage.CopyFrom(run.turn.usage)
        turn.start_time.CopyFrom(run.turn.start_time)
        turn.end_time.CopyFrom(run.turn.end_time)
        turn.input.CopyFrom(self.message.value or struct_pb2.Value())
        for name, value in (("output", self.output_in(form)), ("error", self.failure and self.failure.to_proto())):
            turn.ClearField(name)
            if value is not None:
                getattr(turn, name).CopyFrom(value)
        return turn

    def _requests(self, form: Form, run: run_pb2.Run, max_sample_bytes: int) -> Iterator[Message]:
        tenant, _ = record.split_topic(self.claim.topic)
        conversation = self.message is None and run.HasField("conversation")
        if self.message is not None:
            run = self._of_turn(run, form)
        trace = self.trace or record.trace_of(self.claim.fields.get(record.TRACE, b""))
        return scoring.requests(
            tenant,
            run,
            self.excerpt,
            max_sample_bytes=max_sample_bytes,
            # What was kept of the log is its last turn.
            by_reference=form is not Form.WHOLE or not self.whole or conversation,
            traceparent=trace.get("traceparent", ""),
            tracestate=trace.get("tracestate", ""),
            turn=run.turn.turn if self.message is not None else 0,
        )


def read_run(claim: Claim) -> run_pb2.Run | None:
    """The run as its owner last wrote it; None if it cannot be read."""
    try:
        return run_pb2.Run.FromString(claim.fields[record.RUN])
    except Exception:
        return None


def _text_of(output: struct_pb2.Value) -> str:
    try:
        return str(from_value(output))[:_MAX_OUTPUT_TEXT].encode(errors="replace").decode() + _MARK
    except Exception:
        return _MARK.strip()
