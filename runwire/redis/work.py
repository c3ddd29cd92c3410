"""Topics that are due, and the leases of those who claimed them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from runwire.errors import StoreUnavailable
from runwire.pubsub import Claim, Commit, Lease, LeaseState
from runwire.redis.client import Client
from runwire.redis.commits import HAND_BACK, words_of
from runwire.redis.doorbells import POLL_SECONDS, Doorbells
from runwire.redis.link import Reply, Word
from runwire.redis.records import fields_of, head_of, microseconds, seconds, understood
from runwire.redis.scripts import CLAIM, COMMIT, DUE, EXTEND, QUEUED
from runwire.redis.shards import Shards, lane_name, those_that_answer
from runwire.turns import Turn, Turns, Wanted, tenant_of

_MAX_POOLS: Final = 1000
CLAIM_PARTS: Final = 4
"""Shards that are claimed in at once."""


@dataclass(slots=True)
class _Part:
    """What is to be claimed in one shard."""

    limit: int = 0
    plan: dict[str, int] = field(default_factory=dict)
    """How many of which tenants; empty: as their turns are."""


class _Due(NamedTuple):
    time: int
    shard: int
    tenant: str


class Work:
    """`claim` and `extend` of the store."""

    def __init__(self, client: Client, shards: Shards, doorbells: Doorbells) -> None:
        self._client = client
        self._shards = shards
        self._doorbells = doorbells
        self._turns: dict[str, Turn] = {}
        """Of each pool, where there are several shards: none of them sees all tenants."""

    async def claim(self, wanted: Wanted, wait_seconds: float) -> Sequence[Claim]:
        return await self._doorbells.wait_for(
            lane_name(wanted.alone), wanted.queues, wait_seconds, lambda: self._claim(wanted)
        )

    async def _claim(self, wanted: Wanted) -> tuple[Sequence[Claim], float]:
        """Claims, and the seconds until there may be more."""
        # Each round claims something, or leaves in at least one shard more no lease that ran out unseen.
        for _ in range(1 + len(self._shards)):
            parts = {0: _Part(wanted.limit)} if len(self._shards) == 1 else await self._share_out(wanted)
            if not parts:
                return [], POLL_SECONDS
            try:
                claims, wait = await self._claim_in(parts, wanted)
            except StoreUnavailable:
                if len(self._shards) == 1:
                    raise
                continue  # they went away in this moment; others have answered
            if len(self._shards) > 1:
                claims = self._in_turn(wanted, claims)
            if claims or len(self._shards) == 1:
                return claims, wait
            # What was due are leases that wait for their grace now, or went to others: there may be more behind them.
        return [], 0.0

    async def _claim_in(self, parts: Mapping[int, _Part], wanted: Wanted) -> tuple[Sequence[Claim], float]:
        """Claims so many in each of these shards, in a few of them at once: each gives one topic, however large."""
        claims: list[tuple[int, Claim]] = []
        waits: list[float] = []
        left_bytes, left = wanted.max_bytes, list(parts)
        while left and (left_bytes > 0 or not claims):
            wave, left = left[:CLAIM_PARTS], left[CLAIM_PARTS:]
            try:
                replies = await self._claim_at_once({shard: parts[shard] for shard in wave}, wanted, left_bytes)
            except StoreUnavailable:
                if not claims and not left:
                    raise
                continue  # what others gave is this caller's, and those that are left may answer
            except BaseException:
                for _, claim in claims:
                    self._give_back(claim)
                raise
            with understood():
                found = [claim for reply in replies for claim in _claims_of(reply)]
                waits += [seconds(reply[1]) for reply in replies if reply[1]]
            left_bytes -= sum(len(value) for _, claim in found for value in claim.fields.values())
            claims += found
        if len(self._shards) > 1:
            claims.sort(key=lambda claim: claim[0])
        return [claim for _, claim in claims], min(waits, default=POLL_SECONDS)

    async def _claim_at_once(self, parts: Mapping[int, _Part], wanted: Wanted, max_bytes: int) -> Sequence[Reply]:
        replies: list[Reply] = []

        async def claim_in(shard: int, part: _Part) -> None:
            numbers = part.plan or wanted.weights
            words: Sequence[Word] = (
                self._shards.prefix(shard),
                part.limit,
                microseconds(wanted.lease_seconds),
                wanted.holder,
                secrets.token_hex(8),
                f"{lane_name(wanted.alone)}:",
                max(1, max_bytes // len(parts)),
                len(wanted.queues),
                "planned" if part.plan else "",
                *wanted.queues,
                *(word for pair in numbers.items() for word in pair),
            )
            replies.append(
                await self._client.poll(
                    CLAIM,
                    shard,
                    [*self._shards.tenants(shard, wanted.queues, wanted.alone), self._shards.turn(shard, wanted.pool)],
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
        return replies

    async def _share_out(self, wanted: Wanted) -> Mapping[int, _Part]:
        """Of which tenants how many topics to claim in each shard: all take turns, and of each those due longest in all
        shards are claimed."""
        turns = Turns(self._turns.get(wanted.pool, Turn()), wanted.weights, lambda tenant, most: due[tenant][:most])
        most = max(wanted.weights.values(), default=1)

        async def due_in(shard: int) -> tuple[int, Reply]:
            words: Sequence[Word] = (
                self._shards.prefix(shard),
                wanted.limit,
                f"{lane_name(wanted.alone)}:",
                turns.turn.tenant,
                most,
                *wanted.queues,
            )
            tenants = self._shards.tenants(shard, wanted.queues, wanted.alone)
            return shard, await self._client.poll(DUE, shard, tenants, words)

        found = await those_that_answer(due_in(shard) for shard in self._shards)
        due: dict[str, list[_Due]] = {}
        with understood():
            for shard, reply in found:
                for name, times in reply:
                    tenant = name.decode()
                    due.setdefault(tenant, []).extend(_Due(int(time), shard, tenant) for time in times)
        for each in due.values():
            each.sort()
        parts: dict[int, _Part] = {}
        left = wanted.limit
        while left and due:
            for picked in turns.round(list(due), left):
                turns.took(picked.tenant)
                part = parts.setdefault(picked.shard, _Part())
                part.limit += 1
                part.plan[picked.tenant] = part.plan.get(picked.tenant, 0) + 1
                due[picked.tenant].remove(picked)
                left -= 1
            due = {tenant: times for tenant, times in due.items() if times}
        return parts

    def _in_turn(self, wanted: Wanted, claims: Sequence[Claim]) -> Sequence[Claim]:
        """What was claimed, given those due longest first: in turn of the tenants. Keeps who had the last turn in
        truth, as a tenant may have had less than was planned."""
        by_tenant: dict[str, list[Claim]] = {}
        for claim in claims:
            by_tenant.setdefault(tenant_of(claim.topic), []).append(claim)
        turns = Turns(
            self._turns.pop(wanted.pool, Turn()), wanted.weights, lambda tenant, most: by_tenant[tenant][:most]
        )
        ordered: list[Claim] = []
        while by_tenant:
            for claim in turns.round(list(by_tenant), len(claims)):
                turns.took(tenant_of(claim.topic))
                by_tenant[tenant_of(claim.topic)].remove(claim)
                ordered.append(claim)
            by_tenant = {tenant: left for tenant, left in by_tenant.items() if left}
        self._turns[wanted.pool] = turns.turn
        if len(self._turns) > _MAX_POOLS:
            del self._turns[next(iter(self._turns))]
        return ordered

    def _hand_back(self, reply: Reply) -> None:
        """Ends the leases of claims that came too late for a caller that was cancelled, or had no more time."""
        for _, claim in _claims_of(reply):
            self._give_back(claim)

    def _give_back(self, claim: Claim) -> None:
        commit = Commit(claim.topic, attempt=claim.head.attempt, token=claim.token)
        shard = self._shards.of(claim.topic)
        words = words_of(self._shards.prefix(shard), commit, HAND_BACK)
        self._client.send_and_forget(COMMIT, shard, self._shards.topic(claim.topic), words)

    async def queued(self, queues: Sequence[str], tenant: str) -> int:
        """Of the shards that answer."""

        async def queued_in(shard: int) -> int:
            return int(await self._client.poll(QUEUED, shard, self._shards.lanes(shard, queues, tenant), ()))

        with understood():
            return sum(await those_that_answer(queued_in(shard) for shard in self._shards)) if queues else 0

    async def extend(self, leases: Sequence[Lease], lease_seconds: float) -> Sequence[LeaseState]:
        states = [LeaseState.UNKNOWN] * len(leases)
        shards = self._shards.by_shard([lease.topic for lease in leases])

        async def extend_in(shard: int, places: Sequence[int]) -> None:
            shown = [leases[i] for i in places]
            reply = await self._client.poll(
                EXTEND,
                shard,
                [self._shards.head(lease.topic) for lease in shown],
                (
                    self._shards.prefix(shard),
                    microseconds(lease_seconds),
                    *(word for lease in shown for word in (lease.topic, lease.attempt, lease.token)),
                ),
            )
            with understood():
                for i, state in zip(places, reply, strict=True):
                    states[i] = LeaseState(state.decode())

        await those_that_answer(extend_in(shard, places) for shard, places in shards.items())
        return states


def _claims_of(reply: Reply) -> Sequence[tuple[int, Claim]]:
    """The claims that lua/claim.lua returned, each with the time at which it was due."""
    now = seconds(reply[0])
    return [
        (
            int(due),
            Claim(topic.decode(), head_of(head), token.decode(), int(losses), int(alone), fields_of(pairs), now),
        )
        for topic, head, token, losses, alone, pairs, due in reply[2:]
    ]
