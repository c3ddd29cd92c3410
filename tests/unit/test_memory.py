"""The memory engine on a clock of the test's own: what happens exactly when a time has come."""

import asyncio

import pytest

from runwire.bell import work_in
from runwire.errors import RunExpired, RunNotFound
from runwire.memory import MemoryStore
from runwire.pubsub import Commit, LeaseState, Message, Schedule
from runwire.turns import Turn, pool_of
from tests.conformance.logs import LONG_SECONDS, QUEUE, Inbox, append, extend, finish, start, started

TOPIC = "default/run"


class Clock:
    """Stands still until it is set, and counts who looks."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


async def claimed(store: MemoryStore, limit: int = 10) -> list[tuple[str, int]]:
    claims = await store.claim([QUEUE], holder="another", limit=limit, lease_seconds=10.0)
    return [(claim.topic, claim.losses) for claim in claims]


async def test_due_at_the_very_moment(store: MemoryStore, clock: Clock) -> None:
    """A delay ends when its time has come, not before."""
    await start(store, due_in=5.0)
    clock.time += 4.999
    assert await claimed(store) == []
    clock.time = 1_005.0
    assert await claimed(store) == [(TOPIC, 0)]


async def test_a_lease_ends_at_the_very_moment(store: MemoryStore, clock: Clock) -> None:
    """Extended, it ends later; after its end and a grace from when that was seen it is due and a loss is counted."""
    claim = await started(store)
    assert await extend(store, claim, 12.0) is LeaseState.HELD
    clock.time += 11.999
    assert await claimed(store) == []
    await extend(store, claim, 12.0)
    clock.time += 11.999
    assert await claimed(store) == []
    clock.time += 100.001
    assert await claimed(store) == []
    clock.time += 3.999
    assert await claimed(store) == []
    clock.time += 0.001
    assert await claimed(store) == [(TOPIC, 1)]


async def test_an_expired_lease_is_renewed_while_nobody_claims(store: MemoryStore, clock: Clock) -> None:
    """A worker that was slow but not replaced keeps its topic."""
    claim = await started(store)
    clock.time += 1_000.0
    assert await extend(store, claim) is LeaseState.HELD
    assert await claimed(store) == []


async def test_an_append_wakes_no_worker(store: MemoryStore, clock: Clock) -> None:
    """Who waits for work does not look again for a commit that leaves the schedule as it is, but does for the next one
    that does not."""
    await started(store)
    async with asyncio.timeout(LONG_SECONDS), asyncio.TaskGroup() as group:
        waiting = group.create_task(
            store.claim([QUEUE], holder="somebody", limit=1, lease_seconds=10.0, wait_seconds=LONG_SECONDS)
        )
        await asyncio.sleep(0)
        looks = clock.looks
        await append(store, TOPIC, 1, 1, 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert clock.looks == looks + 1
        await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.DUE))
        assert [claim.topic for claim in await waiting] == [TOPIC]


async def test_the_end_of_a_log_in_time(store: MemoryStore, clock: Clock) -> None:
    """Readable until the retention has passed, a tombstone until that has passed too, then nothing."""
    await started(store, indexes=["all"])
    await finish(store, TOPIC, 1, 1, retention=100.0, tombstone=1_000.0)
    clock.time += 99.9
    assert len((await store.read(TOPIC, 0)).entries) == 1
    clock.time += 0.1
    assert (await store.read(TOPIC, 0)).head.expired
    with pytest.raises(RunExpired):
        await store.commit(Commit(TOPIC))
    assert await store.sweep() == 1
    assert await store.sweep() == 0
    clock.time += 999.9
    assert (await store.read(TOPIC, 0)).head.expired
    clock.time += 0.1
    with pytest.raises(RunNotFound):
        await store.read(TOPIC, 0)
    assert await store.sweep() == 1
    assert await store.sweep() == 0


async def test_nothing_is_left_after_the_last_sweep(store: MemoryStore, clock: Clock) -> None:
    """Memory does not grow with logs that have come and gone."""
    for number in range(50):
        topic = f"default/run-{number}"
        await started(store, topic, indexes=["all"], puts={"a": b"1"})
        await finish(store, topic, 1, 1, retention=1.0, tombstone=1.0, messages=[Message("m", b"x")])
    clock.time += 100.0
    while await store.sweep():
        pass
    deliveries = await store.receive("m", consumer="c", limit=100, lease_seconds=10.0)
    await store.acknowledge("m", [delivery.message_id for delivery in deliveries])
    assert await claimed(store) == []
    kept = {name: value for name, value in vars(store).items() if isinstance(value, (dict, list)) and value}
    assert kept == {"_due": {work_in(QUEUE): {}}, "_turns": {pool_of([QUEUE], alone=False): Turn("default", 1)}}


async def test_purge_and_trim_are_told(store: MemoryStore, clock: Clock) -> None:
    """Subscribers hear of a trim and of the sweep that purges their log."""
    await started(store)
    await append(store, TOPIC, 1, 1, 1)
    await finish(store, TOPIC, 1, 2, retention=1.0, tombstone=1.0)
    inbox = Inbox()
    async with store.pubsub.subscribe(TOPIC, inbox.deliver):
        await store.trim(TOPIC, 2)
        assert inbox.got == [None]
        clock.time += 1.5
        await store.sweep()
        assert inbox.got == [None, None]


async def test_who_waits_sees_the_clock_jump(store: MemoryStore, clock: Clock) -> None:
    """A waiting claim notices that a time has come though nothing rings."""
    await start(store, due_in=1_000.0)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = group.create_task(
            store.claim([QUEUE], holder="somebody", limit=1, lease_seconds=1.0, wait_seconds=9.0)
        )
        await asyncio.sleep(0)
        clock.time += 1_000.0
    assert [claim.topic for claim in waiting.result()] == [TOPIC]


async def test_leases_of_messages(store: MemoryStore, clock: Clock) -> None:
    """Those whose lease ended first come first, then new ones."""
    await start(store)
    for number, lease_seconds in enumerate((30.0, 20.0, 10.0)):
        await store.commit(Commit(TOPIC, messages=[Message("m", b"%d" % number)]))
        await store.receive("m", consumer="c", limit=1, lease_seconds=lease_seconds)
    await store.commit(Commit(TOPIC, messages=[Message("m", b"new")]))
    clock.time += 25.0
    deliveries = await store.receive("m", consumer="c", limit=9, lease_seconds=10.0)
    assert [delivery.body for delivery in deliveries] == [b"2", b"1", b"new"]
    assert [delivery.deliveries for delivery in deliveries] == [2, 2, 1]


async def test_due_order_with_schedule(store: MemoryStore, clock: Clock) -> None:
    """Those due longest first, whatever order they were made in; a wake under no lease counts from now."""
    await start(store, "default/late", due_in=3.0)
    await start(store, "default/early", due_in=1.0)
    await start(store, "default/never", schedule=Schedule.NEVER)
    clock.time += 2.0
    await store.commit(Commit("default/never", schedule=Schedule.WAKE))
    clock.time += 5.0
    assert [topic for topic, _ in await claimed(store)] == ["default/early", "default/never", "default/late"]


async def test_one_claim_has_each_topic_once(store: MemoryStore) -> None:
    """Made due twice at the same moment, or claimed for no time, a topic is still given once."""
    await start(store, schedule=Schedule.DUE)
    await store.commit(Commit(TOPIC, schedule=Schedule.DUE))
    claims = await store.claim([QUEUE, QUEUE], holder="somebody", limit=10, lease_seconds=0.0)
    assert [(claim.topic, claim.head.attempt) for claim in claims] == [(TOPIC, 1)]
