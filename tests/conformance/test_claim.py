"""Work: due times, leases, wakes, and who owns a topic."""

import asyncio
import time

import pytest

from runwire.errors import Fenced
from runwire.pubsub import Claim, Commit, LeaseState, Message, Schedule, Store
from tests.conformance.logs import (
    LIMIT_SECONDS,
    LONG_SECONDS,
    QUEUE,
    append,
    appending,
    claim_one,
    eventually,
    finish,
    start,
    started,
)

TOPIC = "default/run"
SHORT_SECONDS = 0.15
"""A lease that is meant to run out."""


async def nothing_due(store: Store) -> bool:
    return await store.claim([QUEUE], limit=1, lease_seconds=LONG_SECONDS) == []


async def test_a_claim_has_all_it_needs(store: Store) -> None:
    """A claim raises the attempt and brings the head, all fields and the time, read in one step."""
    await start(store, puts={"a": b"1", "b": b"2"})
    claim = await claim_one(store)
    assert (claim.topic, claim.head.attempt, claim.losses) == (TOPIC, 1, 0)
    assert claim.fields == {"a": b"1", "b": b"2"}
    assert claim.time == pytest.approx(await store.now(), abs=5.0)
    stored = await store.get(TOPIC)
    assert stored is not None
    assert stored.head == claim.head


async def test_a_claimed_topic_is_not_given_again(store: Store) -> None:
    """While the lease lasts nobody else gets it."""
    await started(store)
    assert await nothing_due(store)


async def test_only_the_queues_asked_for(store: Store) -> None:
    """A topic is found in its own queue."""
    await start(store, "default/a", queue="a")
    await start(store, "default/b", queue="b")
    assert await store.claim(["c"], limit=9, lease_seconds=1.0) == []
    assert [claim.topic for claim in await store.claim(["a", "c"], limit=9, lease_seconds=1.0)] == ["default/a"]
    assert [claim.topic for claim in await store.claim(["a", "b"], limit=9, lease_seconds=1.0)] == ["default/b"]


async def test_a_topic_that_was_not_made_due_waits(store: Store) -> None:
    """Created with KEEP or NEVER, a topic is not claimed until somebody makes it due."""
    for topic, schedule in [("default/keep", Schedule.KEEP), ("default/never", Schedule.NEVER)]:
        await start(store, topic, schedule=schedule)
        assert await nothing_due(store)
        await store.commit(Commit(topic, schedule=Schedule.WAKE))
        assert (await claim_one(store)).topic == topic


async def test_those_due_longest_come_first(store: Store) -> None:
    """Across queues, in the order of their due times, up to the limit."""
    delays = {"d": 0.02, "b": 0.0, "a": 0.04, "c": 0.03}
    due: dict[str, float] = {}
    for name, delay in delays.items():
        head = await start(store, f"default/{name}", queue=f"queue-{name in 'ab'}", due_in=delay)
        due[f"default/{name}"] = head.create_time + delay

    async def all_due() -> bool:
        return await store.now() > max(due.values())

    await eventually(all_due)
    queues = ["queue-True", "queue-False"]
    claims = [
        *await store.claim(queues, limit=3, lease_seconds=LONG_SECONDS),
        *await store.claim(queues, limit=3, lease_seconds=LONG_SECONDS),
    ]
    assert [claim.topic for claim in claims] == sorted(due, key=due.__getitem__)


async def test_due_later_is_claimed_when_its_time_has_come(store: Store) -> None:
    """A delay is waited for, and no longer than 250 ms beyond it."""
    await start(store, due_in=0.3)
    assert await nothing_due(store)
    claim = await claim_one(store)
    assert claim.time - claim.head.create_time >= 0.3


async def test_a_waiting_claim_ends_with_its_time(store: Store) -> None:
    """Nothing due within the time: nothing is returned, and not before."""
    before = time.monotonic()
    assert await store.claim([QUEUE], limit=1, lease_seconds=1.0, wait_seconds=0.1) == []
    assert time.monotonic() - before >= 0.1


async def test_a_waiting_claim_hears_of_a_commit(two_stores: tuple[Store, Store]) -> None:
    """A topic that is made due through another connection is found by who waits."""
    here, there = two_stores
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        waiting = group.create_task(claim_one(here))
        await asyncio.sleep(0.05)  # so that it waits; either way it must be found
        await start(there)
    assert waiting.result().topic == TOPIC


async def test_a_lost_lease_is_counted(store: Store) -> None:
    """A lease that runs out makes the topic due; losses count those in a row."""
    await start(store)
    for attempt, losses in [(1, 0), (2, 1), (3, 2)]:
        claim = await claim_one(store, lease_seconds=SHORT_SECONDS)
        assert (claim.head.attempt, claim.losses) == (attempt, losses)


async def test_progress_breaks_a_row_of_losses(store: Store) -> None:
    """An attempt that got further starts the count anew, though its lease runs out."""
    await start(store)
    await claim_one(store, lease_seconds=SHORT_SECONDS)
    claim = await claim_one(store, lease_seconds=SHORT_SECONDS)
    assert claim.losses == 1
    await append(store, TOPIC, 2, 1, 1, progress=True)
    assert (await claim_one(store)).losses == 1


async def test_an_append_alone_is_no_progress(store: Store) -> None:
    """Events without the word leave the count as it is: a run that always dies at the same place is noticed."""
    await start(store)
    await claim_one(store, lease_seconds=SHORT_SECONDS)
    await append(store, TOPIC, 1, 1, 1)
    await claim_one(store, lease_seconds=SHORT_SECONDS)
    await append(store, TOPIC, 2, 2, 2)
    assert (await claim_one(store)).losses == 2


@pytest.mark.parametrize("schedule", [Schedule.DUE, Schedule.NEVER])
async def test_ending_the_lease_breaks_a_row_of_losses(store: Store, schedule: Schedule) -> None:
    """A worker that hands the topic back did not die."""
    await start(store)
    await claim_one(store, lease_seconds=SHORT_SECONDS)
    assert (await claim_one(store)).losses == 1
    await store.commit(Commit(TOPIC, attempt=2, schedule=schedule))
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    assert (await claim_one(store)).losses == 0


async def test_keep_leaves_the_lease(store: Store) -> None:
    """A commit that says nothing of the schedule does not end the lease."""
    await started(store)
    await append(store, TOPIC, 1, 1, 1)
    await store.commit(Commit(TOPIC, puts={"a": b"1"}))
    assert await nothing_due(store)
    assert await store.extend([(TOPIC, 1)], lease_seconds=LONG_SECONDS) == [LeaseState.HELD]


async def test_due_ends_the_lease(store: Store) -> None:
    """The topic is handed back, at once or after a delay, and the lease is gone."""
    await started(store)
    await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.DUE))
    assert await store.extend([(TOPIC, 1)], lease_seconds=LONG_SECONDS) == [LeaseState.LOST]
    assert (await claim_one(store)).head.attempt == 2
    await store.commit(Commit(TOPIC, attempt=2, schedule=Schedule.DUE, due_in=LONG_SECONDS))
    assert await nothing_due(store)
    assert await store.extend([(TOPIC, 2)], lease_seconds=LONG_SECONDS) == [LeaseState.LOST]


async def test_never_ends_the_lease(store: Store) -> None:
    """A suspended topic is not due until it is woken, and its owner has no lease to extend."""
    await started(store)
    await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.NEVER))
    assert await store.extend([(TOPIC, 1)], lease_seconds=LONG_SECONDS) == [LeaseState.LOST]
    assert await nothing_due(store)
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    assert (await claim_one(store)).head.attempt == 2


async def test_a_wake_brings_a_delay_forward(store: Store) -> None:
    """Woken, a topic that waits for its time is due now."""
    await start(store, due_in=LONG_SECONDS)
    assert await nothing_due(store)
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    assert (await claim_one(store)).topic == TOPIC


async def test_a_wake_under_a_lease_is_reported(store: Store) -> None:
    """It does not end the lease; extend says WOKEN until the topic is claimed anew."""
    await started(store)
    assert await store.extend([(TOPIC, 1)], lease_seconds=LONG_SECONDS) == [LeaseState.HELD]
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE, puts={"cancel": b"1"}))
    assert await nothing_due(store)
    for _ in range(2):
        assert await store.extend([(TOPIC, 1)], lease_seconds=LONG_SECONDS) == [LeaseState.WOKEN]
    await append(store, TOPIC, 1, 1, 1)
    await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.NEVER))
    await claim_one(store)
    assert await store.extend([(TOPIC, 2)], lease_seconds=LONG_SECONDS) == [LeaseState.HELD]


@pytest.mark.parametrize("schedule", [Schedule.DUE, Schedule.NEVER])
async def test_a_wake_under_a_lease_is_heeded_at_its_end(store: Store, schedule: Schedule) -> None:
    """Whoever ends the lease without having seen the wake makes the topic due now."""
    await started(store)
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    await store.commit(Commit(TOPIC, attempt=1, schedule=schedule, due_in=LONG_SECONDS))
    assert (await claim_one(store)).head.attempt == 2


@pytest.mark.parametrize("schedule", [Schedule.DUE, Schedule.NEVER])
async def test_a_wake_survives_the_repeat_of_what_came_before_it(store: Store, schedule: Schedule) -> None:
    """A commit that ended the lease, repeated after a time-out, does not undo a wake that came in between."""
    await started(store)
    hand_back = Commit(TOPIC, attempt=1, schedule=schedule, due_in=LONG_SECONDS)
    await store.commit(hand_back)
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    await store.commit(hand_back)
    assert (await claim_one(store)).head.attempt == 2


async def test_a_claim_clears_the_mark(store: Store) -> None:
    """The new owner has read the fields; a wake of before does not trouble it."""
    await started(store)
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.NEVER))
    await claim_one(store)
    await store.commit(Commit(TOPIC, attempt=2, schedule=Schedule.NEVER))
    assert await nothing_due(store)


async def test_a_wake_in_a_race_is_never_lost(two_stores: tuple[Store, Store]) -> None:
    """However wakes and suspensions interleave, each wake is followed by a claim that sees its field."""
    worker, waker = two_stores
    rounds = 40
    await start(worker)
    seen = 0

    async def work() -> None:
        nonlocal seen
        while seen < rounds:
            claim = await claim_one(worker)
            seen = int(claim.fields.get("wakes", b"0"))
            await worker.commit(Commit(TOPIC, attempt=claim.head.attempt, schedule=Schedule.NEVER))

    async def wake() -> None:
        for number in range(1, rounds + 1):
            await waker.commit(Commit(TOPIC, schedule=Schedule.WAKE, puts={"wakes": b"%d" % number}))
            await asyncio.sleep(0)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(work())
        group.create_task(wake())
    assert seen == rounds


async def test_extend_keeps_a_topic(store: Store) -> None:
    """A lease that is renewed outlives its first end."""
    await start(store)
    lease = 4 * SHORT_SECONDS  # long enough for a machine that halts in between
    claim = await claim_one(store, lease_seconds=lease)
    ends = time.monotonic() + 1.5 * lease
    while time.monotonic() < ends:
        assert await store.extend([(TOPIC, 1)], lease_seconds=lease) == [LeaseState.HELD]
        assert await nothing_due(store)
        await asyncio.sleep(SHORT_SECONDS / 5)
    assert claim.head.attempt == 1


async def test_extend_sets_the_end_from_now(store: Store) -> None:
    """A renewal may also shorten: the lease ends `lease_seconds` from the call."""
    await started(store)
    await store.extend([(TOPIC, 1)], lease_seconds=SHORT_SECONDS)
    assert (await claim_one(store)).head.attempt == 2


async def test_extend_of_many(store: Store) -> None:
    """Each lease of a call has its own answer, in order."""
    await started(store, "default/held")
    await started(store, "default/woken")
    await store.commit(Commit("default/woken", schedule=Schedule.WAKE))
    await started(store, "default/closed")
    await finish(store, "default/closed", 1, 1)
    await start(store, "default/taken")
    await claim_one(store, lease_seconds=0.01)
    assert (await claim_one(store)).head.attempt == 2
    topics = [
        ("default/woken", 1),
        ("default/closed", 1),
        ("default/none", 1),
        ("default/held", 1),
        ("default/taken", 1),
        ("default/taken", 2),
    ]
    states = await store.extend(topics, lease_seconds=LONG_SECONDS)
    woken, lost, held = LeaseState.WOKEN, LeaseState.LOST, LeaseState.HELD
    assert list(states) == [woken, lost, lost, held, lost, held]
    assert list(await store.extend([], lease_seconds=1.0)) == []


async def test_the_old_owner_is_fenced_once_the_new_one_has_claimed(store: Store) -> None:
    """Between the end of its lease and the next claim the owner may still write; after the claim never."""
    await start(store)
    await claim_one(store, lease_seconds=0.01)
    await asyncio.sleep(0.03)
    await append(store, TOPIC, 1, 1, 1)
    await claim_one(store)
    with pytest.raises(Fenced):
        await store.commit(appending(TOPIC, 1, 2, 2))
    await append(store, TOPIC, 2, 2, 2)


async def test_no_topic_is_given_to_two(two_stores: tuple[Store, Store]) -> None:
    """Under many callers on two connections each topic is claimed once, and none is forgotten."""
    topics = {f"default/run-{number}" for number in range(60)}
    await asyncio.gather(*(start(two_stores[0], topic) for topic in topics))
    claims: list[Claim] = []

    async def take(store: Store) -> None:
        while taken := await store.claim([QUEUE], limit=3, lease_seconds=LONG_SECONDS):
            claims.extend(taken)

    await asyncio.gather(*(take(two_stores[number % 2]) for number in range(8)))
    assert sorted(claim.topic for claim in claims) == sorted(topics)
    assert {claim.head.attempt for claim in claims} == {1}


async def test_a_cancelled_claim_loses_nothing(store: Store) -> None:
    """A caller that is cancelled while it waits leaves the topic for the next one."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(store.claim([QUEUE], limit=1, lease_seconds=0.1, wait_seconds=LIMIT_SECONDS))
        await asyncio.sleep(0.02)
        waiting.cancel()
    await start(store)
    assert (await claim_one(store)).topic == TOPIC


async def test_messages_are_one_write_with_the_rest(store: Store) -> None:
    """The last event and what it sends come together: all of it, or nothing when the commit is refused."""
    await started(store)
    await finish(store, TOPIC, 1, 1, messages=[Message("m", b"1"), Message("n", b"2"), Message("m", b"3")])
    assert (await store.backlog("m"), await store.backlog("n")) == (2, 1)

    async def received() -> list[bytes]:
        return [d.body for d in await store.receive("m", consumer="c", limit=9, lease_seconds=1.0)]

    assert await received() == [b"1", b"3"]


async def test_waiting_claims_share_what_comes(store: Store) -> None:
    """Several callers wait, several topics come: each gets its own."""
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        waiting = [group.create_task(claim_one(store)) for _ in range(4)]
        await asyncio.sleep(0.02)
        for number in range(4):
            await start(store, f"default/run-{number}")
    assert {task.result().topic for task in waiting} == {f"default/run-{number}" for number in range(4)}


async def test_a_lease_that_runs_out_is_found_by_who_waits(store: Store) -> None:
    """A dead worker's topic comes to a caller that waits already."""
    await start(store)
    await claim_one(store, lease_seconds=SHORT_SECONDS)
    assert (await claim_one(store)).losses == 1


async def test_expired_work_is_not_claimed(store: Store) -> None:
    """A closed log is nobody's work, also after its events are purged."""
    await started(store)
    await finish(store, TOPIC, 1, 1, retention=0.01)

    async def expired() -> bool:
        return bool((await store.read(TOPIC, 0)).head.expired)

    await eventually(expired)
    assert await nothing_due(store)
    assert list(await store.extend([(TOPIC, 1)], lease_seconds=1.0)) == [LeaseState.LOST]
