"""Work: due times, leases, wakes, and who owns a topic."""

import asyncio
import time
from typing import Any

import pytest

from runwire.errors import Fenced, FieldExists
from runwire.pubsub import (
    ASIDE,
    MAX_GRACE_SECONDS,
    SUSPECT_LOSSES,
    Claim,
    Commit,
    Lease,
    LeaseState,
    Message,
    Schedule,
    Store,
    grace_seconds,
)
from tests.conformance.logs import (
    LIMIT_SECONDS,
    LONG_SECONDS,
    QUEUE,
    append,
    appending,
    body,
    check,
    claim_one,
    eventually,
    extend,
    fields,
    finish,
    start,
    started,
)

TOPIC = "default/run"
SHORT_SECONDS = 0.15
"""A lease that is meant to run out."""


async def nothing_due(store: Store) -> bool:
    return await store.claim([QUEUE], holder="somebody", limit=1, lease_seconds=LONG_SECONDS) == []


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


async def test_large_topics_are_claimed_few_at_a_time(store: Store, store_url: str) -> None:
    """A claim is bounded in bytes of fields; a topic above the bound comes all the same, and none is passed over."""
    topics = [f"default/{number:02}" for number in range(20)]
    for topic in topics:
        await start(store, topic, puts={"input": b"x" * 1000})

    async def claimed(max_bytes: int) -> list[str]:
        claims = await store.claim(
            [QUEUE], holder="h", limit=20, lease_seconds=LONG_SECONDS, wait_seconds=LIMIT_SECONDS, max_bytes=max_bytes
        )
        return [claim.topic for claim in claims]

    parts = 4 if store_url.startswith("redis+cluster") else 1
    found = await claimed(1)
    assert 1 <= len(found) <= parts
    while len(found) < len(topics):
        taken = await claimed(1500)
        assert 1 <= len(taken) <= 1 + parts, "above the bound by one topic of each part"
        found += taken
    assert sorted(found) == topics
    assert await nothing_due(store)


async def test_a_claimed_topic_is_not_given_again(store: Store) -> None:
    """While the lease lasts nobody else gets it."""
    await started(store)
    assert await nothing_due(store)


async def test_only_the_queues_asked_for(store: Store) -> None:
    """A topic is found in its own queue."""
    await start(store, "default/a", queue="a")
    await start(store, "default/b", queue="b")
    assert await store.claim(["c"], holder="somebody", limit=9, lease_seconds=1.0) == []
    assert [claim.topic for claim in await store.claim(["a", "c"], holder="somebody", limit=9, lease_seconds=1.0)] == [
        "default/a"
    ]
    assert [claim.topic for claim in await store.claim(["a", "b"], holder="somebody", limit=9, lease_seconds=1.0)] == [
        "default/b"
    ]


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
        *await store.claim(queues, holder="somebody", limit=3, lease_seconds=LONG_SECONDS),
        *await store.claim(queues, holder="somebody", limit=3, lease_seconds=LONG_SECONDS),
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
    assert await store.claim([QUEUE], holder="somebody", limit=1, lease_seconds=1.0, wait_seconds=0.1) == []
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
        claim = await claim_one(store, lease_seconds=SHORT_SECONDS, alone=losses == 2)
        assert (claim.head.attempt, claim.losses) == (attempt, losses)


async def test_progress_breaks_a_row_of_losses(store: Store) -> None:
    """An attempt that got further starts the count again, though its lease runs out."""
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
    assert (await claim_one(store, alone=True)).losses == 2


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
    claim = await started(store)
    await append(store, TOPIC, 1, 1, 1)
    await store.commit(Commit(TOPIC, puts={"a": b"1"}))
    assert await nothing_due(store)
    assert await extend(store, claim) is LeaseState.HELD


async def test_due_ends_the_lease(store: Store) -> None:
    """The topic is handed back, at once or after a delay, and the lease is gone."""
    claim = await started(store)
    await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.DUE))
    assert await extend(store, claim) is LeaseState.LOST
    claim = await claim_one(store)
    assert claim.head.attempt == 2
    await store.commit(Commit(TOPIC, attempt=2, token=claim.token, schedule=Schedule.DUE, due_in=LONG_SECONDS))
    assert await nothing_due(store)
    assert await extend(store, claim) is LeaseState.LOST


async def test_never_ends_the_lease(store: Store) -> None:
    """A suspended topic is not due until it is woken, and its owner has no lease to extend."""
    claim = await started(store)
    await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.NEVER))
    assert await extend(store, claim) is LeaseState.LOST
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
    """It does not end the lease; extend says WOKEN until the topic is claimed again."""
    claim = await started(store)
    assert await extend(store, claim) is LeaseState.HELD
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE, puts={"cancel": b"1"}))
    assert await nothing_due(store)
    for _ in range(2):
        assert await extend(store, claim) is LeaseState.WOKEN
    await append(store, TOPIC, 1, 1, 1)
    await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.NEVER))
    assert await extend(store, await claim_one(store)) is LeaseState.HELD


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
        assert await extend(store, claim, lease) is LeaseState.HELD
        assert await nothing_due(store)
        await asyncio.sleep(SHORT_SECONDS / 5)
    assert claim.head.attempt == 1


async def test_extend_sets_the_end_from_now(store: Store) -> None:
    """A renewal may also shorten: the lease ends `lease_seconds` from the call."""
    await extend(store, await started(store), SHORT_SECONDS)
    assert (await claim_one(store)).head.attempt == 2


async def test_extend_of_many(store: Store) -> None:
    """Each lease of a call has its own answer, in order."""
    held = await started(store, "default/held")
    woken = await started(store, "default/woken")
    await store.commit(Commit("default/woken", schedule=Schedule.WAKE))
    closed = await started(store, "default/closed")
    await finish(store, "default/closed", 1, 1)
    await start(store, "default/taken")
    robbed = await claim_one(store, lease_seconds=0.01)
    taken = await claim_one(store)
    assert taken.head.attempt == 2
    topics = [
        woken.lease,
        closed.lease,
        Lease("default/none", 1, held.token),
        held.lease,
        robbed.lease,
        taken.lease,
    ]
    states = await store.extend(topics, lease_seconds=LONG_SECONDS)
    answers = LeaseState.WOKEN, LeaseState.LOST, LeaseState.LOST, LeaseState.HELD, LeaseState.LOST, LeaseState.HELD
    assert tuple(states) == answers
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
        while taken := await store.claim([QUEUE], holder="somebody", limit=3, lease_seconds=LONG_SECONDS):
            claims.extend(taken)

    await asyncio.gather(*(take(two_stores[number % 2]) for number in range(8)))
    assert sorted(claim.topic for claim in claims) == sorted(topics)
    assert {claim.head.attempt for claim in claims} == {1}


async def test_a_cancelled_claim_loses_nothing(store: Store) -> None:
    """A caller that is cancelled while it waits leaves the topic for the next one."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            store.claim([QUEUE], holder="somebody", limit=1, lease_seconds=0.1, wait_seconds=LIMIT_SECONDS)
        )
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
    claim = await started(store)
    await finish(store, TOPIC, 1, 1, retention=0.01)

    async def expired() -> bool:
        return bool((await store.read(TOPIC, 0)).head.expired)

    await eventually(expired)
    assert await nothing_due(store)
    assert await extend(store, claim) is LeaseState.LOST


# Tokens


async def test_every_claim_has_a_token_of_its_own(store: Store) -> None:
    """Whoever claims, whatever and however often: no token comes twice."""
    tokens = set()
    for _ in range(3):
        await start(store, schedule=Schedule.DUE)
        await start(store, "default/other")
        claims = [await claim_one(store), await claim_one(store)]
        tokens |= {(claim.topic, claim.token) for claim in claims}
        assert all(claim.token for claim in claims)
        await store.clear(TOPIC)
        await store.clear("default/other")
    assert len(tokens) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"puts": {"journal": b"theirs"}},
        {"puts_once": {"journal": b"theirs"}},
        {"deletes": ["kept"]},
        {"schedule": Schedule.DUE},
        {"schedule": Schedule.NEVER},
        {"schedule": Schedule.LOST},
        {"progress": True},
        {"messages": [Message("m", b"1")]},
        {"first": 1, "last": 1, "events": body(1, 1), "check": check(1), "final": 4},
    ],
    ids=lambda changes: next(iter(changes)) + str(changes.get("schedule", "")),
)
async def test_the_attempt_without_its_token_is_no_proof(store: Store, changes: dict[str, Any]) -> None:
    """Two owners with one attempt, as after a fail-over that lost a claim: the one with another token writes nothing,
    ends no lease and sends nothing."""
    await start(store, puts={"kept": b"1"})
    claim = await claim_one(store)
    with pytest.raises(Fenced):
        await store.commit(Commit(TOPIC, attempt=1, token="another", **changes))
    assert await fields(store, TOPIC) == {"kept": b"1"}
    assert await store.backlog("m") == 0
    assert await extend(store, claim) is LeaseState.HELD
    await store.commit(Commit(TOPIC, attempt=1, token=claim.token, **changes))


async def test_a_claim_that_the_store_forgot_is_fenced(store: Store) -> None:
    """An attempt above the topic's is a fault of the caller without a token, and of a store rolled back with one."""
    claim = await started(store)
    with pytest.raises(ValueError, match="never claimed"):
        await store.commit(Commit(TOPIC, attempt=2))
    with pytest.raises(Fenced):
        await store.commit(Commit(TOPIC, attempt=2, token=claim.token))
    [state] = await store.extend([Lease(TOPIC, 2, claim.token)], lease_seconds=1.0)
    assert state is LeaseState.LOST


async def test_extend_wants_the_token(store: Store) -> None:
    """With another token, or none, a lease is lost and its end stays where it was."""
    await start(store)
    claim = await claim_one(store, lease_seconds=2 * SHORT_SECONDS)
    for token in ("another", ""):
        [state] = await store.extend([Lease(TOPIC, 1, token)], lease_seconds=LONG_SECONDS)
        assert state is LeaseState.LOST
    assert (await claim_one(store)).losses == 1
    assert await extend(store, claim) is LeaseState.LOST


async def test_who_only_read_the_attempt_needs_no_token(store: Store) -> None:
    """A commit that gives the attempt it read is refused only if the topic was claimed since."""
    await started(store)
    await store.commit(Commit(TOPIC, attempt=1, puts={"answer": b"1"}, schedule=Schedule.WAKE))
    await store.commit(Commit(TOPIC, attempt=1, schedule=Schedule.NEVER))
    await claim_one(store)
    with pytest.raises(Fenced):
        await store.commit(Commit(TOPIC, attempt=1, puts={"answer": b"2"}))


async def test_a_commit_of_the_owner_is_repeated(store: Store) -> None:
    """A repeat after a time-out succeeds with the token as well, also that of the last event."""
    claim = await started(store)
    for commit in (
        appending(TOPIC, 1, 1, 2, token=claim.token),
        appending(TOPIC, 1, 3, 3, token=claim.token, final=4, retention=LONG_SECONDS, tombstone=LONG_SECONDS),
    ):
        first, again = await store.commit(commit), await store.commit(commit)
        assert first.head.position == again.head.position


# Leases that ran out


async def ran_out(store: Store, lease_seconds: float = SHORT_SECONDS, **changes: Any) -> Claim:
    """A claim whose lease has run out, as the store has been shown."""
    claim = await claim_one(store, lease_seconds=lease_seconds, **changes)
    await asyncio.sleep(lease_seconds)
    return claim


async def test_a_lease_that_ran_out_waits_for_its_owner(store: Store) -> None:
    """Whoever finds that it ran out does not get it: until its grace is over the owner may still extend it, and then
    nobody was lost."""
    await start(store)
    claim = await ran_out(store)
    assert await nothing_due(store)
    assert await nothing_due(store)
    assert await extend(store, claim) is LeaseState.HELD
    await asyncio.sleep(SHORT_SECONDS)
    assert await nothing_due(store)
    await extend(store, claim, 0.0)
    assert (await claim_one(store)).losses == 1


async def test_a_lease_is_revived_while_nobody_has_taken_it(store: Store) -> None:
    """Also after its grace, however long ago that was."""
    await start(store)
    claim = await ran_out(store, 0.03)
    assert await nothing_due(store)
    await asyncio.sleep(0.1)
    assert await extend(store, claim) is LeaseState.HELD
    assert await nothing_due(store)


async def test_those_that_wait_for_their_owners_hide_nothing(store: Store) -> None:
    """A claim passes over leases that it finds to have run out, and takes what is due behind them."""
    lost = {f"default/lost-{number}" for number in range(30)}
    for topic in lost:
        await start(store, topic)
    taken = await store.claim([QUEUE], holder="dead", limit=30, lease_seconds=SHORT_SECONDS)
    assert {claim.topic for claim in taken} == lost
    await asyncio.sleep(SHORT_SECONDS)
    await start(store, "default/fresh")
    claims = await store.claim([QUEUE], holder="alive", limit=5, lease_seconds=LONG_SECONDS)
    assert [claim.topic for claim in claims] == ["default/fresh"]

    async def recovered() -> bool:
        more = await store.claim([QUEUE], holder="alive", limit=30, lease_seconds=LONG_SECONDS)
        lost.difference_update(claim.topic for claim in more)
        return not lost

    await eventually(recovered)


async def test_the_same_holder_loses_nothing(store: Store) -> None:
    """A worker that claims its own topic after its lease ran out did not die; another one that does so counts."""
    await start(store)
    for attempt in (1, 2, 3):
        claim = await claim_one(store, lease_seconds=SHORT_SECONDS, holder="mine")
        assert (claim.head.attempt, claim.losses) == (attempt, 0)
    assert (await claim_one(store, holder="another")).losses == 1


async def test_given_up_counts_as_lost(store: Store) -> None:
    """An owner that lives and cannot end its attempt says so: a loss is counted whoever comes next, once."""
    await start(store)
    claim = await claim_one(store, lease_seconds=SHORT_SECONDS, holder="mine")
    give_up = Commit(TOPIC, attempt=1, token=claim.token, schedule=Schedule.LOST)
    await store.commit(give_up)
    await store.commit(give_up)
    assert await extend(store, claim) is LeaseState.LOST
    again = await claim_one(store, holder="mine")
    assert (again.head.attempt, again.losses, again.alone_losses) == (2, 1, 0)
    with pytest.raises(Fenced):
        await store.commit(give_up)


async def test_only_an_owner_gives_up(store: Store) -> None:
    """Without the token a topic cannot be given up."""
    await started(store)
    for attempt in (None, 1):
        with pytest.raises(ValueError, match="LOST"):
            await store.commit(Commit(TOPIC, attempt=attempt, schedule=Schedule.LOST))


async def test_a_wake_hastens_what_was_given_up(store: Store) -> None:
    """A cancellation that came under the lease, or comes after it, does not wait for the grace."""
    for topic, early in (("default/early", True), ("default/late", False)):
        await start(store, topic)
        claim = await claim_one(store)
        if early:
            await store.commit(Commit(topic, schedule=Schedule.WAKE))
        await store.commit(Commit(topic, attempt=1, token=claim.token, schedule=Schedule.LOST))
        if not early:
            await store.commit(Commit(topic, schedule=Schedule.WAKE))
        assert (await claim_one(store)).losses == 1


# Suspects


async def lost(store: Store, times: int, **changes: Any) -> None:
    """Creates a topic and loses so many of its leases."""
    await start(store, **changes)
    for number in range(times):
        claim = await claim_one(store, lease_seconds=0.02, alone=number >= SUSPECT_LOSSES)
        assert claim.losses == number


async def no_suspect_due(store: Store) -> bool:
    return await store.claim([QUEUE], holder="x", limit=1, lease_seconds=LONG_SECONDS, alone=True) == []


async def test_suspects_are_given_only_to_who_takes_them_alone(store: Store) -> None:
    """Up to SUSPECT_LOSSES - 1 losses a topic comes back among the others, from then on only to `alone`."""
    await start(store, "default/innocent")
    assert await no_suspect_due(store)
    assert (await claim_one(store)).topic == "default/innocent"
    await lost(store, SUSPECT_LOSSES)
    suspect = await claim_one(store, alone=True)
    assert (suspect.topic, suspect.losses, suspect.alone_losses) == (TOPIC, SUSPECT_LOSSES, 0)
    assert await nothing_due(store)


async def test_losses_alone_are_counted_apart(store: Store) -> None:
    """Only leases that were lost while nobody else was executed show who is guilty."""
    await lost(store, SUSPECT_LOSSES)
    for number in range(3):
        claim = await claim_one(store, lease_seconds=SHORT_SECONDS / 5, alone=True)
        assert (claim.losses, claim.alone_losses) == (SUSPECT_LOSSES + number, number)


@pytest.mark.parametrize(
    "changes", [{"progress": True}, {"schedule": Schedule.DUE}, {"schedule": Schedule.NEVER}], ids=str
)
async def test_who_got_further_is_no_suspect(store: Store, changes: dict[str, Any]) -> None:
    """Progress, a hand-back and a suspension clear both counts and bring the topic back among the others, whether its
    owner then dies or not."""
    await lost(store, SUSPECT_LOSSES)
    await claim_one(store, lease_seconds=SHORT_SECONDS, alone=True)
    claim = await claim_one(store, lease_seconds=SHORT_SECONDS, alone=True)
    assert claim.alone_losses == 1
    attempt = claim.head.attempt
    await store.commit(Commit(TOPIC, attempt=attempt, token=claim.token, **changes))
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    after = await claim_one(store, lease_seconds=SHORT_SECONDS)
    died = 1 if "progress" in changes else 0
    assert (after.head.attempt, after.losses, after.alone_losses) == (attempt + 1, died, died)
    assert await no_suspect_due(store)


async def test_a_suspect_whose_owner_lives_is_no_further_suspect(store: Store) -> None:
    """Its lease is kept as any other, and revived as any other after it ran out."""
    await lost(store, SUSPECT_LOSSES)
    claim = await ran_out(store, alone=True)
    assert await no_suspect_due(store)
    assert await extend(store, claim) is LeaseState.HELD
    await asyncio.sleep(SHORT_SECONDS)
    assert await no_suspect_due(store)
    assert await nothing_due(store)


async def test_grace_grows_with_the_losses() -> None:
    """A third of the lease, twice as long with each loss, up to the bound."""
    assert [grace_seconds(15.0, loss) for loss in range(1, 5)] == [5.0, 10.0, 20.0, 40.0]
    assert {grace_seconds(15.0, loss) for loss in (5, 50, 5000)} == {MAX_GRACE_SECONDS}
    assert grace_seconds(3600.0, 1) == MAX_GRACE_SECONDS


async def test_each_loss_keeps_a_suspect_waiting_for_longer(store: Store) -> None:
    """Between the end of a lease and the next claim lies at least the grace of that loss."""
    await start(store)
    ended = 0.0
    for loss in range(4):
        claim = await claim_one(store, lease_seconds=SHORT_SECONDS, alone=loss >= SUSPECT_LOSSES)
        if loss:
            assert claim.time - ended >= grace_seconds(SHORT_SECONDS, loss) - 0.001
        ended = claim.time + SHORT_SECONDS


async def test_a_waiting_claim_hears_of_a_suspect(two_stores: tuple[Store, Store]) -> None:
    """One that is woken is found by who waits for suspects, through another connection; who waits for others is not
    given it."""
    here, there = two_stores
    await lost(there, SUSPECT_LOSSES)
    claim = await claim_one(there, alone=True)
    give_up = Commit(TOPIC, attempt=claim.head.attempt, token=claim.token, schedule=Schedule.LOST)
    await there.commit(give_up)
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        waiting = group.create_task(claim_one(here, alone=True))
        other = group.create_task(claim_one(here))
        await asyncio.sleep(0.05)
        await there.commit(Commit(TOPIC, schedule=Schedule.WAKE))
        assert (await waiting).alone_losses == 1
        await start(there, "default/other")
        assert (await other).topic == "default/other"


async def test_suspects_come_in_order_and_once(two_stores: tuple[Store, Store]) -> None:
    """Those due longest first, each to one caller, as it is for all others."""
    here, there = two_stores
    topics = [f"default/run-{number}" for number in range(6)]
    for topic in topics:
        await start(here, topic)
        for _ in range(SUSPECT_LOSSES):
            claim = await claim_one(here)
            give_up = Commit(topic, attempt=claim.head.attempt, token=claim.token, schedule=Schedule.LOST)
            await here.commit(give_up)
            await here.commit(Commit(topic, schedule=Schedule.WAKE))
    assert await nothing_due(here)
    taken = []
    for store in (here, there, here):
        claims = await store.claim([QUEUE], holder="last", limit=2, lease_seconds=LONG_SECONDS, alone=True)
        taken += [claim.topic for claim in claims]
    assert taken == topics
    assert await no_suspect_due(there)


async def test_a_closed_suspect_is_nobodys_work(store: Store) -> None:
    """The last event ends it in the lane of suspects too, and clearing takes it out."""
    await lost(store, SUSPECT_LOSSES)
    claim = await claim_one(store, alone=True)
    attempt = claim.head.attempt
    await finish(store, TOPIC, attempt, 1, token=claim.token)
    await lost(store, SUSPECT_LOSSES, topic="default/cleared")
    await store.clear("default/cleared")
    await asyncio.sleep(2 * SHORT_SECONDS)
    assert await no_suspect_due(store)
    assert await nothing_due(store)
    await start(store, "default/cleared")
    assert (await claim_one(store)).losses == 0


async def test_what_is_set_aside_is_read_by_name_only(store: Store) -> None:
    """Fields set aside are fields in every commit, and of the topic until it goes, but no claim and no `get` of all
    brings them; a claim is none the larger for them."""
    await start(store, puts={"a": b"1", f"{ASIDE}first": b"x" * 100_000, "b": b"2", "aside": b"3", "z": b"4"})
    claim = await claim_one(store)
    brought = {"a": b"1", "b": b"2", "aside": b"3", "z": b"4"}
    assert claim.fields == brought
    once = Commit(TOPIC, 1, token=claim.token, puts_once={f"{ASIDE}once": b"5"}, puts={f"{ASIDE}first": b"6"})
    await store.commit(once)
    with pytest.raises(FieldExists) as found:
        await store.commit(once)
    assert (found.value.field, found.value.value) == (f"{ASIDE}once", b"5")
    stored = await store.get(TOPIC, [f"{ASIDE}once", "a", f"{ASIDE}first", f"{ASIDE}none", "none"])
    assert stored is not None
    assert stored.fields == {"a": b"1", f"{ASIDE}once": b"5", f"{ASIDE}first": b"6"}
    whole = await store.get(TOPIC)
    assert whole is not None
    assert whole.fields == brought
    await store.commit(Commit(TOPIC, 1, token=claim.token, deletes=[f"{ASIDE}once", f"{ASIDE}none"]))
    assert await fields(store, TOPIC, f"{ASIDE}once", f"{ASIDE}first") == {f"{ASIDE}first": b"6"}
    await store.clear(TOPIC)
    await start(store)
    assert await fields(store, TOPIC, f"{ASIDE}first") == {}


async def test_what_is_set_aside_goes_with_its_topic(store: Store) -> None:
    """After the retention of a closed log nothing of it is left."""
    claim = await started(store, puts={f"{ASIDE}first": b"x", "a": b"1"})
    await finish(store, TOPIC, claim.head.attempt, 1, token=claim.token, retention=0.02)
    await eventually(lambda: _is_expired(store))
    assert await fields(store, TOPIC, f"{ASIDE}first", "a") == {}
    while await store.sweep():
        pass
    assert await fields(store, TOPIC, f"{ASIDE}first", "a") == {}


async def _is_expired(store: Store) -> bool:
    [head] = await store.heads([TOPIC])
    return head is not None and head.expired
