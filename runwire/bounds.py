"""The bounds of every field of every request, of both services, in one table.

`runwire.rpc` checks each request against it before the service sees it, so that whatever is accepted can be kept,
listed and read back. A field of text, bytes, a list or a map that has no bound here is a fault, which
`tests/service/test_walk.py` finds: it walks the requests by descriptor. What depends on more than one field is checked
by the service.

Always, and without an entry: enums are values that exist, floating-point numbers are finite, times are between the
years 1 and 9999, Values and Structs hold only what every client reads back (`runwire.values`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from runwire import values
from runwire.frames import MAX_BATCH_EVENTS
from runwire.times import seconds_of

MAX_INPUT_BYTES: Final = 1024 * 1024
FILES_BY_URL: Final = "give files by URL, as a part {'type': 'image', 'url': 'https://...'}"
MAX_PARTS: Final = 256
MAX_CONTEXT_BYTES: Final = 64 * 1024
MAX_MODEL_SETTINGS_BYTES: Final = 4 * 1024
MAX_LABELS: Final = 32
MAX_SCORERS: Final = 32
MAX_SCORERS_BYTES: Final = 256 * 1024
"""Of all scorers of one call, with their options: they are kept with the run."""
MAX_ANSWERS: Final = 1000
MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Of all answers of one call."""
MAX_OPTIONS_BYTES: Final = 64 * 1024
"""Of a scorer's options, asked for by hand."""
MAX_IDS: Final = 1000
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""Of any request: gRPC refuses a larger one, with RESOURCE_EXHAUSTED and no reason."""
MAX_TIMEOUT_SECONDS: Final = 3653 * 86400
"""Ten years."""
_MAX_PROBLEMS: Final = 50
_SHOWN: Final = 63
"""Characters of a key that is named in a path."""


@dataclass(frozen=True, slots=True)
class Text:
    """Characters of a text. Without NUL, which a database may not take."""

    most: int
    least: int = 0
    pattern: re.Pattern[str] | None = None
    means: str = ""
    """What `pattern` stands for, in words."""
    nul: bool = False

    def problem(self, text: str) -> str:
        if not text:
            return "must be set" if self.least else ""
        if len(text) > self.most:
            return f"has {len(text)} characters; at most {self.most} are taken"
        if not self.nul and "\0" in text:
            return "holds a NUL"
        return self.means if self.pattern is not None and not self.pattern.fullmatch(text) else ""


@dataclass(frozen=True, slots=True)
class Items:
    """Entries of a list, and their bytes together. `each`: of texts. `only`: the values that an enum may have here, and
    what they are in words."""

    most: int
    most_bytes: int = MAX_REQUEST_BYTES
    each: Text | None = None
    only: frozenset[int] = frozenset()
    means: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """Entries of a map of texts."""

    most: int = MAX_LABELS
    key: Text = Text(63, least=1)
    value: Text = Text(255, nul=True)


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a message. `advice`: what to do where they are too many."""

    most_bytes: int
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a field of bytes."""

    most_bytes: int
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Number:
    """A number, and where it lies."""

    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of a duration. `least` itself is taken."""

    least: float
    most: float


Bound = Text | Items | Labels | Size | Data | Number | Span

_RUN_ID: Final = Text(128, 1, re.compile(r"[A-Za-z0-9._-]{1,128}"), "must be 1 to 128 letters, digits, '.', '_' or '-'")
_ID: Final = Text(256)
_SCORER_ID: Final = Text(256, 1)
_SCORER_NAME: Final = Text(128, 0, re.compile(r"[^\x00-\x1f\x7f-\x9f]*"), "holds a control character")
_VERSION: Final = Text(256)
_OWN_ID: Final = Text(128, 1, re.compile(r"[^\x00-\x1f\x7f-\x9f]*"), "holds a control character")
"""Of a scorer that somebody registers."""
_AUTHOR: Final = Text(256, 0, re.compile(r"[^\x00-\x1f\x7f-\x9f]*"), "holds a control character")
_WORKER: Final = Text(128, 1, re.compile(r"[A-Za-z0-9._:@-]+"), "must be letters, digits, '.', '_', ':', '@' or '-'")
_LEASE: Final = Span(1, 86400)
_REQUEST_ID: Final = Text(128)
_TRACE: Final = Text(512)
_TRACEPARENT: Final = Text(256)
"""A scorer's request carries it too, and is read with this bound."""
_CURSOR: Final = Text(4096)
"""Longer than any; what it holds is the cursor's own business, and so is how it is refused."""
_TOKEN: Final = Text(8192)
_PAGE: Final = Number(0)
_HEARTBEAT: Final = Span(1, 60)
_NAME: Final = Text(1024, nul=True)
_AS_SAMPLE: Final = Text(MAX_REQUEST_BYTES, nul=True)
"""Text in a sample: the sample as a whole is bounded, by a setting."""
_STATES: Final = Items(32)
_ENDS: Final = Items(
    32, only=frozenset({4, 5, 6}), means="must be states that a run ends in: SUCCEEDED, FAILED, CANCELLED"
)

_AGENT: Final = "runwire.agent.v1."
_SCORER: Final = "runwire.scorer.v1."

BOUNDS: Final[Mapping[str, Bound]] = {
    _AGENT + "ListAgentsRequest.page_size": _PAGE,
    _AGENT + "ListAgentsRequest.page_token": _TOKEN,
    _AGENT + "StartRunRequest.agent_id": Text(128, 1),
    _AGENT + "StartRunRequest.input": Size(MAX_INPUT_BYTES, FILES_BY_URL),
    _AGENT + "StartRunRequest.request_id": Text(128, nul=True),
    _AGENT + "StartRunRequest.labels": Labels(),
    _AGENT + "StartRunRequest.scorers": Items(MAX_SCORERS, MAX_SCORERS_BYTES),
    _AGENT + "StartRunRequest.timeout": Span(1e-9, MAX_TIMEOUT_SECONDS),
    _AGENT + "StartRunRequest.traceparent": _TRACEPARENT,
    _AGENT + "StartRunRequest.tracestate": _TRACE,
    _AGENT + "StartRunRequest.context": Size(MAX_CONTEXT_BYTES),
    _AGENT + "StartRunRequest.parts": Items(MAX_PARTS, MAX_INPUT_BYTES, advice=FILES_BY_URL),
    _AGENT + "InputPart.text": Text(MAX_INPUT_BYTES, nul=True),
    _AGENT + "Media.url": Text(8192),
    _AGENT + "Media.data": Data(MAX_INPUT_BYTES, FILES_BY_URL),
    _AGENT + "Media.media_type": Text(256),
    _AGENT + "ModelChoice.model": Text(256),
    _AGENT + "ModelChoice.settings": Size(MAX_MODEL_SETTINGS_BYTES),
    _AGENT + "ScorerRef.scorer_id": _SCORER_ID,
    _AGENT + "ScorerRef.sampling": Number(0, 1),
    _AGENT + "ScorerRef.scorer_version": _VERSION,
    _AGENT + "ScorerRef.match_labels": Labels(),
    _AGENT + "ScorerRef.match_states": _ENDS,
    _AGENT + "ScorerRef.options": Size(MAX_SCORERS_BYTES),
    _AGENT + "ScorerRef.name": _SCORER_NAME,
    _AGENT + "GetRunRequest.run_id": _RUN_ID,
    _AGENT + "ListRunsRequest.agent_id": Text(128),
    _AGENT + "ListRunsRequest.states": _STATES,
    _AGENT + "ListRunsRequest.labels": Labels(),
    _AGENT + "ListRunsRequest.page_size": _PAGE,
    _AGENT + "ListRunsRequest.page_token": _TOKEN,
    _AGENT + "DeleteRunsRequest.run_ids": Items(MAX_IDS, each=_RUN_ID),
    _AGENT + "DeleteRunsRequest.page_size": _PAGE,
    _AGENT + "DeleteRunsRequest.page_token": _TOKEN,
    _AGENT + "RunFilter.agent_id": Text(128),
    _AGENT + "RunFilter.states": _STATES,
    _AGENT + "RunFilter.labels": Labels(),
    _AGENT + "WatchRunRequest.run_id": _RUN_ID,
    _AGENT + "WatchRunRequest.cursor": _CURSOR,
    _AGENT + "WatchRunRequest.heartbeat_interval": _HEARTBEAT,
    _AGENT + "WatchRunRequest.max_batch_size": Number(0, MAX_BATCH_EVENTS),
    _AGENT + "ListRunEventsRequest.run_id": _RUN_ID,
    _AGENT + "ListRunEventsRequest.cursor": _CURSOR,
    _AGENT + "ListRunEventsRequest.page_size": _PAGE,
    _AGENT + "ListRunEventsRequest.page_token": _TOKEN,
    _AGENT + "CancelRunRequest.run_id": _RUN_ID,
    _AGENT + "CancelRunRequest.reason": Text(2000, nul=True),
    _AGENT + "CreateRunTokenRequest.run_id": _RUN_ID,
    _AGENT + "CreateRunTokenRequest.lifetime": Span(1, 3600),
    _AGENT + "ResumeRunRequest.run_id": _RUN_ID,
    _AGENT + "ResumeRunRequest.answers": Items(MAX_ANSWERS, MAX_ANSWER_BYTES),
    _AGENT + "Answer.request_id": Text(2048, nul=True),
    _AGENT + "Answer.by": Text(256),
    _AGENT + "Answer.data": Size(MAX_ANSWER_BYTES),
    _AGENT + "Approve.override_arguments": Size(MAX_ANSWER_BYTES),
    _AGENT + "Answer.metadata": Size(MAX_ANSWER_BYTES),
    _AGENT + "Deny.message": Text(65_536, nul=True),
    _AGENT + "Conversation.idle_timeout": Span(1e-9, MAX_TIMEOUT_SECONDS),
    _AGENT + "SendMessageRequest.run_id": _RUN_ID,
    _AGENT + "SendMessageRequest.message": Size(MAX_INPUT_BYTES, FILES_BY_URL),
    _AGENT + "SendMessageRequest.request_id": Text(128, nul=True),
    _AGENT + "EndConversationRequest.run_id": _RUN_ID,
    _AGENT + "ForkRunRequest.run_id": _RUN_ID,
    _AGENT + "ForkRunRequest.request_id": Text(128, nul=True),
    _AGENT + "ForkRunRequest.step_name": Text(256, nul=True),
    _AGENT + "ForkRunRequest.message": Size(MAX_INPUT_BYTES),
    _AGENT + "ForkRunRequest.agent_id": Text(128),
    _AGENT + "ListTurnsRequest.run_id": _RUN_ID,
    _AGENT + "ListTurnsRequest.page_size": _PAGE,
    _AGENT + "ListTurnsRequest.page_token": _TOKEN,
    _AGENT + "ListWorkersRequest.page_size": _PAGE,
    _AGENT + "ListWorkersRequest.page_token": _TOKEN,
    _AGENT + "ListQueuesRequest.page_size": _PAGE,
    _AGENT + "ListQueuesRequest.page_token": _TOKEN,
    _SCORER + "ListScorerWorkersRequest.page_size": _PAGE,
    _SCORER + "ListScorerWorkersRequest.page_token": _TOKEN,
    _SCORER + "ListScorerQueuesRequest.page_size": _PAGE,
    _SCORER + "ListScorerQueuesRequest.page_token": _TOKEN,
    _SCORER + "ListScorersRequest.page_size": _PAGE,
    _SCORER + "ListScorersRequest.page_token": _TOKEN,
    _SCORER + "GetScorerRunRequest.scorer_run_id": Text(256, 1),
    _SCORER + "ScorerRunFilter.run_id": _ID,
    _SCORER + "ScorerRunFilter.agent_id": _ID,
    _SCORER + "ScorerRunFilter.scorer_id": _ID,
    _SCORER + "ScorerRunFilter.states": _STATES,
    _SCORER + "ScorerRunFilter.scorer_name": _SCORER_NAME,
    _SCORER + "ListScorerRunsRequest.page_size": _PAGE,
    _SCORER + "ListScorerRunsRequest.page_token": _TOKEN,
    _SCORER + "WatchScorerRunsRequest.run_id": _ID,
    _SCORER + "WatchScorerRunsRequest.cursor": _CURSOR,
    _SCORER + "WatchScorerRunsRequest.heartbeat_interval": _HEARTBEAT,
    _SCORER + "RequestScorerRunRequest.scorer_id": _SCORER_ID,
    _SCORER + "RequestScorerRunRequest.scorer_version": _VERSION,
    _SCORER + "RequestScorerRunRequest.options": Size(MAX_OPTIONS_BYTES),
    _SCORER + "RequestScorerRunRequest.request_id": _REQUEST_ID,
    _SCORER + "RequestScorerRunRequest.scorer_name": _SCORER_NAME,
    _SCORER + "Sample.run_id": _ID,
    _SCORER + "Sample.agent_id": _ID,
    _SCORER + "Sample.agent_version": _VERSION,
    _SCORER + "Sample.run_state": Text(64),
    _SCORER + "Sample.error_reason": _NAME,
    _SCORER + "Sample.error_message": _AS_SAMPLE,
    _SCORER + "Sample.tool_calls": Items(65_536),
    _SCORER + "Sample.steps": Items(65_536),
    _SCORER + "Sample.labels": Labels(),
    _SCORER + "Sample.context": Items(65_536, each=_AS_SAMPLE),
    _SCORER + "SampleToolCall.tool_call_id": _AS_SAMPLE,
    _SCORER + "SampleToolCall.tool_name": _AS_SAMPLE,
    _SCORER + "SampleToolCall.outcome": _NAME,
    _SCORER + "SampleStep.name": _AS_SAMPLE,
    _SCORER + "SampleStep.text": _AS_SAMPLE,
    _SCORER + "Sample.turns": Items(65_536),
    _SCORER + "SampleTurn.state": Text(64),
    _SCORER + "SampleTurn.error_reason": _NAME,
    _SCORER + "SampleTurn.steering": Items(65_536),
    _SCORER + "RetryScorerRunsRequest.scorer_run_ids": Items(MAX_IDS, each=Text(256, 1)),
    _SCORER + "RetryScorerRunsRequest.scorer_version": _VERSION,
    _SCORER + "RetryScorerRunsRequest.page_size": _PAGE,
    _SCORER + "RetryScorerRunsRequest.page_token": _TOKEN,
    _SCORER + "DeleteScorerRunsRequest.run_ids": Items(MAX_IDS, each=Text(256, 1)),
    _SCORER + "CancelScorerRunsRequest.scorer_run_ids": Items(MAX_IDS, each=Text(256, 1)),
    _SCORER + "CancelScorerRunsRequest.page_size": _PAGE,
    _SCORER + "CancelScorerRunsRequest.page_token": _TOKEN,
    _SCORER + "PauseScorerRequest.scorer_id": _SCORER_ID,
    _SCORER + "ResumeScorerRequest.scorer_id": _SCORER_ID,
    _SCORER + "GetScorerStatsRequest.scorer_id": _ID,
    _SCORER + "ScorerRunFilter.error_reason": _ID,
    _SCORER + "ScorerBudget.scorer_id": _ID,
    _SCORER + "ScorerBudget.window": Span(1, 366 * 86400),
    _SCORER + "ScorerBudget.max_tokens": Number(0),
    _SCORER + "ScorerBudget.max_cost_usd": Number(0),
    _SCORER + "SubmitScoreRequest.run_id": Text(256, 1),
    _SCORER + "SubmitScoreRequest.scorer_id": _OWN_ID,
    _SCORER + "SubmitScoreRequest.label": Text(255),
    _SCORER + "SubmitScoreRequest.comment": Text(16_384),
    _SCORER + "SubmitScoreRequest.author": _AUTHOR,
    _SCORER + "SubmitScoreRequest.request_id": _REQUEST_ID,
    _SCORER + "ExternalScorer.scorer_id": _OWN_ID,
    _SCORER + "ExternalScorer.version": _OWN_ID,
    _SCORER + "ExternalScorer.description": Text(4096),
    _SCORER + "ExternalScorer.options_schema": Size(MAX_OPTIONS_BYTES),
    _SCORER + "ExternalScorer.timeout": Span(1, 30 * 86400),
    _SCORER + "ExternalScorer.retries": Number(0, 100),
    _SCORER + "ClaimScorerRunsRequest.worker": _WORKER,
    _SCORER + "ClaimScorerRunsRequest.scorers": Items(100),
    _SCORER + "ClaimScorerRunsRequest.max_scorer_runs": Number(0, 100),
    _SCORER + "ClaimScorerRunsRequest.wait": Span(0, 60),
    _SCORER + "ClaimScorerRunsRequest.lease": _LEASE,
    _SCORER + "ClaimScorerRunsRequest.in_hand": Number(0),
    _SCORER + "ClaimScorerRunsRequest.max_sample_bytes": Number(0, 16 * 1024 * 1024),
    _SCORER + "ScorerVersion.scorer_id": _OWN_ID,
    _SCORER + "ScorerVersion.version": _OWN_ID,
    _SCORER + "ReportScorerRunRequest.worker": _WORKER,
    _SCORER + "ReportScorerRunRequest.scorer_run_id": Text(256, 1),
    _SCORER + "ReportScorerRunRequest.claim": Number(0),
    _SCORER + "ReportScorerRunRequest.scorer_version": _OWN_ID,
    # What is said of a score is cut, and never a reason to refuse it.
    _SCORER + "Score.label": _AS_SAMPLE,
    _SCORER + "Score.reason": _AS_SAMPLE,
    _SCORER + "Judgement.model": _AS_SAMPLE,
    _SCORER + "Judgement.prompt_version": _AS_SAMPLE,
    _SCORER + "Judging.model": _AS_SAMPLE,
    _SCORER + "Judging.exchanges": Items(65_536),
    _SCORER + "JudgeExchange.prompt": _AS_SAMPLE,
    _SCORER + "JudgeExchange.answer": _AS_SAMPLE,
    _SCORER + "AttemptError.message": _AS_SAMPLE,
    _SCORER + "AttemptError.error_class": _AS_SAMPLE,
    _SCORER + "AttemptError.reason": Text(128, 0, re.compile(r"[a-z0-9_]*"), "must be lower snake case"),
    _SCORER + "AttemptError.retry_after": Span(0, 7 * 86400),
    _SCORER + "AttemptNotScorable.reason": _AS_SAMPLE,
    _SCORER + "AttemptExtension.lease": _LEASE,
}


def too_large(size_bytes: int, most_bytes: int, advice: str = FILES_BY_URL) -> str:
    """What is said of a message that has too many bytes."""
    return f"has {size_bytes} bytes; at most {most_bytes} are taken{f': {advice}' if advice else ''}"


def violations(request: Message) -> dict[str, str]:
    """What is wrong with the fields of a request, by path; empty for one that keeps all bounds. Messages that are not
    this project's have none."""
    found: dict[str, str] = {}
    for path, problem in _problems(request, ""):
        found.setdefault(path, problem)
        if len(found) >= _MAX_PROBLEMS:
            break
    return found


def _problems(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    # What a call cannot do without, the call says itself.
    for required, text in _required(message.DESCRIPTOR) if prefix else ():
        if not getattr(message, required.name):
            yield prefix + required.name, text.problem("")
    for field, value in message.ListFields():
        path = prefix + field.name
        bound = BOUNDS.get(field.full_name)
        if field.is_repeated:
            yield from _of_list(field, value, bound, path)
        else:
            yield from _of_one(field, value, bound, path)


@cache
def _required(descriptor: Descriptor) -> tuple[tuple[FieldDescriptor, Text], ...]:
    bounds = ((field, BOUNDS.get(field.full_name)) for field in descriptor.fields)
    return tuple((field, bound) for field, bound in bounds if isinstance(bound, Text) and bound.least)


def _of_list(field: FieldDescriptor, value: Any, bound: Bound | None, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(bound, Labels):
        yield from _of_labels(value, bound, path)
        return
    if not isinstance(bound, Items):
        return
    if len(value) > bound.most:
        yield path, f"has {len(value)} entries; at most {bound.most} are taken"
        return
    if field.message_type is not None and (size := sum(each.ByteSize() for each in value)) > bound.most_bytes:
        advice = f": {bound.advice}" if bound.advice else ""
        yield path, f"have {size} bytes; at most {bound.most_bytes} are taken{advice}"
        return
    if bound.only and not bound.only.issuperset(value):
        yield path, bound.means
        return
    for index, each in enumerate(value):
        place = f"{path}[{index}]"
        if field.enum_type is not None and (each not in field.enum_type.values_by_number or each == 0):
            yield place, f"there is no such value: {each}"
        elif isinstance(each, Message):
            yield from _problems(each, f"{place}.")
        elif bound.each is not None and (problem := bound.each.problem(each)):
            yield place, problem


def _of_labels(value: Mapping[str, str], bound: Labels, path: str) -> Iterator[tuple[str, str]]:
    if len(value) > bound.most:
        yield path, f"has {len(value)} entries; at most {bound.most} are taken"
        return
    for key, text in value.items():
        if problem := bound.key.problem(key):
            yield f"{path}[{key[:_SHOWN]!r}]", f"its key {problem}"
        elif problem := bound.value.problem(text):
            yield f"{path}[{key[:_SHOWN]!r}]", problem


def _of_one(field: FieldDescriptor, value: Any, bound: Bound | None, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(bound, Size) and (size := value.ByteSize()) > bound.most_bytes:
        yield path, too_large(size, bound.most_bytes, bound.advice)
    elif isinstance(bound, Data):
        if len(value) > bound.most_bytes:
            yield path, too_large(len(value), bound.most_bytes, bound.advice)
    elif isinstance(bound, Text):
        if value and (problem := bound.problem(value)):
            yield path, problem
    elif field.enum_type is not None:
        if value not in field.enum_type.values_by_number:
            yield path, f"there is no such value: {value}"
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield from _of_number(value, bound, path)
    elif isinstance(value, Message):
        yield from _of_message(value, bound, path)


def _of_number(value: float, bound: Bound | None, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(bound, Number) and not bound.least <= value <= bound.most:
        limits = f"at least {bound.least:g}" if bound.most == math.inf else f"{bound.least:g} to {bound.most:g}"
        yield path, f"must be {limits}, got {value}"
    elif not math.isfinite(value):
        yield path, f"must be finite, got {value}"


def _of_message(value: Message, bound: Bound | None, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, struct_pb2.Value):
        yield from values.check_value(value, path).items()
    elif isinstance(value, struct_pb2.Struct):
        yield from values.check_struct(value, path).items()
    elif isinstance(value, timestamp_pb2.Timestamp):
        if not values.is_time(value):
            yield path, "is no time between the years 1 and 9999"
    elif isinstance(value, duration_pb2.Duration):
        yield from _of_duration(value, bound, path)
    else:
        yield from _problems(value, f"{path}.")


def _of_duration(value: duration_pb2.Duration, bound: Bound | None, path: str) -> Iterator[tuple[str, str]]:
    if not values.is_time(value):
        yield path, "is no duration: seconds and nanoseconds are out of range, or of different signs"
    elif isinstance(bound, Span) and not bound.least <= (seconds := seconds_of(value)) <= bound.most:
        if bound.least < 1:
            yield path, f"must be positive, and at most {bound.most:g} seconds, got {seconds:g}"
        else:
            yield path, f"must be {bound.least:g} to {bound.most:g} seconds, got {seconds:g}"


def unbounded(request: Descriptor) -> list[str]:
    """Fields of text, bytes, lists and maps of a request, at any depth, that have no bound in the table."""
    return sorted(
        field.full_name for field in _walk(request, lambda field: _wants(field)) if field.full_name not in BOUNDS
    )


def _wants(field: FieldDescriptor) -> bool:
    return field.is_repeated or field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def _walk(descriptor: Descriptor, wanted: Callable[[FieldDescriptor], bool]) -> Iterator[FieldDescriptor]:
    seen: set[str] = set()
    waiting = [descriptor]
    while waiting:
        present = waiting.pop()
        if present.full_name in seen or not present.full_name.startswith("runwire."):
            continue
        seen.add(present.full_name)
        for field in present.fields:
            if wanted(field):
                yield field
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                waiting.append(field.message_type)
