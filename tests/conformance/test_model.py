"""Every engine against the memory engine, step by step: whatever is asked of both, both answer the same.

No step depends on how long another one took: leases, delays and retention are either none or longer than a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from runwire.connect import open_store
from runwire.errors import FieldExists, RunwireError
from runwire.memory import MemoryStore
from runwire.pubsub import Commit, Head, Lease, Message, Schedule, Store
from tests.conformance.backends import Backend
from tests.conformance.logs import appending

LONG_SECONDS = 1000.0
DURATIONS = st.sampled_from([0.0, LONG_SECONDS])
TOPICS = ["one", "two", "three"]
QUEUES = ["left", "right"]
FIELDS = ["a", "b", "c"]

topics = st.sampled_from(TOPICS)
bodies = st.binary(max_size=3)
tokens = st.sampled_from(["own", "own", "own", "", "another"])
"""Which token somebody shows."""
fields = st.dictionaries(st.sampled_from(FIELDS), bodies, max_size=2)
changes = st.fixed_dictionaries(
    {},
    optional={
        "puts": fields,
        "puts_once": fields,
        "deletes": st.lists(st.sampled_from(FIELDS), max_size=2),
        "schedule": st.sampled_from(list(Schedule)),
        "due_in": DURATIONS,
        "progress": st.booleans(),
        "messages": st.lists(bodies, max_size=2),
    },
)


class Model(RuleBasedStateMachine):
    """One engine and its model. Each history has names of its own, so the store need not be emptied."""

    runner: ClassVar[asyncio.Runner]
    store: ClassVar[Store]
    histories: ClassVar[count[int]] = count()

    def __init__(self) -> None:
        super().__init__()
        self.own = f"history-{next(self.histories)}"
        self.model = MemoryStore()
        self.epochs: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        """Message ids of the engine by those of the model."""
        self.tokens: dict[str, str] = {"": "", "another": "another"}
        """Tokens of the engine by those of the model."""
        self.claims: dict[tuple[str, int], str] = {}
        """Tokens of the model."""

    def topic(self, name: str) -> str:
        return f"{self.own}/{name}"

    def queue(self, name: str) -> str:
        return f"{self.own}-{name}"

    # Asking both

    def ask(self, question: Callable[[Store], Awaitable[Any]], shown: Callable[[Any], Any]) -> tuple[Any, Any]:
        """The answers, which must look the same."""
        return self.ask_each(question, question, shown)

    def ask_each(
        self,
        model: Callable[[Store], Awaitable[Any]],
        store: Callable[[Store], Awaitable[Any]],
        shown: Callable[[Any], Any],
    ) -> tuple[Any, Any]:
        """The same, with a question that holds what each mints by itself."""
        expected, found = self.runner.run(answer(model, self.model)), self.runner.run(answer(store, self.store))
        assert self.shown(found, shown) == self.shown(expected, shown)
        return expected, found

    def shown(self, answer: Any, shown: Callable[[Any], Any]) -> Any:
        if isinstance(answer, FieldExists):
            return (type(answer), answer.field, answer.value)
        if isinstance(answer, RunwireError):
            return (type(answer), answer.metadata)
        if isinstance(answer, Exception):
            return type(answer)
        return shown(answer)

    def head(self, head: Head | None) -> Any:
        """All of a head but the times and the epoch, which each store mints by itself."""
        if head is None:
            return None
        return (head.attempt, head.earliest, head.last, head.check, head.final, head.expired, head.expire_time > 0)

    def commit(self, commit: Commit) -> None:
        theirs = replace(commit, token=self.tokens[commit.token])
        expected, found = self.ask_each(
            lambda store: store.commit(commit),
            lambda store: store.commit(theirs),
            lambda done: (
                self.head(done.head),
                done.entry and (done.entry.first, done.entry.last, done.entry.body, done.entry.final),
            ),
        )
        if not isinstance(expected, Exception):
            # The same log here is the same log there.
            assert self.epochs.setdefault(expected.head.epoch, found.head.epoch) == found.head.epoch

    def changed(self, changes: dict[str, Any]) -> dict[str, Any]:
        messages = [Message(self.queue("messages"), body) for body in changes.get("messages", ())]
        return changes | {"messages": messages}

    # What may happen

    @rule(name=topics, queue=st.sampled_from(QUEUES), changes=changes, indexed=st.booleans())
    def create(self, name: str, queue: str, changes: dict[str, Any], indexed: bool) -> None:
        indexes = [self.queue("index"), self.queue(f"index-{queue}")] if indexed else []
        self.commit(
            Commit(self.topic(name), create=True, queue=self.queue(queue), indexes=indexes, **self.changed(changes))
        )

    @rule(name=topics, changes=changes)
    def touch(self, name: str, changes: dict[str, Any]) -> None:
        """What somebody commits who does not own the topic."""
        self.commit(Commit(self.topic(name), **self.changed(changes)))

    @rule(
        name=topics,
        stale=st.sampled_from([0, 0, 0, 0, -1, 1]),
        skip=st.sampled_from([0, 0, 0, 0, 1, -1, -2]),
        events=st.integers(1, 4),
        text=st.sampled_from(["", "", "", "other"]),
        ending=st.none() | st.none() | DURATIONS,
        shown=tokens,
        changes=changes,
    )
    def append(
        self,
        name: str,
        stale: int,
        skip: int,
        events: int,
        text: str,
        ending: float | None,
        shown: str,
        changes: dict[str, Any],
    ) -> None:
        """What the owner appends, or one who thinks so: in place, again, with a hole, with other events."""
        topic = self.topic(name)
        (head,) = self.runner.run(self.model.heads([topic]))
        attempt, last = (head.attempt, head.last) if head else (1, 0)
        first = max(1, last + 1 + skip)
        closing = {} if ending is None else {"final": 3, "retention": ending, "tombstone": LONG_SECONDS}
        attempt = max(0, attempt + stale)
        token = self.token(topic, attempt, shown)
        self.commit(
            appending(topic, attempt, first, first + events - 1, text, token=token, **self.changed(changes), **closing)
        )

    def token(self, topic: str, attempt: int, shown: str) -> str:
        """The token that somebody shows who has this attempt: its own, none, or another's."""
        return self.claims.get((topic, attempt), "another") if shown == "own" else shown

    @rule(
        name=topics,
        shown=tokens,
        schedule=st.sampled_from([Schedule.LOST, Schedule.DUE, Schedule.NEVER, Schedule.KEEP]),
        progress=st.booleans(),
        due_in=DURATIONS,
    )
    def end_lease(self, name: str, shown: str, schedule: Schedule, progress: bool, due_in: float) -> None:
        """What an owner commits to be rid of a topic, or one who thinks that it owns it."""
        topic = self.topic(name)
        (head,) = self.runner.run(self.model.heads([topic]))
        attempt = head.attempt if head else 1
        token = self.token(topic, attempt, shown)
        self.commit(Commit(topic, attempt=attempt, token=token, schedule=schedule, progress=progress, due_in=due_in))

    @rule(
        queues=st.lists(st.sampled_from(QUEUES), min_size=1, max_size=2),
        holder=st.sampled_from(["one", "two"]),
        limit=st.integers(1, 3),
        lease=DURATIONS,
        alone=st.booleans(),
    )
    def claim(self, queues: list[str], holder: str, limit: int, lease: float, alone: bool) -> None:
        names = [self.queue(queue) for queue in queues]
        limit = limit if lease else 1  # a lease that ends at once could be claimed again in the same call
        expected, found = self.ask(
            lambda store: store.claim(names, holder=holder, limit=limit, lease_seconds=lease, alone=alone),
            lambda claims: [
                (claim.topic, self.head(claim.head), claim.losses, claim.alone_losses, dict(claim.fields))
                for claim in claims
            ],
        )
        for mine, theirs in zip(expected, found, strict=True):
            assert theirs.token not in self.tokens.values(), "a token was minted twice"
            self.tokens[mine.token] = theirs.token
            self.claims[mine.topic, mine.head.attempt] = mine.token

    @rule(leases=st.lists(st.tuples(topics, st.integers(0, 3), tokens), max_size=3), lease=DURATIONS)
    def extend(self, leases: list[tuple[str, int, str]], lease: float) -> None:
        mine = [
            Lease(self.topic(name), attempt, self.token(self.topic(name), attempt, token))
            for name, attempt, token in leases
        ]
        theirs = [replace(each, token=self.tokens[each.token]) for each in mine]
        self.ask_each(
            lambda store: store.extend(mine, lease_seconds=lease),
            lambda store: store.extend(theirs, lease_seconds=lease),
            list,
        )

    @rule(name=topics, after=st.integers(0, 20), events=st.integers(1, 20), size=st.integers(1, 400))
    def read(self, name: str, after: int, events: int, size: int) -> None:
        self.ask(
            lambda store: store.read(self.topic(name), after, max_events=events, max_bytes=size),
            lambda page: (
                self.head(page.head),
                [(e.first, e.last, e.body, e.check, e.previous, e.final) for e in page.entries],
            ),
        )

    @rule(name=topics, before=st.integers(0, 15))
    def trim(self, name: str, before: int) -> None:
        self.ask(lambda store: store.trim(self.topic(name), before), lambda nothing: nothing)

    @rule(name=topics)
    def clear(self, name: str) -> None:
        self.ask(lambda store: store.clear(self.topic(name)), lambda nothing: nothing)

    @rule(limit=st.integers(1, 4), index=st.sampled_from(["index", "index-left", "index-right"]))
    def scan(self, limit: int, index: str) -> None:
        self.ask(
            lambda store: scan_all(store, self.queue(index), limit),
            lambda found: [(stored.topic, self.head(stored.head), dict(stored.fields)) for stored in found],
        )

    @rule()
    def sweep(self) -> None:
        """Removes only what nobody sees any more."""
        self.runner.run(sweep_both(self.model, self.store))

    @rule()
    def receive(self) -> None:
        """All there are: which come first is not the same in a store of several shards."""
        expected, found = self.ask(
            lambda store: store.receive(self.queue("messages"), consumer="c", limit=100, lease_seconds=LONG_SECONDS),
            lambda deliveries: sorted((delivery.body, delivery.deliveries) for delivery in deliveries),
        )
        pairs = zip(sorted(expected, key=by_body), sorted(found, key=by_body), strict=True)
        self.ids.update((mine.message_id, theirs.message_id) for mine, theirs in pairs)

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        mine = data.draw(st.sampled_from(sorted(self.ids)))
        queue = self.queue("messages")
        self.runner.run(self.model.acknowledge(queue, [mine, "unknown"]))
        self.runner.run(self.store.acknowledge(queue, [self.ids.pop(mine), "unknown"]))

    @invariant()
    def looks_the_same(self) -> None:
        names = [self.topic(name) for name in TOPICS]
        self.ask(lambda store: store.heads(names), lambda heads: [self.head(head) for head in heads])
        for name in names:
            self.ask(
                lambda store, name=name: store.get(name),
                lambda stored: stored and (self.head(stored.head), dict(stored.fields)),
            )
        self.ask(lambda store: store.backlog(self.queue("messages")), int)


async def answer(question: Callable[[Store], Awaitable[Any]], store: Store) -> Any:
    try:
        return await question(store)
    except (RunwireError, ValueError) as error:
        return error


async def scan_all(store: Store, index: str, limit: int) -> Sequence[Any]:
    """All of an index, page by page."""
    found: list[Any] = []
    before = None
    while True:
        page = await store.scan(index, fields=FIELDS[:2], before=before, limit=limit)
        found += page.found
        if page.next is None:
            return found
        before = page.next


async def sweep_both(*stores: Store) -> None:
    for store in stores:
        await store.sweep()


def by_body(delivery: Any) -> bytes:
    body: bytes = delivery.body
    return body


def hold(url: str, examples: int, steps: int) -> None:
    """Runs the machine on a store of its own."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        store = runner.run(stack.enter_async_context(open_store(url)))
        try:
            run_state_machine_as_test(
                type("Model", (Model,), {"runner": runner, "store": store}),
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())


def test_like_the_model(backend: Backend, store_url: str) -> None:
    """Histories of all operations, made up at random."""
    hold(store_url, examples=25, steps=40)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_like_the_model_for_long(backend: Backend, store_url: str) -> None:
    """The same, many more and longer."""
    hold(store_url, examples=1000, steps=80)
