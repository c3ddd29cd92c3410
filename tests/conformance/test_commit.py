"""What one commit promises: its checks in their order, and all of it or nothing."""

import asyncio
from dataclasses import replace

import pytest

from runwire.errors import Fenced, FieldExists, LogClosed, RunNotFound, SequenceHole, TopicExists
from runwire.pubsub import MAX_COMMIT_BYTES, MAX_COMMIT_EVENTS, Commit, Message, Schedule, Store
from tests.conformance.logs import (
    LONG_SECONDS,
    append,
    appending,
    body,
    check,
    claim_one,
    fields,
    finish,
    read_all,
    start,
    started,
)

TOPIC = "default/run"


async def test_create_mints_an_open_empty_log(store: Store) -> None:
    """A created topic has a fresh epoch of 16 hex digits, no attempt, no event, and the fields it was given."""
    before = await store.now()
    committed = await store.commit(Commit(TOPIC, create=True, queue="q", puts={"a": b"1"}, puts_once={"b": b"2"}))
    head = committed.head
    assert len(head.epoch) == 16
    assert int(head.epoch, 16) >= 0
    assert (head.attempt, head.earliest, head.last, head.check, head.final) == (0, 1, 0, b"", 0)
    assert (head.expired, head.expire_time) == (False, 0.0)
    assert before <= head.create_time <= committed.time <= await store.now()
    assert committed.entry is None
    assert await fields(store, TOPIC) == {"a": b"1", "b": b"2"}


async def test_create_refuses_a_topic_that_exists(store: Store) -> None:
    """A second create changes nothing and raises TopicExists."""
    head = await start(store, puts={"a": b"1"})
    with pytest.raises(TopicExists):
        await store.commit(Commit(TOPIC, create=True, puts={"a": b"2"}, messages=[Message("m", b"x")]))
    stored = await store.get(TOPIC)
    assert stored is not None
    assert (stored.head, stored.fields) == (head, {"a": b"1"})
    assert await store.backlog("m") == 0


async def test_concurrent_creates_have_one_winner(two_stores: tuple[Store, Store]) -> None:
    """Of many creates at once exactly one succeeds, and its fields stand."""
    commits = [Commit(TOPIC, create=True, puts={"who": b"%d" % number}) for number in range(16)]
    stores = [two_stores[number % 2] for number in range(16)]
    results = await asyncio.gather(
        *(store.commit(commit) for store, commit in zip(stores, commits, strict=True)), return_exceptions=True
    )
    winners = [number for number, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(winners) == 1
    assert sum(isinstance(result, TopicExists) for result in results) == 15
    assert await fields(two_stores[1], TOPIC) == {"who": b"%d" % winners[0]}


async def test_a_log_made_anew_has_another_epoch(store: Store) -> None:
    """After clear, a create gives a log that is never mistaken for the old one."""
    old = await start(store)
    await store.clear(TOPIC)
    assert (await start(store)).epoch != old.epoch


async def test_commit_needs_the_topic(store: Store) -> None:
    """Without create, a topic that does not exist is RunNotFound, and nothing is sent."""
    with pytest.raises(RunNotFound):
        await store.commit(Commit(TOPIC, puts={"a": b"1"}, messages=[Message("m", b"x")]))
    assert await store.get(TOPIC) is None
    assert await store.backlog("m") == 0


async def test_events_and_fields_are_one_write(store: Store) -> None:
    """An append returns its entry and the head after it, and all parts of the commit are there."""
    claim = await started(store, puts={"kept": b"1", "gone": b"1"})
    committed = await append(store, TOPIC, 1, 1, 3, puts={"new": b"2", "empty": b""}, deletes=["gone", "never"])
    assert committed.entry is not None
    entry = committed.entry
    assert (entry.epoch, entry.first, entry.last) == (claim.head.epoch, 1, 3)
    assert (entry.body, entry.check, entry.previous, entry.final) == (body(1, 3), check(3), b"", 0)
    assert (committed.head.last, committed.head.check) == (3, check(3))
    page = await store.read(TOPIC, 0)
    assert list(page.entries) == [entry]
    assert page.head == committed.head
    assert await fields(store, TOPIC) == {"kept": b"1", "new": b"2", "empty": b""}


async def test_a_lower_attempt_is_fenced(store: Store) -> None:
    """A superseded owner can write nothing: no event, no field, no message, no schedule."""
    await started(store)
    await store.commit(Commit(TOPIC, schedule=Schedule.DUE))
    await claim_one(store)
    writes = [
        appending(TOPIC, 1, 1, 1),
        appending(TOPIC, 1, 1, 1, final=4, retention=1.0, messages=[Message("m", b"x")]),
        Commit(TOPIC, attempt=1, puts={"a": b"1"}),
        Commit(TOPIC, attempt=1, schedule=Schedule.NEVER),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            await store.commit(write)
    assert await read_all(store, TOPIC) == []
    assert await fields(store, TOPIC) == {}
    assert await store.backlog("m") == 0


async def test_the_fence_comes_before_the_repeat(store: Store) -> None:
    """A superseded owner that repeats what it wrote once is told that it is superseded."""
    await started(store)
    commit = appending(TOPIC, 1, 1, 2)
    await store.commit(replace(commit, schedule=Schedule.DUE))
    await claim_one(store)
    with pytest.raises(Fenced):
        await store.commit(commit)


async def test_an_attempt_that_was_never_claimed_is_a_fault(store: Store) -> None:
    """An attempt above the topic's is the caller's bug."""
    await started(store)
    with pytest.raises(ValueError, match="attempt"):
        await store.commit(appending(TOPIC, 2, 1, 1))
    assert await read_all(store, TOPIC) == []


async def test_a_repeat_succeeds_and_changes_nothing(store: Store) -> None:
    """The same commit again has no effect: no event, field, message, schedule or loss is touched by it."""
    await started(store, puts={"gone": b"1"})
    commit = appending(
        TOPIC, 1, 1, 3, puts={"a": b"1"}, puts_once={"b": b"1"}, deletes=["gone"], messages=[Message("m", b"x")]
    )
    first = await store.commit(commit)
    await store.commit(Commit(TOPIC, puts={"a": b"2", "gone": b"2"}))
    again = await store.commit(replace(commit, schedule=Schedule.DUE))
    assert again.head == first.head
    assert (await store.read(TOPIC, 0)).head.last == 3
    assert len((await store.read(TOPIC, 0)).entries) == 1
    assert await fields(store, TOPIC) == {"a": b"2", "b": b"1", "gone": b"2"}
    assert await store.backlog("m") == 1
    assert await store.claim(["runs"], holder="somebody", limit=1, lease_seconds=1.0) == []


async def test_the_repeat_of_a_closing_commit_succeeds(store: Store) -> None:
    """A last commit that is retried after a time-out is a success, and its messages are sent once."""
    await started(store)
    closing = {"final": 4, "retention": LONG_SECONDS, "tombstone": LONG_SECONDS, "messages": [Message("m", b"x")]}
    first = await store.commit(appending(TOPIC, 1, 1, 2, **closing))
    again = await store.commit(appending(TOPIC, 1, 1, 2, **closing))
    assert again.head == first.head
    assert again.head.final == 4
    assert await store.backlog("m") == 1


async def test_other_events_at_the_same_place_are_no_repeat(store: Store) -> None:
    """The same last sequence with another event is a hole, not a repeat."""
    await started(store)
    await append(store, TOPIC, 1, 1, 3)
    with pytest.raises(SequenceHole):
        await store.commit(appending(TOPIC, 1, 1, 3, "other"))


@pytest.mark.parametrize("first, last", [(5, 6), (3, 4), (1, 2), (2, 4), (1, 4)])
async def test_a_hole_is_refused(store: Store, first: int, last: int) -> None:
    """Events must begin right after the last one: neither beyond it nor before it."""
    await started(store)
    await append(store, TOPIC, 1, 1, 3)
    with pytest.raises(SequenceHole):
        await store.commit(appending(TOPIC, 1, first, last, previous=check(3), puts={"a": b"1"}))
    assert len(await read_all(store, TOPIC)) == 3
    assert await fields(store, TOPIC) == {}


async def test_events_continue_the_very_event_before_them(store: Store) -> None:
    """A writer whose previous event is not the log's last one is refused, though the numbers fit."""
    await started(store)
    await append(store, TOPIC, 1, 1, 3)
    with pytest.raises(SequenceHole):
        await store.commit(appending(TOPIC, 1, 4, 4, "other"))
    with pytest.raises(SequenceHole):
        await store.commit(appending(TOPIC, 1, 4, 4, previous=b""))
    await append(store, TOPIC, 1, 4, 4)


async def test_a_closed_log_takes_no_commit(store: Store) -> None:
    """After the last event nothing is written, by the owner or by anybody."""
    await started(store)
    await finish(store, TOPIC, 1, 1)
    for commit in [
        appending(TOPIC, 1, 2, 2),
        Commit(TOPIC, attempt=1, puts={"a": b"1"}),
        Commit(TOPIC, puts={"a": b"1"}),
        Commit(TOPIC, schedule=Schedule.WAKE),
    ]:
        with pytest.raises(LogClosed):
            await store.commit(commit)
    assert await fields(store, TOPIC) == {}


async def test_a_closed_log_is_never_due(store: Store) -> None:
    """The closing commit ends the schedule, whatever it says besides."""
    await started(store)
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    await finish(store, TOPIC, 1, 1, schedule=Schedule.DUE)
    assert await store.claim(["runs"], holder="somebody", limit=1, lease_seconds=1.0) == []


async def test_the_end_is_in_head_and_entry(store: Store) -> None:
    """The closing commit marks the entry and the head, and says when the events will be purged."""
    await started(store)
    committed = await finish(store, TOPIC, 1, 1, retention=30.0)
    assert committed.entry is not None
    assert committed.entry.final == 4
    assert committed.head.final == 4
    assert committed.head.expire_time == pytest.approx(committed.time + 30.0, abs=0.01)
    assert (await store.read(TOPIC, 0)).entries[-1].final == 4


async def test_puts_once_keeps_the_first_value(store: Store) -> None:
    """A field that is there already refuses the whole commit and tells its value."""
    await started(store)
    await store.commit(Commit(TOPIC, puts_once={"answer": b"yes"}))
    with pytest.raises(FieldExists) as caught:
        await store.commit(
            appending(TOPIC, 1, 1, 1, puts_once={"answer": b"no"}, puts={"a": b"1"}, messages=[Message("m", b"x")])
        )
    assert (caught.value.field, caught.value.value) == ("answer", b"yes")
    assert await fields(store, TOPIC) == {"answer": b"yes"}
    assert await read_all(store, TOPIC) == []
    assert await store.backlog("m") == 0


async def test_puts_once_after_a_delete(store: Store) -> None:
    """A field that was removed may be put once again."""
    await start(store, puts={"a": b"1"})
    await store.commit(Commit(TOPIC, deletes=["a"]))
    await store.commit(Commit(TOPIC, puts_once={"a": b"2"}))
    assert await fields(store, TOPIC) == {"a": b"2"}


async def test_an_outsider_may_put_but_not_append(store: Store) -> None:
    """A commit without an attempt sets fields under a lease; events need an owner."""
    await started(store)
    await store.commit(Commit(TOPIC, puts={"cancel": b"1"}))
    assert await fields(store, TOPIC) == {"cancel": b"1"}
    with pytest.raises(ValueError, match="attempt"):
        await store.commit(replace(appending(TOPIC, 1, 1, 1), attempt=None))
    assert await read_all(store, TOPIC) == []


async def test_the_bounds_of_a_commit(store: Store) -> None:
    """The most events and a single large event fit; more is the caller's fault."""
    await started(store)
    await append(store, TOPIC, 1, 1, MAX_COMMIT_EVENTS)
    large = "x" * (MAX_COMMIT_BYTES + 1)
    await store.commit(appending(TOPIC, 1, 257, 257, large, previous=check(256)))
    assert len(await read_all(store, TOPIC)) == 257
    too_many = appending(TOPIC, 1, 258, 258 + MAX_COMMIT_EVENTS, previous=check(257, large))
    with pytest.raises(ValueError, match="too many"):
        await store.commit(too_many)
    with pytest.raises(ValueError, match="too many"):
        await store.commit(appending(TOPIC, 1, 258, 259, large, previous=check(257, large)))


async def test_a_log_is_closed_by_an_event_only(store: Store) -> None:
    """`final` without events is the caller's fault: a reader could not be told of the end."""
    await started(store)
    with pytest.raises(ValueError, match="final"):
        await store.commit(Commit(TOPIC, attempt=1, final=4))


async def test_bytes_of_every_kind_come_back(store: Store) -> None:
    """Names and values are kept byte for byte: empty, with zeros, not UTF-8, large; topics with any text."""
    topic = "tenänt/rün ☃ {x}:*"
    values = {"": b"", "zero\0": b"\0\xff\xfe", "größe": bytes(range(256)) * 1024, "a b": b"%s"}
    await start(store, topic, puts=values, queue="wärteschlange {1}", indexes=["ïndex:*"])
    assert await fields(store, topic) == values
    assert (await claim_one(store, "wärteschlange {1}")).fields == values
    assert [stored.topic for stored in (await store.scan("ïndex:*", fields=[])).found] == [topic]


async def test_concurrent_commits_stand_by_themselves(store: Store) -> None:
    """Of commits of the same turn some are refused, and the others are not touched by it."""
    topics = [f"default/run-{number}" for number in range(20)]
    for topic in topics:
        await start(store, topic)
    claims = await store.claim(["runs"], holder="somebody", limit=20, lease_seconds=LONG_SECONDS)
    assert len(claims) == 20
    commits = [appending(topic, 1, 1 + number % 2, 3) for number, topic in enumerate(topics)]
    results = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
    for number, result in enumerate(results):
        assert isinstance(result, SequenceHole) is bool(number % 2)
    assert [head and head.last for head in await store.heads(topics)] == [0 if n % 2 else 3 for n in range(20)]


async def test_a_cancelled_commit_is_whole_or_absent(store: Store) -> None:
    """A caller that is cancelled leaves all of its commit or nothing, and the repeat of it takes effect once."""
    await started(store)
    commit = appending(TOPIC, 1, 1, 2, messages=[Message("m", b"x")])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.commit(commit))
        await asyncio.sleep(0)
        task.cancel()
    await store.commit(commit)
    assert len(await read_all(store, TOPIC)) == 2
    assert await store.backlog("m") == 1


async def test_the_last_commit_deletes_any_number_of_fields(store: Store) -> None:
    """What the commit that closes a log deletes is out of sight at once, however much it is, and the rest stays."""
    claim = await started(store, puts={"kept": b"1", "also": b"2"})
    names = [f"journal/{number}" for number in range(1300)]
    await store.commit(Commit(TOPIC, puts=dict.fromkeys(names, b"x" * 100)))
    await finish(store, TOPIC, claim.head.attempt, 1, deletes=[*names, "also"], puts={"also": b"3"})
    expected = {"kept": b"1", "also": b"3"}
    removed = 1
    while removed:
        stored = await store.get(TOPIC)
        assert stored is not None
        assert stored.fields == expected
        named = await store.get(TOPIC, ["kept", *names[::200], names[-1]])
        assert named is not None
        assert named.fields == {"kept": b"1"}
        removed = await store.sweep(limit=400)
    assert (await store.read(TOPIC, 0)).head.final
