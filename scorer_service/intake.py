"""Takes requests from the message queue into the database.

    receive a batch -> rows, in one transaction -> acknowledge

A request that is delivered again finds its row there. Each message becomes a row, whatever is in it: one that cannot
be understood becomes a FAILED row that says so, and the queue goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from google.protobuf.message import DecodeError

from runwire.errors import Unavailable
from runwire.pubsub import Delivery, Store
from runwire.scorer.v1 import scorer_run_requested_pb2 as wire
from scorer_service.jobs import Jobs
from scorer_service.records import Error, NewRun, State, json_text, printable, scorer_run_id
from scorer_service.registry import Registry
from scorer_service.samples import struct_of

log = logging.getLogger("scorer_service")

QUEUE: Final = "scorer-requests"
DEFAULT_TENANT: Final = "default"
_BATCH: Final = 1000
_LEASE_SECONDS: Final = 15.0
_WAIT_SECONDS: Final = 1.0
MAX_ID_LENGTH: Final = 256


class Intake:
    """One per process."""

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        registry: Registry,
        *,
        max_sample_bytes: int,
        on_new: Callable[[], None],
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._registry = registry
        self._max_sample_bytes = max_sample_bytes
        self._on_new = on_new
        self._batch: Sequence[Delivery] = ()

    async def run_once(self) -> float:
        """One batch; waits a moment for the first message. After an error it goes on with the batch that it holds:
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
            await self._add([self._read(delivery) for delivery in self._batch])
            self._on_new()
            await self._store.acknowledge(QUEUE, [delivery.message_id for delivery in self._batch])
            self._batch = ()
        return 0.0

    async def _add(self, new_runs: Sequence[NewRun]) -> None:
        try:
            await self._jobs.add(new_runs)
        except Unavailable:
            raise
        except Exception:
            log.exception("a batch of %d requests was refused; now one by one", len(new_runs))
            for new in new_runs:
                await self._add_singly(new)

    async def _add_singly(self, new: NewRun) -> None:
        try:
            await self._jobs.add([new])
        except Unavailable:
            raise
        except Exception as error:
            # Its body is kept, so nothing is lost that somebody may still want to read.
            await self._jobs.add([_malformed(new.sample, f"the database refused it: {type(error).__name__}")])

    def _read(self, delivery: Delivery) -> NewRun:
        """The row of a message."""
        try:
            message = wire.ScorerRunRequested.FromString(delivery.body)
            if problem := _problem(message):
                return _malformed(delivery.body, problem)
            return self._row(message)
        except (DecodeError, ValueError) as error:  # ValueError: options that cannot be kept, a time that is none
            return _malformed(delivery.body, f"not a ScorerRunRequested: {error}")

    def _row(self, message: wire.ScorerRunRequested) -> NewRun:
        tenant = message.tenant or DEFAULT_TENANT
        sample = message.sample
        key = message.scorer_run_id or scorer_run_id(
            tenant, sample.run_id, message.scorer_id, message.scorer_version, message.scorer_name
        )
        state, error = State.PENDING, None
        if message.HasField("sampling") and not message.sampling.sampled:
            state = State.DECLINED
        elif unknown := self._registry.problem(message.scorer_id, message.scorer_version):
            state, error = State.FAILED, Error("scorer_unknown", f"{unknown}; redrive it when there is")
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
            options=json_text(struct_of(message.options)) if message.options.fields else "{}",
            labels=json.dumps(dict(sample.labels)) if sample.labels else "{}",
            traceparent=message.traceparent,
            tracestate=message.tracestate,
            deadline=message.deadline.ToNanoseconds() / 1e9 if message.HasField("deadline") else None,
            sample=bounded(sample, self._max_sample_bytes),
            create_time=message.request_time.ToNanoseconds() / 1e9 if message.HasField("request_time") else None,
        )


def _problem(message: wire.ScorerRunRequested) -> str:
    """What makes it no request; empty where it is one."""
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
    return ""


def bounded(sample: wire.Sample, limit: int) -> bytes:
    """The serialised sample; one above the limit without its large parts, which are fetched when it is scored."""
    body = sample.SerializeToString()
    if len(body) <= limit:
        return body
    stub = wire.Sample(
        run_id=sample.run_id,
        agent_id=sample.agent_id,
        agent_version=sample.agent_version,
        run_state=sample.run_state,
        labels=sample.labels,
        by_reference=True,
    )
    stub.usage.CopyFrom(sample.usage)
    return stub.SerializeToString()


def _malformed(body: bytes, problem: str) -> NewRun:
    return NewRun(
        scorer_run_id=sha256(body).hexdigest()[:32],
        tenant=DEFAULT_TENANT,
        scorer_id="",
        state=State.FAILED,
        error=Error("malformed_request", printable(problem)),
        sample=body,
    )
