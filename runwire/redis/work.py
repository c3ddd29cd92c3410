"""Topics that are due, and the leases of those who claimed them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from runwire.pubsub import Claim, Commit, LeaseState, Schedule
from runwire.redis.client import Client
from runwire.redis.commits import words_of
from runwire.redis.doorbells import POLL_SECONDS, Doorbells
from runwire.redis.link import Reply
from runwire.redis.records import fields_of, head_of, microseconds, seconds
from runwire.redis.scripts import CLAIM, COMMIT, DUE, EXTEND
from runwire.redis.shards import Shards, all_at_once, those_that_answer


class Work:
    """`claim` and `extend` of the store."""

    def __init__(self, client: Client, shards: Shards, doorbells: Doorbells) -> None:
        self._client = client
        self._shards = shards
        self._doorbells = doorbells

    async def claim(
        self, queues: Sequence[str], limit: int, lease_seconds: float, wait_seconds: float
    ) -> Sequence[Claim]:
        return await self._doorbells.wait_for(
            "due", queues, wait_seconds, lambda: self._claim(queues, limit, lease_seconds)
        )

    async def _claim(self, queues: Sequence[str], limit: int, lease_seconds: float) -> tuple[Sequence[Claim], float]:
        """Claims, and the seconds until there may be more."""
        parts = {0: limit} if len(self._shards) == 1 else await self._share_out(queues, limit)
        if not parts:
            return [], POLL_SECONDS
        replies: list[Reply] = []

        async def claim_in(shard: int, part: int) -> None:
            words = (self._shards.prefix(shard), part, microseconds(lease_seconds))
            replies.append(
                await self._client.run(
                    CLAIM,
                    shard,
                    self._shards.due(shard, queues),
                    words,
                    repeatable=False,
                    unclaimed=self._hand_back,
                )
            )

        try:
            await those_that_answer(claim_in(shard, part) for shard, part in parts.items())
        except BaseException:  # cancelled, perhaps, while one of several shards had not answered yet
            for reply in replies:
                self._hand_back(reply)
            raise
        claims = [claim for reply in replies for claim in _claims_of(reply)]
        claims.sort(key=lambda claim: claim[0])
        waits = [seconds(reply[1]) for reply in replies if reply[1]]
        return [claim for _, claim in claims], min(waits, default=POLL_SECONDS)

    async def _share_out(self, queues: Sequence[str], limit: int) -> Mapping[int, int]:
        """How many topics to claim in each shard, so that they are those due longest in all."""

        async def due_in(shard: int) -> tuple[int, Reply]:
            return shard, await self._client.run(DUE, shard, self._shards.due(shard, queues), (limit,))

        found = await those_that_answer(due_in(shard) for shard in self._shards)
        times = sorted((int(time), shard) for shard, reply in found for time in reply)
        return Counter(shard for _, shard in times[:limit])

    def _hand_back(self, reply: Reply) -> None:
        """Ends the leases of claims that came too late for a caller that was cancelled."""
        for _, claim in _claims_of(reply):
            commit = Commit(claim.topic, attempt=claim.head.attempt, schedule=Schedule.DUE)
            shard = self._shards.of(claim.topic)
            names = self._shards.topic(claim.topic)
            self._client.run_unheard(COMMIT, shard, names, words_of(self._shards.prefix(shard), commit))

    async def extend(self, leases: Sequence[tuple[str, int]], lease_seconds: float) -> Sequence[LeaseState]:
        states = [LeaseState.LOST] * len(leases)
        shards = self._shards.by_shard([topic for topic, _ in leases])
        replies = await all_at_once(
            self._client.run(
                EXTEND,
                shard,
                [self._shards.head(leases[i][0]) for i in places],
                (
                    self._shards.prefix(shard),
                    microseconds(lease_seconds),
                    *(word for i in places for word in leases[i]),
                ),
            )
            for shard, places in shards.items()
        )
        for places, reply in zip(shards.values(), replies, strict=True):
            for i, state in zip(places, reply, strict=True):
                states[i] = LeaseState(state.decode())
        return states


def _claims_of(reply: Reply) -> Sequence[tuple[int, Claim]]:
    """The claims that lua/claim.lua returned, each with the time at which it was due."""
    now = seconds(reply[0])
    return [
        (int(due), Claim(topic.decode(), head_of(head), int(losses), fields_of(pairs), now))
        for topic, head, losses, pairs, due in reply[2:]
    ]
