"""The end of a log: open for ever, closed, expired to a tombstone, gone."""

import pytest

from runwire.errors import RunExpired, RunNotFound, TopicExists
from runwire.pubsub import Commit, Head, Message, Scan, Schedule, Store
from tests.conformance.logs import (
    LONG_SECONDS,
    append,
    appending,
    check,
    claim_one,
    eventually,
    finish,
    start,
    started,
)

TOPIC = "default/run"


async def closed(store: Store, retention: float, tombstone: float, topic: str = TOPIC) -> Head:
    """A log of three events with a field, in an index, closed."""
    await started(store, topic, indexes=["all"], puts={"a": b"1"})
    await append(store, topic, 1, 1, 2)
    committed = await finish(store, topic, 1, 3, retention=retention, tombstone=tombstone)
    return committed.head


async def expired(store: Store, topic: str = TOPIC) -> None:
    async def is_expired() -> bool:
        head = (await store.heads([topic]))[0]
        return bool(head and head.expired)

    await eventually(is_expired)


async def gone(store: Store, topic: str = TOPIC) -> None:
    async def is_gone() -> bool:
        return (await store.heads([topic]))[0] is None

    await eventually(is_gone)


async def swept(store: Store) -> int:
    """Sweeps until nothing is left to do."""
    total = 0
    while removed := await store.sweep():
        total += removed
    return total


async def test_within_the_retention_all_is_there(store: Store) -> None:
    """A closed log is read like an open one until its time has passed, and sweep leaves it alone."""
    head = await closed(store, LONG_SECONDS, LONG_SECONDS)
    await swept(store)
    page = await store.read(TOPIC, 0)
    assert page.head == head
    assert page.entries[-1].last == 3
    stored = await store.get(TOPIC)
    assert stored is not None
    assert stored.fields == {"a": b"1"}


@pytest.mark.parametrize("with_sweep", [False, True])
async def test_an_expired_log_leaves_a_tombstone(store: Store, with_sweep: bool) -> None:
    """Events and fields are out of sight as soon as the time has passed, swept or not; the head still tells how it
    ended, and no list has it."""
    head = await closed(store, 0.05, LONG_SECONDS)
    await expired(store)
    if with_sweep:
        await swept(store)
    page = await store.read(TOPIC, 0)
    assert list(page.entries) == []
    tombstone = page.head
    assert (tombstone.epoch, tombstone.final, tombstone.expired) == (head.epoch, 4, True)
    assert (tombstone.last, tombstone.check, tombstone.earliest) == (3, check(3), 4)
    assert tombstone.create_time == head.create_time
    stored = await store.get(TOPIC)
    assert stored is not None
    assert (stored.head, stored.fields) == (tombstone, {})
    assert await store.scan("all", fields=["a"]) == Scan([], None)
    assert await store.heads([TOPIC]) == [tombstone]


async def test_an_expired_log_takes_no_commit(store: Store) -> None:
    """Any commit is RunExpired, with the final state; a create is TopicExists."""
    await closed(store, 0.05, LONG_SECONDS)
    await expired(store)
    for commit in [
        Commit(TOPIC, puts={"a": b"2"}, messages=[Message("m", b"x")]),
        Commit(TOPIC, schedule=Schedule.WAKE),
        appending(TOPIC, 1, 4, 4),
    ]:
        with pytest.raises(RunExpired) as caught:
            await store.commit(commit)
        assert caught.value.metadata["final_state"] == "4"
    with pytest.raises(TopicExists):
        await store.commit(Commit(TOPIC, create=True))
    assert await store.backlog("m") == 0


async def test_a_tombstone_goes_after_its_time(store: Store) -> None:
    """Then there is no trace of the topic, and its name may be used again."""
    old = await closed(store, 0.02, 0.05)
    await gone(store)
    assert await store.get(TOPIC) is None
    assert (await store.scan("all", fields=["a"])).found == []
    with pytest.raises(RunNotFound):
        await store.read(TOPIC, 0)
    with pytest.raises(RunNotFound):
        await store.commit(Commit(TOPIC, puts={"a": b"1"}))
    head = await start(store, indexes=["all"])
    assert head.epoch != old.epoch
    assert [stored.head for stored in (await store.scan("all", fields=["a"])).found] == [head]
    await swept(store)
    assert [stored.head for stored in (await store.scan("all", fields=["a"])).found] == [head]
    assert (await claim_one(store)).head.attempt == 1


async def test_gone_topics_do_not_shorten_a_page(store: Store) -> None:
    """A page of scan is filled up although topics between those it shows are gone and not yet swept."""
    for number in range(6):
        name = f"default/run-{number}"
        if number % 2:
            await closed(store, 0.01, 0.01, name)
        else:
            await start(store, name, indexes=["all"], schedule=Schedule.NEVER)
    await gone(store, "default/run-5")
    page = await store.scan("all", fields=[], limit=2)
    assert [stored.topic for stored in page.found] == ["default/run-4", "default/run-2"]


async def test_open_logs_are_never_swept(store: Store) -> None:
    """However often it is swept, a log without an end stays, and so does its work."""
    await start(store, indexes=["all"], puts={"a": b"1"})
    assert await swept(store) == 0
    assert (await claim_one(store)).fields == {"a": b"1"}


async def test_sweep_ends(store: Store) -> None:
    """Sweeping in small portions comes to an end, and what had to go is gone."""
    for number in range(5):
        await closed(store, 0.01, 0.02, f"default/run-{number}")
    await closed(store, LONG_SECONDS, LONG_SECONDS, "default/kept")
    for number in range(5):
        await gone(store, f"default/run-{number}")
    for _ in range(200):
        if not await store.sweep(limit=2):
            break
    assert await store.sweep() == 0
    assert [stored.topic for stored in (await store.scan("all", fields=[])).found] == ["default/kept"]
    assert (await store.read("default/kept", 0)).head.last == 3


async def test_a_topic_made_anew_is_not_swept_with_the_old_one(store: Store) -> None:
    """A sweep that was due for a cleared log leaves its successor of the same name alone."""
    await closed(store, 0.02, 0.02)
    await store.clear(TOPIC)
    await started(store, indexes=["all"], puts={"b": b"2"})
    await append(store, TOPIC, 1, 1, 2)
    other = await closed(store, 0.01, 0.01, "default/other")
    assert other.final
    await gone(store, "default/other")
    await swept(store)
    stored = await store.get(TOPIC)
    assert stored is not None
    assert stored.fields == {"b": b"2"}
    assert (await store.read(TOPIC, 0)).entries[-1].last == 2
