"""A process of its own that uses a store: `python -m tests.conformance.child URL append|work NAME`.

It says on standard output what it has done, once the store has said so, a line each.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from runwire.connect import open_store
from runwire.pubsub import Commit, Message, Schedule, Store
from tests.conformance.logs import LONG_SECONDS, QUEUE, appending, claim_one, finish, start

TOPICS_OF_A_CHILD = 4


async def append_for_ever(store: Store, name: str) -> None:
    """Appends to several topics at once, each commit with a field and a message, until it is killed."""
    async with asyncio.TaskGroup() as group:
        for number in range(TOPICS_OF_A_CHILD):
            group.create_task(_append_to(store, f"default/{name}-{number}", f"{QUEUE}-{name}-{number}"))


async def _append_to(store: Store, topic: str, queue: str) -> None:
    await start(store, topic, queue=queue)
    await claim_one(store, queue)
    first = 1
    for size in itertools.cycle((1, 5, 2, 17)):
        last = first + size - 1
        await store.commit(
            appending(topic, 1, first, last, puts={"count": b"%d" % last}, messages=[Message(topic, b"%d" % last)])
        )
        print(topic, last, flush=True)
        first = last + 1


async def work(store: Store, name: str) -> None:
    """Claims and finishes topics until there are no more."""
    while claims := await store.claim(
        [QUEUE], holder="somebody", limit=2, lease_seconds=LONG_SECONDS, wait_seconds=1.0
    ):
        for claim in claims:
            topic, attempt = claim.topic, claim.head.attempt
            await store.commit(appending(topic, attempt, 1, 3, puts={"worker": name.encode()}))
            await store.commit(Commit(topic, attempt=attempt, schedule=Schedule.KEEP, puts={"half": b"1"}))
            await finish(store, topic, attempt, 4, messages=[Message("finished", topic.encode())])
            print(topic, attempt, flush=True)


async def main(url: str, task: str, name: str) -> None:
    async with open_store(url) as store:
        await {"append": append_for_ever, "work": work}[task](store, name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
