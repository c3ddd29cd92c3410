"""Lists of topics, newest first, in pages."""

import asyncio
from collections.abc import Sequence

from runwire.pubsub import MAX_SCAN_LOOKS, Commit, Scan, Schedule, Store, Stored
from tests.conformance.logs import start


async def several(store: Store, count: int, index: str = "all") -> list[str]:
    """Topics of an index, newest first."""
    names = [f"default/run-{number:02}" for number in range(count)]
    places = [
        ((await start(store, name, indexes=[index], puts={"n": name.encode()})).create_time, name) for name in names
    ]
    return [name for _, name in sorted(places, reverse=True)]


def names_of(found: Sequence[Stored]) -> list[str]:
    return [stored.topic for stored in found]


async def test_newest_first(store: Store) -> None:
    """All topics of the index, newest first by time and name, and none of another index."""
    expected = await several(store, 5)
    await start(store, "default/other", indexes=["other"])
    await start(store, "default/none")
    assert names_of((await store.scan("all", fields=[])).found) == expected
    assert names_of((await store.scan("other", fields=[])).found) == ["default/other"]
    assert await store.scan("unknown", fields=[]) == Scan([], None)


async def test_pages_meet_without_a_gap_or_a_double(store: Store) -> None:
    """Each page begins strictly below the last of the one before; the last says that it is."""
    expected = await several(store, 7)
    found: list[Stored] = []
    pages = 0
    before = None
    while True:
        page = await store.scan("all", fields=[], before=before, limit=3)
        pages += 1
        found += page.found
        if page.next is None:
            break
        before = page.next
    assert names_of(found) == expected
    assert pages == 3


async def test_new_topics_do_not_move_a_page(store: Store) -> None:
    """A topic created between two pages shows in neither."""
    expected = await several(store, 4)
    first = await store.scan("all", fields=[], limit=2)
    await start(store, "default/zzz", indexes=["all"])
    rest = await store.scan("all", fields=[], before=first.next, limit=10)
    assert names_of([*first.found, *rest.found]) == expected


async def test_since_is_inclusive(store: Store) -> None:
    """Topics created at `since` or later."""
    await several(store, 5)
    found = (await store.scan("all", fields=[])).found
    middle = found[2].head.create_time
    expected = [stored.topic for stored in found if stored.head.create_time >= middle]
    assert names_of((await store.scan("all", fields=[], since=middle)).found) == expected
    assert len(expected) >= 3


async def test_the_named_fields_come_along(store: Store) -> None:
    """Only the named fields, and the head as get has it."""
    await start(store, "default/a", indexes=["all"], puts={"x": b"1", "y": b"2"})
    await start(store, "default/b", indexes=["all"])
    found = {stored.topic: stored for stored in (await store.scan("all", fields=["x", "none"])).found}
    assert found["default/a"].fields == {"x": b"1"}
    assert found["default/b"].fields == {}
    stored = await store.get("default/a")
    assert stored is not None
    assert found["default/a"].head == stored.head


async def test_a_topic_in_several_indexes(store: Store) -> None:
    """A topic shows in each index it was created with, once, and leaves all of them."""
    await start(store, "default/a", indexes=["x", "y", "x"])
    for index in ("x", "y"):
        assert len((await store.scan(index, fields=[])).found) == 1
    await store.clear("default/a")
    assert await store.scan("x", fields=[]) == await store.scan("y", fields=[]) == Scan([], None)


def found_by(page: Scan) -> list[str]:
    return [stored.topic.removeprefix("default/") for stored in page.found]


async def test_a_topic_joins_and_leaves_lists(store: Store) -> None:
    """Any commit may move a topic from list to list; it keeps its place by the time it was made, and is there once."""
    for name in ("a", "b", "c"):
        await start(store, f"default/{name}", indexes=["all", "new"])
    move = Commit("default/b", leaves=["new", "never", "both"], indexes=["done", "both"])
    for _ in range(2):
        await store.commit(move)
    await store.commit(Commit("default/a", leaves=["new"], indexes=["done", "all"]))
    assert found_by(await store.scan("all", fields=[])) == ["c", "b", "a"]
    assert found_by(await store.scan("new", fields=[])) == ["c"]
    assert found_by(await store.scan("done", fields=[])) == ["b", "a"]
    assert found_by(await store.scan("both", fields=[])) == ["b"]
    await store.clear("default/b")
    for index, expected in (("all", ["c", "a"]), ("done", ["a"]), ("both", [])):
        assert found_by(await store.scan(index, fields=[])) == expected


async def test_topics_of_several_lists(store: Store) -> None:
    """Only those that are in all of the lists, in pages, whichever list is named first."""
    for number in range(12):
        indexes = ["all", *(["even"] if number % 2 == 0 else []), *(["third"] if number % 3 == 0 else [])]
        await start(store, f"default/{number:02}", indexes=indexes)
    for index, also in (("all", ["even", "third"]), ("third", ["even"]), ("even", ["third", "third", "all"])):
        assert found_by(await store.scan(index, also=also, fields=[])) == ["06", "00"]
        first = await store.scan(index, also=also, fields=[], limit=1)
        rest = await store.scan(index, also=also, fields=[], limit=5, before=first.next)
        assert found_by(first) + found_by(rest) == ["06", "00"]
    assert await store.scan("all", also=["none"], fields=[]) == Scan([], None)
    assert await store.scan("none", also=["all"], fields=[]) == Scan([], None)


async def test_a_search_that_finds_little_goes_on_from_page_to_page(store: Store) -> None:
    """Two long lists that share their oldest topic: no page looks at all of them, and the last finds it."""
    count = 2 * MAX_SCAN_LOOKS + 300
    await start(store, "default/both", indexes=["x", "y"], schedule=Schedule.NEVER)
    for first in range(0, count, 100):
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + 100):
                commit = Commit(f"default/{number}", create=True, indexes=["xy"[number % 2]])
                group.create_task(store.commit(commit))
    found, pages, before = [], 0, None
    while True:
        page = await store.scan("x", also=["y"], fields=[], limit=10, before=before)
        pages += 1
        found += found_by(page)
        if page.next is None:
            break
        assert before is None or page.next < before
        before = page.next
    assert pages > 1
    assert found == ["both"]


async def test_a_deep_page_of_a_long_list(store: Store) -> None:
    """By its place a page in the middle of a list is found at once, also where what is newer was made since."""
    await several(store, 30)
    everything = found_by(await store.scan("all", fields=[]))
    middle = await store.scan("all", fields=[], limit=15)
    await start(store, "default/zzz", indexes=["all"])
    assert found_by(await store.scan("all", fields=[], before=middle.next, limit=5)) == everything[15:20]
