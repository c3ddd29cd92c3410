"""Live entries: to present subscribers, in whatever process, and a word where some may have been missed."""

import asyncio

from runwire.pubsub import Entry, Store
from tests.conformance.logs import Inbox, append, dense, event, finish, started

TOPIC = "default/run"


async def test_a_commit_reaches_subscribers_of_every_connection(two_stores: tuple[Store, Store]) -> None:
    """Every entry comes to the subscribers of both connections exactly as the log has it."""
    here, there = two_stores
    near, far = Inbox(), Inbox()
    await started(here)
    async with here.pubsub.subscribe(TOPIC, near.deliver), there.pubsub.subscribe(TOPIC, far.deliver):
        for first in range(1, 31, 3):
            await append(here, TOPIC, 1, first, first + 2)
        await near.until_sequence(30)
        await far.until_sequence(30)
    page = await here.read(TOPIC, 0)
    assert near.entries == far.entries == list(page.entries)
    assert len(dense(far.entries)) == 30


async def test_the_end_is_announced(two_stores: tuple[Store, Store]) -> None:
    """The last entry comes live with its final number."""
    here, there = two_stores
    inbox = Inbox()
    await started(here)
    async with there.pubsub.subscribe(TOPIC, inbox.deliver):
        await finish(here, TOPIC, 1, 1)
        await inbox.until_sequence(1)
    assert inbox.entries[-1].final == 4


async def test_only_the_topic_subscribed_to(two_stores: tuple[Store, Store]) -> None:
    """Entries of other topics do not come, also where the names resemble each other."""
    here, there = two_stores
    names = ["default/run", "default/run-2", "default/run*", "default/ru", "default/RUN"]
    inboxes = {name: Inbox() for name in names}
    for name in names:
        await started(here, name)
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(self_test(here, there, name, inboxes[name]))
    for name, inbox in inboxes.items():
        assert {entry.body for entry in inbox.entries} == {entry.body for entry in (await here.read(name, 0)).entries}


async def self_test(here: Store, there: Store, name: str, inbox: Inbox) -> None:
    """Appends to a topic what names it, and waits until it comes back through the other connection."""
    async with there.pubsub.subscribe(name, inbox.deliver):
        await append(here, name, 1, 1, 1, text=name)
        await inbox.until_sequence(1)


async def test_who_came_later_gets_what_comes_later(store: Store) -> None:
    """Once entered, a subscription gets the very next entry; what was before is the log's."""
    await started(store)
    await append(store, TOPIC, 1, 1, 2)
    inbox = Inbox()
    async with store.pubsub.subscribe(TOPIC, inbox.deliver):
        await append(store, TOPIC, 1, 3, 3)
        await inbox.until_sequence(3)
    assert (inbox.entries[-1].first, inbox.entries[-1].last) == (3, 3)


async def test_a_subscription_that_begins_beside_a_writer_misses_nothing(two_stores: tuple[Store, Store]) -> None:
    """Subscribe, then read: the page and what came live join without a hole, whenever that happens."""
    writer, reader = two_stores
    await started(writer)

    async def write() -> None:
        for sequence in range(1, 201):
            await append(writer, TOPIC, 1, sequence, sequence)

    async def look() -> None:
        inbox = Inbox()
        async with reader.pubsub.subscribe(TOPIC, inbox.deliver):
            page = await reader.read(TOPIC, 0)
            if page.head.last < 200:
                await inbox.until_sequence(200)
        live = [entry for entry in inbox.entries if entry.last > page.head.last]
        assert dense([*page.entries, *live]) == [event(sequence) for sequence in range(1, 201)]

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(5):
            group.create_task(look())
            await asyncio.sleep(0.002)


async def test_left_is_left(two_stores: tuple[Store, Store]) -> None:
    """After leaving, a subscriber gets nothing, while another one of the same topic still does."""
    here, there = two_stores
    await started(here)
    left, stayed = Inbox(), Inbox()
    async with there.pubsub.subscribe(TOPIC, stayed.deliver):
        async with there.pubsub.subscribe(TOPIC, left.deliver):
            await append(here, TOPIC, 1, 1, 1)
            await left.until_sequence(1)
        await append(here, TOPIC, 1, 2, 2)
        await stayed.until_sequence(2)
    assert [entry.last for entry in left.entries] == [1]


async def test_the_same_callback_twice(store: Store) -> None:
    """Subscriptions are counted: one that ends does not end another with the same callback."""
    await started(store)
    inbox = Inbox()
    async with store.pubsub.subscribe(TOPIC, inbox.deliver):
        async with store.pubsub.subscribe(TOPIC, inbox.deliver):
            pass
        await append(store, TOPIC, 1, 1, 1)
        await inbox.until_sequence(1)


async def test_a_repeat_may_come_again_but_says_the_same(store: Store) -> None:
    """Whatever a repeated commit announces is what the log has."""
    await started(store)
    inbox = Inbox()
    async with store.pubsub.subscribe(TOPIC, inbox.deliver):
        await append(store, TOPIC, 1, 1, 2)
        await append(store, TOPIC, 1, 1, 2)
        await append(store, TOPIC, 1, 3, 3)
        await inbox.until_sequence(3)
    (first, second) = (await store.read(TOPIC, 0)).entries
    assert all(entry in (first, second) for entry in inbox.got if entry)


async def test_one_that_raises_does_not_harm_the_others(store: Store) -> None:
    """A subscriber with a fault keeps nothing from the others, nor from the writer."""
    await started(store)
    inbox = Inbox()

    def faulty(entry: Entry | None) -> None:
        raise RuntimeError("a fault")

    async with store.pubsub.subscribe(TOPIC, faulty), store.pubsub.subscribe(TOPIC, inbox.deliver):
        await append(store, TOPIC, 1, 1, 1)
        await append(store, TOPIC, 1, 2, 2)
        await inbox.until_sequence(2)


async def test_a_cleared_topic_is_told(two_stores: tuple[Store, Store]) -> None:
    """Subscribers of both connections hear that they must look at the log when it is cleared."""
    here, there = two_stores
    near, far = Inbox(), Inbox()
    await started(here)
    async with here.pubsub.subscribe(TOPIC, near.deliver), there.pubsub.subscribe(TOPIC, far.deliver):
        await append(here, TOPIC, 1, 1, 1)
        await near.until_sequence(1)
        await far.until_sequence(1)
        near.got.clear()
        far.got.clear()
        await here.clear(TOPIC)
        await near.until(lambda: None in near.got)
        await far.until(lambda: None in far.got)


async def test_a_cancelled_subscription_is_left(store: Store) -> None:
    """Cancelled at any moment of entering, a subscription leaves nothing behind that would be called."""
    await started(store)
    inbox = Inbox()

    async def subscribe() -> None:
        async with store.pubsub.subscribe(TOPIC, inbox.deliver):
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        for turns in range(6):
            task = group.create_task(subscribe())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
    await append(store, TOPIC, 1, 1, 1)
    other = Inbox()
    async with store.pubsub.subscribe(TOPIC, other.deliver):
        await append(store, TOPIC, 1, 2, 2)
        await other.until_sequence(2)
    assert inbox.entries == []
