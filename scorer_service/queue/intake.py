"""Takes requests from the message queue into the database.

    receive a batch -> rows, in one transaction -> acknowledge

A request that is delivered again finds its row there. Each message becomes a row, whatever is in it: one that cannot
be understood becomes a FAILED row that says so, and the queue continues.

What is bad, validation says, and nothing else: the check here of what the message holds, never an error of the
database (see `faults`). A row that the database does not take, nobody knows why, is parked: its message waits in a
table of its own, behind it the queue continues, and it is tried again with growing pauses, for ever and aloud.

A request waits for its scorer, whether this process has it or not: see `holders`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from google.protobuf.message import DecodeError

from runwire.pubsub import Delivery, Store
from runwire.scorer.v1 import scorer_run_requested_pb2 as wire
from runwire.scorer_requests import DEFAULT_TENANT, QUEUE, scorer_run_id
from runwire.times import seconds_of
from runwire.values import from_struct
from scorer_service.queue.jobs import Jobs
from scorer_service.queue.parking import Parking
from scorer_service.results.database import Database
from scorer_service.results.faults import write_in_parts
from scorer_service.results.records import Error, NewRun, State, json_text, printable

logger = logging.getLogger("scorer_service")

_BATCH: Final = 1000
_LEASE_SECONDS: Final = 15.0
_WAIT_SECONDS: Final = 1.0
_PARKED_SECONDS: Final = 5.0
MAX_ID_LENGTH: Final = 256
MAX_OPTIONS_BYTES: Final = 256 * 1024


class Intake:
    """One per process."""

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        database: Database,
        *,
        max_sample_bytes: int,
        on_new: Callable[[], None],
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._parking = Parking(database, jobs)
        self._max_sample_bytes = max_sample_bytes
        self._on_new = on_new
        self._batch: Sequence[Delivery] = ()

    async def run_once(self) -> float:
        """One batch; waits a moment for the first message. After an error it continues with the batch that it holds:
        what was received is given to nobody else until its lease ends."""
        if not self._batch:
            self._batch = await self._store.receive(
                QUEUE,
                consumer=self._jobs.worker,
                limit=_BATCH,
                lease_seconds=_LEASE_SECONDS,
                wait_seconds=_WAIT_SECONDS,
            )
        if self._batch:
            taken = await self._take_in(self._batch)
            self._on_new()
            await self._store.acknowledge(QUEUE, taken)
            self._batch = ()
        return 0.0

    async def retry_once(self) -> float:
        """Tries again what is parked and due; returns when to look again."""
        taken = await self._parking.retry(self._read)
        if taken:
            self._on_new()
        return 0.0 if taken else _PARKED_SECONDS

    async def _take_in(self, batch: Sequence[Delivery]) -> list[str]:
        """Writes what a batch asks for; returns which messages are kept. What is not comes again, when the lease of
        its message ends. Raises StoreUnavailable."""
        read = [(delivery, self._read(delivery.body)) for delivery in batch]

        async def write(part: Sequence[tuple[Delivery, NewRun]]) -> None:
            await self._jobs.add([new for _, new in part])

        stuck = await write_in_parts(read, write)
        lost = set()
        for (delivery, new), error in stuck:
            if not await self._parking.park(delivery.body, new, error):
                lost.add(delivery.message_id)
        return [delivery.message_id for delivery in batch if delivery.message_id not in lost]

    def _read(self, body: bytes) -> NewRun:
        """The row of a message."""
        try:
            message = wire.ScorerRunRequested.FromString(body)
            if problem := _problem(message):
                return _malformed(body, problem)
            return self._row(message)
        except (DecodeError, ValueError, RecursionError) as error:  # options that cannot be kept, a time that is none
            return _malformed(body, f"not a ScorerRunRequested: {error}")

    def _row(self, message: wire.ScorerRunRequested) -> NewRun:
        tenant = message.tenant or DEFAULT_TENANT
        sample = message.sample
        key = message.scorer_run_id or scorer_run_id(
            tenant, sample.run_id, message.scorer_id, message.scorer_version, message.scorer_name
        )
        state, error = State.PENDING, None
        if message.HasField("sampling") and not message.sampling.sampled:
            state = State.DECLINED
        elif (size := sample.ByteSize()) > self._max_sample_bytes:
            words = f"its sample has {size} bytes; at most {self._max_sample_bytes} are scored"
            state, error = State.FAILED, Error("sample_too_large", words)
        return NewRun(
            scorer_run_id=key,
            tenant=tenant,
            scorer_id=message.scorer_id,
            run_id=sample.run_id,
            agent_id=sample.agent_id,
            scorer_name=message.scorer_name,
            wanted_version=message.scorer_version,
            state=state,
            error=error,
            rate=message.sampling.rate if message.HasField("sampling") else 1.0,
            siblings=message.sibling_count,
            options=json_text(from_struct(message.options)) if message.options.fields else "{}",
            labels=json.dumps(dict(sample.labels)) if sample.labels else "{}",
            traceparent=message.traceparent,
            tracestate=message.tracestate,
            deadline=seconds_of(message.deadline) if message.HasField("deadline") else None,
            sample=(_without_texts(sample) if error else sample).SerializeToString(),
            create_time=seconds_of(message.request_time) if message.HasField("request_time") else None,
        )


def _problem(message: wire.ScorerRunRequested) -> str:
    """What makes it no request that can be kept; empty where it is one."""
    if not message.scorer_id:
        return "scorer_id is empty"
    texts = {
        "scorer_run_id": message.scorer_run_id,
        "tenant": message.tenant,
        "scorer_id": message.scorer_id,
        "scorer_version": message.scorer_version,
        "scorer_name": message.scorer_name,
        "sample.run_id": message.sample.run_id,
        "sample.agent_id": message.sample.agent_id,
        "traceparent": message.traceparent,
    }
    for path, text in texts.items():
        if "\0" in text or len(text) > MAX_ID_LENGTH:
            return f"{path} has more than {MAX_ID_LENGTH} characters, or a NUL"
    if "\0" in message.tracestate or len(message.tracestate) > 2048:
        return "tracestate has more than 2048 characters, or a NUL"
    if not (message.scorer_run_id or message.sample.run_id):
        return "neither scorer_run_id nor sample.run_id is set"
    if not 0.0 <= message.sampling.rate <= 1.0:
        return f"sampling.rate is {message.sampling.rate}"
    if message.sibling_count < 0:
        return f"sibling_count is {message.sibling_count}"
    if (size := message.options.ByteSize()) > MAX_OPTIONS_BYTES:
        return f"options has {size} bytes; at most {MAX_OPTIONS_BYTES} are kept"
    return ""


def _without_texts(sample: wire.Sample) -> wire.Sample:
    """What remains of a sample that is too large."""
    stub = wire.Sample(run_id=sample.run_id, agent_id=sample.agent_id, run_state=sample.run_state, by_reference=True)
    stub.agent_version = sample.agent_version
    return stub


def _malformed(body: bytes, problem: str) -> NewRun:
    return NewRun(
        scorer_run_id=sha256(body).hexdigest()[:32],
        tenant=DEFAULT_TENANT,
        scorer_id="",
        state=State.FAILED,
        error=Error("malformed_request", printable(problem)),
        sample=body,
    )
