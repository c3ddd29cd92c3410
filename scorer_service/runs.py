"""What the store knows of a run: its sample, where that was too large for a message, and whether it asks for more."""

from __future__ import annotations

from runwire import frames
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import NotFound, StoreUnavailable, Unavailable
from runwire.fold import Fold, RunView, view_of_turn
from runwire.pubsub import Store
from runwire.scorer.v1 import scorer_run_requested_pb2 as wire
from runwire.scorer_requests import BRIEF, OWNER, QUEUE, add_steps, add_turns, is_owned, state_name, topic_of
from runwire.values import carry_value
from scorer_service.results.records import Job
from scorer_service.scoring import NonRetriableError


class Runs:
    """The runs of a store that may come later: this service answers calls from its own database before its store does.

    Until `open`, and whenever the store is away, what is asked for raises StoreUnavailable.
    """

    def __init__(self, *, max_fetched_bytes: int) -> None:
        self._max_fetched_bytes = max_fetched_bytes
        self._store: Store | None = None

    def open(self, store: Store) -> None:
        """The store is there."""
        self._store = store

    async def fetch(self, job: Job) -> bytes:
        """Completes the sample of a job from the run's log.

        Raises NonRetriableError: `sample_too_large` where the log has more than `max_fetched_bytes`, `sample_lost`
        where the run is not in this store (any more).
        """
        stub = wire.Sample.FromString(job.sample)
        try:
            view = await _view(self._there, topic_of(job.tenant, stub.run_id), self._max_fetched_bytes)
        except NotFound:
            raise NonRetriableError(
                "the sample was too large for its message, and the run is not in the store any more",
                reason="sample_lost",
            ) from None
        return _complete(stub, view).SerializeToString()

    async def all_sent(self, tenant: str, run_id: str) -> bool:
        """Whether all requests of a run have been taken in; False where that is not known."""
        try:
            (head,) = await self._there.heads([topic_of(tenant, run_id)])
            # They came with the last event. Once that is there and the queue was empty, all are in the database.
            return head is not None and head.final > 0 and await self._there.backlog(QUEUE) == 0
        except Unavailable:
            return False

    async def is_owned(self, tenant: str, run_id: str, owner: str) -> bool:
        """Whether a run was started by a subject."""
        stored = await self._there.get(topic_of(tenant, run_id), [OWNER])
        return stored is not None and is_owned(stored.fields, owner)

    async def brief(self, tenant: str, run_id: str) -> run_pb2.Run | None:
        """A run as lists show it; None where the store has none of this name."""
        stored = await self._there.get(topic_of(tenant, run_id), [BRIEF])
        if stored is None or BRIEF not in stored.fields:
            return None
        return run_pb2.Run.FromString(stored.fields[BRIEF])

    @property
    def _there(self) -> Store:
        if self._store is None:
            raise StoreUnavailable("this server starts, and its store does not answer yet")
        return self._store


async def _view(store: Store, topic: str, max_bytes: int) -> RunView:
    folded = Fold()
    after = size = 0
    while True:
        page = await store.read(topic, after)
        if page.head.expired:
            raise NotFound("expired")
        for entry in page.entries:
            size += len(entry.body)
            if size > max_bytes:
                raise NonRetriableError(f"the run's log has more than {max_bytes} bytes", reason="sample_too_large")
            for event in frames.events(entry.body):
                folded.add(run_event_pb2.RunEvent.FromString(event))
            after = entry.last
        if not page.entries or after >= page.head.last:
            return folded.view


def _complete(stub: wire.Sample, view: RunView) -> wire.Sample:
    sample = wire.Sample()
    sample.CopyFrom(stub)
    sample.by_reference = False
    if stub.turn:
        view = view_of_turn(view, stub.turn)
    else:
        add_turns(sample, view)
    sample.run_state = state_name(view.state)
    sample.input.CopyFrom(carry_value(view.input))
    sample.output.CopyFrom(carry_value(view.output))
    add_steps(sample, view)
    return sample
