"""A worker that never gives up: it claims, writes until the store refuses it, and tells on its output what it did.

    python -m tests.redis.stale_writer URL LEASE_SECONDS

One line for each claim, `claimed TOPIC ATTEMPT`, and one when it is refused, `fenced TOPIC SEQUENCE`: the first event
that it could not write. It ignores that its lease is lost, so that nothing but the store stops it.
"""

from __future__ import annotations

import asyncio
import sys

from runwire.connect import open_store
from runwire.errors import Fenced, LogClosed, SequenceHole
from runwire.pubsub import Claim, Store
from tests.conformance.logs import QUEUE, appending


async def write_until_refused(store: Store, claim: Claim, lease_seconds: float) -> int:
    topic, attempt, sequence = claim.topic, claim.head.attempt, 1
    while True:
        try:
            await store.commit(appending(topic, attempt, sequence, sequence, f"attempt {attempt}", token=claim.token))
        except (Fenced, LogClosed, SequenceHole) as refusal:
            print("fenced" if isinstance(refusal, Fenced) else type(refusal).__name__, topic, sequence, flush=True)
            return sequence
        await store.extend([claim.lease], lease_seconds=lease_seconds)
        sequence += 1


async def main(url: str, lease_seconds: float) -> None:
    async with open_store(url) as store:
        while True:
            for claim in await store.claim(
                [QUEUE], holder="somebody", limit=1, lease_seconds=lease_seconds, wait_seconds=5.0
            ):
                print("claimed", claim.topic, claim.head.attempt, flush=True)
                await write_until_refused(store, claim, lease_seconds)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
