"""A run as its store keeps it: the names of a topic's fields, and the Run that they add up to."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError, Message

from runwire import frames, scorer_requests, tracing, values
from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.cursor import CursorCodec
from runwire.pubsub import ASIDE, Head, Store, Stored
from runwire.times import timestamp

RUN: Final = "run"
"""The Run, as its owner last wrote it."""
REQUEST: Final = "request"
"""Digest of the StartRunRequest, for repeats of its request id."""
CANCEL: Final = "cancel"
"""Cancellation was asked for; holds the reason."""
ANSWER: Final = "answer/"
"""+ request id: when it was answered, and the Answer."""
DEATH: Final = "death"
"""How the process that executed the run alone ended, the last time."""
TRACE: Final = "trace"
"""W3C trace context: traceparent, newline, tracestate. What the run's spans are within."""
TRACED: Final = "traced"
"""The same, of the latest attempt, which the next one is linked to."""
CONTEXT: Final = "context"
"""StartRunRequest.context. Beside the Run, which is written with many commits."""
CANCELLER: Final = "cancelled-by"
"""Who asked for it."""
SUMMARY: Final = (RUN, CANCEL, CANCELLER)
"""What `to_run` needs."""
WHOLE: Final = (*SUMMARY, CONTEXT)
"""What it needs for an answer about one run."""
BRIEF: Final = scorer_requests.BRIEF
"""The Run as lists show it: at most about MAX_BRIEF_BYTES and its labels. Written with every RUN."""
LISTED: Final = (BRIEF, CANCEL, CANCELLER)
"""What `to_listed` needs."""
MAX_BRIEF_BYTES: Final = 4 * 1024
"""A larger run is listed without its largest fields."""
_OMITTABLE: Final = ("input", "output", "scorers", "pending", "attempts")

ORPHANED: Final = "orphaned"
"""Nobody has had the version of the agent that began the run for as long as the agent allows."""
FORMAT: Final = "format"
"""Of the journal and of these fields, as digits; where there is none it is 1."""
FORMAT_VERSION: Final = 1
"""What this release writes. It reads all before. One is added where a release before would misread what is written."""

FORK: Final = "fork"
"""Where the run came from (see Origin), while what it took over is still to be told at the beginning of the log."""
TURN: Final = f"{ASIDE}turn/"
"""+ number: a turn of a conversation that is done."""
MAX_TURNS: Final = 1000
"""Newest turns that are listed."""

TERMINAL: Final = frozenset({run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED})

_QUEUE: Final = "agent/"
_READ_AT_ONCE: Final = 64

_TIME = struct.Struct(">d")


def split_topic(topic: str) -> tuple[str, str]:
    """(tenant, run id) of a topic."""
    tenant, _, run_id = topic.partition("/")
    return tenant, run_id


def turn_field(number: int) -> str:
    """The field of a turn that is done."""
    return f"{TURN}{number}"


def queue_of(agent_id: str, version: str) -> str:
    """The queue in which workers that have this version of an agent find the runs that are bound to it."""
    return f"{any_queue_of(agent_id)}@{version}"


def any_queue_of(agent_id: str) -> str:
    """The queue of an agent's runs that any version may continue with: conversations between two turns, and what is
    only to be ended."""
    return f"{_QUEUE}{agent_id.replace('%', '%25').replace('@', '%40')}"


def agent_of(queue: str) -> tuple[str, str | None]:
    """The agent whose runs are in a queue, and the version that they are bound to; None: any."""
    name, at, version = queue.removeprefix(_QUEUE).partition("@")
    return name.replace("%40", "@").replace("%25", "%"), version if at else None


def index_of(tenant: str, agent_id: str = "") -> str:
    """The list of a tenant's runs, or of those of one agent."""
    return f"runs/{tenant}/{agent_id}" if agent_id else f"runs/{tenant}"


def label_list(tenant: str, key: str, value: str) -> str:
    """The list of a tenant's runs with this label. By a digest, as labels may hold anything: who uses the list looks at
    the labels themselves too."""
    return f"labels/{tenant}/{hashlib.sha256(f'{len(key)}/{key}{value}'.encode()).hexdigest()[:32]}"


def state_list(tenant: str, state: run_pb2.RunState) -> str:
    """The list of a tenant's runs in this state. Every commit that writes a run's state moves it."""
    return f"states/{tenant}/{state}"


def owner_list(tenant: str, owner: str) -> str:
    """The list of the runs that somebody started."""
    return f"owners/{tenant}/{hashlib.sha256(owner.encode()).hexdigest()[:32]}"


def lists_of(tenant: str, run: run_pb2.Run) -> tuple[str, ...]:
    """All lists that a run stands in."""
    owners = [owner_list(tenant, run.owner)] if run.owner else []
    labels = (label_list(tenant, key, value) for key, value in run.labels.items())
    return index_of(tenant), index_of(tenant, run.agent_id), state_list(tenant, run.state), *owners, *labels


def is_of_later_release(fields: Mapping[str, bytes]) -> bool:
    """Whether the journal and the other fields may mean what this release does not know."""
    version = fields.get(FORMAT, b"1")
    return not version.isdigit() or int(version) > FORMAT_VERSION


def pack_trace(carrier: Mapping[str, str]) -> bytes:
    """W3C trace context as TRACE and TRACED hold it."""
    return f"{carrier.get('traceparent', '')}\n{carrier.get('tracestate', '')}".encode()


def trace_of(data: bytes) -> dict[str, str]:
    """Of `pack_trace`; empty where it is none."""
    traceparent, _, tracestate = data.decode(errors="replace").partition("\n")
    return tracing.carrier_of(traceparent, tracestate)


async def read(store: Store, topic: str, names: Sequence[str]) -> dict[str, bytes]:
    """Those of these fields of a run that there are, however many are asked for. Raises StoreUnavailable."""
    found: dict[str, bytes] = {}
    for start in range(0, len(names), _READ_AT_ONCE):
        stored = await store.get(topic, names[start : start + _READ_AT_ONCE])
        found |= stored.fields if stored is not None else {}
    return found


def digest_of(request: Message, *of_no_account: str, kind: bytes = b"") -> bytes:
    """Of a request without these fields, as REQUEST holds it."""
    bound = type(request)()
    bound.CopyFrom(request)
    for name in of_no_account:
        bound.ClearField(name)
    return hashlib.sha256(kind + bound.SerializeToString(deterministic=True)).digest()


def puts(run: run_pb2.Run) -> dict[str, bytes]:
    """The fields to write for a run."""
    return {RUN: run.SerializeToString(), BRIEF: _brief(run).SerializeToString()}


def _brief(run: run_pb2.Run) -> run_pb2.Run:
    size = run.ByteSize()
    if size <= MAX_BRIEF_BYTES:
        return run
    fields = {field.name: value for field, value in run.ListFields()}
    sizes = {name: _size(fields[name]) for name in _OMITTABLE if name in fields}
    omitted: list[str] = []
    while size > MAX_BRIEF_BYTES and sizes:
        largest = max(sizes, key=lambda name: sizes[name])
        size -= sizes.pop(largest)
        omitted.append(largest)
    brief = run_pb2.Run(**{name: value for name, value in fields.items() if name not in omitted})
    if size > MAX_BRIEF_BYTES and brief.error.message:
        brief.error.ClearField("message")
        omitted.append("error.message")
    brief.omitted.extend(omitted)
    return brief


def _size(value: Any) -> int:
    """Of a field that holds a message, or many."""
    return value.ByteSize() if isinstance(value, Message) else sum(each.ByteSize() for each in value)


def to_run(stored: Stored) -> run_pb2.Run:
    """The Run of a topic that is not expired, with what its head knows better."""
    run = _readable(stored.fields[RUN]) or _lost(stored)
    run.cancelled_by = stored.fields.get(CANCELLER, b"").decode()
    if CONTEXT in stored.fields:
        run.context.CopyFrom(context(stored.fields))
    return with_head(run, stored.topic, stored.head, CANCEL in stored.fields)


def to_listed(stored: Stored) -> run_pb2.Run:
    """The Run of a topic that is not expired, as lists show it."""
    run = _readable(stored.fields[BRIEF]) or _lost(stored)
    run.cancelled_by = stored.fields.get(CANCELLER, b"").decode()
    return with_head(run, stored.topic, stored.head, CANCEL in stored.fields)


def _readable(data: bytes) -> run_pb2.Run | None:
    """A Run that every client reads, also in a list, whatever an older version has stored; None where there is none in
    these bytes."""
    try:
        # In the deepest of its envelopes: protobuf counts how deep a message is nested.
        run = agent_service_pb2.ListRunsResponse.FromString(frames.frame(data)).runs[0]
        well = not values.may_be_unreadable(data) and (not run.HasField("timeout") or values.is_time(run.timeout))
    except DecodeError:
        well = False
        try:
            run = run_pb2.Run.FromString(data)
        except DecodeError:
            return None
    if not well:
        values.make_readable(run)
    return run


def _lost(stored: Stored) -> run_pb2.Run:
    """What stands in the place of a Run that cannot be read: it must not take a list with it."""
    _, run_id = split_topic(stored.topic)
    error = run_pb2.RunError(reason="run_unreadable", message="what the store has of this run cannot be read")
    return run_pb2.Run(run_id=run_id, state=stored.head.final, error=error)  # type: ignore[arg-type]


def with_head(run: run_pb2.Run, topic: str, head: Head, cancel_requested: bool) -> run_pb2.Run:
    """Fills in what the log's head knows: position and times of the store."""
    run.last_sequence = head.last
    run.cursor = CursorCodec(topic).encode(head.position)
    run.create_time.CopyFrom(timestamp(head.create_time))
    run.cancel_requested = cancel_requested
    if head.expire_time:
        run.expire_time.CopyFrom(timestamp(head.expire_time))
    return run


def context(fields: Mapping[str, bytes]) -> struct_pb2.Struct:
    """StartRunRequest.context, checked when it was accepted; empty where what is stored cannot be read."""
    try:
        return struct_pb2.Struct.FromString(fields.get(CONTEXT, b""))
    except DecodeError:
        return struct_pb2.Struct()


def pack_answer(answer: run_event_pb2.Answer, time: float) -> bytes:
    """An answer and when it was given."""
    return _TIME.pack(time) + answer.SerializeToString()


def unpack_answer(data: bytes) -> tuple[float, run_event_pb2.Answer]:
    """Of `pack_answer`."""
    return _TIME.unpack_from(data)[0], run_event_pb2.Answer.FromString(data[_TIME.size :])


def answers(fields: Mapping[str, bytes]) -> dict[str, run_event_pb2.Answer]:
    """All answers of a run, by request id."""
    return {
        name.removeprefix(ANSWER): unpack_answer(data)[1] for name, data in fields.items() if name.startswith(ANSWER)
    }
