"""Reading a log: dense pages within bounds, heads, fields, what is left after trim and clear."""

import asyncio

import pytest

from runwire.errors import RunNotFound
from runwire.pubsub import Store
from tests.conformance.logs import append, body, check, claim_one, dense, event, fields, read_all, start, started

TOPIC = "default/run"


async def filled(store: Store, *lasts: int) -> None:
    """A log whose entries end at these sequences."""
    await started(store)
    first = 1
    for last in lasts:
        await append(store, TOPIC, 1, first, last)
        first = last + 1


async def test_an_unknown_topic_is_not_found(store: Store) -> None:
    """Reading what is not there is RunNotFound, and get says None."""
    with pytest.raises(RunNotFound):
        await store.read(TOPIC, 0)
    assert await store.get(TOPIC) is None
    assert await store.heads([TOPIC]) == [None]


async def test_an_empty_log_has_an_empty_page(store: Store) -> None:
    """No event yet: a head and nothing else."""
    head = await start(store)
    page = await store.read(TOPIC, 0)
    assert list(page.entries) == []
    assert page.head == head
    assert page.head.position.sequence == 0


@pytest.mark.parametrize("after", range(9))
async def test_a_page_has_whole_entries_with_anything_above(store: Store, after: int) -> None:
    """An entry that holds any event above `after` comes whole; those at or below it do not come."""
    await filled(store, 3, 4, 8)
    page = await store.read(TOPIC, after)
    expected = [(first, last) for first, last in [(1, 3), (4, 4), (5, 8)] if last > after]
    assert [(entry.first, entry.last) for entry in page.entries] == expected
    for entry in page.entries:
        assert entry.body == body(entry.first, entry.last)
        assert entry.check == check(entry.last)
        assert entry.previous == check(entry.first - 1)
        assert entry.epoch == page.head.epoch


async def test_beyond_the_tail_there_is_nothing(store: Store) -> None:
    """A position beyond the last event gives an empty page; what that means is the caller's to say."""
    await filled(store, 3)
    page = await store.read(TOPIC, 100)
    assert list(page.entries) == []
    assert page.head.last == 3


@pytest.mark.parametrize("most, expected", [(1, 3), (3, 3), (4, 4), (7, 4), (8, 8), (100, 8)])
async def test_a_page_is_bounded_by_events(store: Store, most: int, expected: int) -> None:
    """Entries until one more would exceed the bound, but one at least."""
    await filled(store, 3, 4, 8)
    page = await store.read(TOPIC, 0, max_events=most)
    assert page.entries[-1].last == expected
    assert page.head.last == 8


async def test_a_page_is_bounded_by_bytes(store: Store) -> None:
    """The same for bytes."""
    await filled(store, 3, 4, 8)
    sizes = [len(body(1, 3)), len(body(4, 4)), len(body(5, 8))]
    for most, count in [(1, 1), (sizes[0], 1), (sum(sizes[:2]), 2), (sum(sizes) - 1, 2), (sum(sizes), 3)]:
        assert len((await store.read(TOPIC, 0, max_bytes=most)).entries) == count


async def test_pages_join_to_the_log(store: Store) -> None:
    """A long log read in small pages is dense and complete."""
    await filled(store, *range(7, 700, 7))
    found: list[bytes] = []
    while len(found) < 693:
        page = await store.read(TOPIC, len(found), max_events=50)
        found += dense(page.entries, len(found))
    assert found == [event(sequence) for sequence in range(1, 694)]


async def test_pages_are_whole_while_events_are_appended(two_stores: tuple[Store, Store]) -> None:
    """A reader beside a writer sees at any moment a dense log up to the head of the same page."""
    writer, reader = two_stores
    await started(writer)
    lasts: list[int] = []

    async def write() -> None:
        for first in range(1, 300, 3):
            await append(writer, TOPIC, 1, first, first + 2)

    async def read() -> None:
        while not lasts or lasts[-1] < 300:
            page = await reader.read(TOPIC, 0)
            assert len(dense(page.entries)) == page.head.last
            lasts.append(page.head.last)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(read())
    assert lasts == sorted(lasts)


async def test_heads_of_many(store: Store) -> None:
    """Heads come in the order asked for, None where there is no topic, a repeated name twice."""
    await filled(store, 3)
    other = await start(store, "default/other")
    heads = await store.heads(["default/none", TOPIC, "default/other", TOPIC])
    assert heads[0] is None
    assert heads[1] == heads[3] == (await store.read(TOPIC, 0)).head
    assert heads[2] == other
    assert await store.heads([]) == []


async def test_heads_of_very_many(store: Store) -> None:
    """One call takes more names than a statement of the engine does."""
    head = await start(store)
    names = [f"default/none-{number}" for number in range(1200)]
    heads = await store.heads([*names, TOPIC])
    assert heads[-1] == head
    assert heads[:-1] == [None] * 1200


async def test_get_named_fields(store: Store) -> None:
    """get gives the fields named, without those that do not exist; all of them without names."""
    await start(store, puts={"a": b"1", "b": b"2", "c": b""})
    for names, expected in [(["a", "none", "c"], {"a": b"1", "c": b""}), ([], {}), (["none"], {})]:
        stored = await store.get(TOPIC, names)
        assert stored is not None
        assert stored.fields == expected
    assert await fields(store, TOPIC) == {"a": b"1", "b": b"2", "c": b""}


async def test_get_is_one_atomic_read(two_stores: tuple[Store, Store]) -> None:
    """Head and fields belong together: a field that counts the events never disagrees with the head."""
    writer, reader = two_stores
    await started(writer)
    seen: list[int] = []

    async def write() -> None:
        for sequence in range(1, 101):
            await append(writer, TOPIC, 1, sequence, sequence, puts={"count": b"%d" % sequence})

    async def look() -> None:
        while not seen or seen[-1] < 100:
            stored = await reader.get(TOPIC)
            assert stored is not None
            assert stored.fields.get("count", b"0") == b"%d" % stored.head.last
            seen.append(stored.head.last)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(look())


async def test_trim_forgets_whole_entries(store: Store) -> None:
    """Entries that end below the bound go; the earliest is the first event kept."""
    await filled(store, 3, 4, 8)
    for before, earliest in [(0, 1), (3, 1), (4, 4), (4, 4), (8, 5), (5, 5)]:
        await store.trim(TOPIC, before)
        page = await store.read(TOPIC, 0)
        assert page.head.earliest == earliest
        assert page.entries[0].first == earliest
        assert len(dense(page.entries, earliest - 1)) == 8 - earliest + 1


async def test_trim_of_everything(store: Store) -> None:
    """Where all is gone the earliest is last + 1, and the log continues from there."""
    await filled(store, 3, 4)
    await store.trim(TOPIC, 100)
    page = await store.read(TOPIC, 0)
    assert (page.head.earliest, page.head.last, list(page.entries)) == (5, 4, [])
    await append(store, TOPIC, 1, 5, 6)
    page = await store.read(TOPIC, 0)
    assert page.head.earliest == 5
    assert dense(page.entries, 4) == [event(5), event(6)]


async def test_clear_leaves_nothing(store: Store) -> None:
    """A cleared topic was never there: no log, field, schedule or index place; what it sent stays sent."""
    await start(store, puts={"a": b"1"}, indexes=["all"])
    await store.clear(TOPIC)
    await store.clear(TOPIC)
    assert await store.get(TOPIC) is None
    assert (await store.scan("all", fields=["a"])).found == []
    assert await store.claim(["runs"], holder="somebody", limit=1, lease_seconds=1.0) == []
    with pytest.raises(RunNotFound):
        await store.read(TOPIC, 0)


async def test_a_log_made_anew_after_clear_is_empty(store: Store) -> None:
    """Nothing of the old log shows in the new one, which begins at 1 with attempt 0."""
    await started(store, puts={"a": b"1"})
    await append(store, TOPIC, 1, 1, 3)
    await store.clear(TOPIC)
    head = await start(store)
    assert (head.attempt, head.last) == (0, 0)
    assert await read_all(store, TOPIC) == []
    assert await fields(store, TOPIC) == {}
    assert (await claim_one(store)).head.attempt == 1


async def test_ping(store: Store) -> None:
    """A store that answers raises nothing."""
    await store.ping()
