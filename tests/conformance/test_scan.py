"""Lists of topics, newest first, in pages."""

from runwire.pubsub import Store, Stored
from tests.conformance.logs import start


async def several(store: Store, count: int, index: str = "all") -> list[str]:
    """Topics of an index, newest first."""
    names = [f"default/run-{number:02}" for number in range(count)]
    places = [
        ((await start(store, name, indexes=[index], puts={"n": name.encode()})).create_time, name) for name in names
    ]
    return [name for _, name in sorted(places, reverse=True)]


def names_of(found: list[Stored]) -> list[str]:
    return [stored.topic for stored in found]


async def test_newest_first(store: Store) -> None:
    """All topics of the index, newest first by time and name, and none of another index."""
    expected = await several(store, 5)
    await start(store, "default/other", indexes=["other"])
    await start(store, "default/none")
    assert names_of(list(await store.scan("all", fields=[]))) == expected
    assert names_of(list(await store.scan("other", fields=[]))) == ["default/other"]
    assert await store.scan("unknown", fields=[]) == []


async def test_pages_meet_without_a_gap_or_a_double(store: Store) -> None:
    """Each page begins strictly below the last of the one before; a short page is the last."""
    expected = await several(store, 7)
    found: list[Stored] = []
    pages = 0
    before = None
    while True:
        page = await store.scan("all", fields=[], before=before, limit=3)
        pages += 1
        found += page
        if len(page) < 3:
            break
        before = (page[-1].head.create_time, page[-1].topic)
    assert names_of(found) == expected
    assert pages == 3


async def test_new_topics_do_not_move_a_page(store: Store) -> None:
    """A topic created between two pages shows in neither."""
    expected = await several(store, 4)
    first = await store.scan("all", fields=[], limit=2)
    await start(store, "default/zzz", indexes=["all"])
    rest = await store.scan("all", fields=[], before=(first[-1].head.create_time, first[-1].topic), limit=10)
    assert names_of([*first, *rest]) == expected


async def test_since_is_inclusive(store: Store) -> None:
    """Topics created at `since` or later."""
    await several(store, 5)
    found = await store.scan("all", fields=[])
    middle = found[2].head.create_time
    expected = [stored.topic for stored in found if stored.head.create_time >= middle]
    assert names_of(list(await store.scan("all", fields=[], since=middle))) == expected
    assert len(expected) >= 3


async def test_the_named_fields_come_along(store: Store) -> None:
    """Only the named fields, and the head as get has it."""
    await start(store, "default/a", indexes=["all"], puts={"x": b"1", "y": b"2"})
    await start(store, "default/b", indexes=["all"])
    found = {stored.topic: stored for stored in await store.scan("all", fields=["x", "none"])}
    assert found["default/a"].fields == {"x": b"1"}
    assert found["default/b"].fields == {}
    stored = await store.get("default/a")
    assert stored is not None
    assert found["default/a"].head == stored.head


async def test_a_topic_in_several_indexes(store: Store) -> None:
    """A topic shows in each index it was created with, once, and leaves all of them."""
    await start(store, "default/a", indexes=["x", "y", "x"])
    assert len(await store.scan("x", fields=[])) == len(await store.scan("y", fields=[])) == 1
    await store.clear("default/a")
    assert await store.scan("x", fields=[]) == await store.scan("y", fields=[]) == []
