"""Commits of many topics in one call of a script: each succeeds or fails by itself, and takes effect once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from runwire.connect import open_store
from runwire.errors import Fenced, LogClosed, RunNotFound, RunwireError, SequenceHole
from runwire.pubsub import Commit, Committed, Schedule, Store
from runwire.redis.appends import is_append
from runwire.redis.scripts import APPEND, COMMIT
from tests.conformance.logs import LONG_SECONDS, appending, event, read_all, start
from tests.redis.proxy import Command, Fate, Proxy, once, proxied
from tests.servers import RedisServer, on_every_redis

TOPICS = [f"default/run-{number}" for number in range(150)]
"""More than go into one call."""
APPENDING = APPEND.sha.encode()

Outcome = Committed | BaseException


@pytest.fixture
async def proxy(redis_server: RedisServer, redis_url: str) -> AsyncIterator[Proxy]:
    async with proxied(redis_server.port) as made:
        yield made


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[Store]:
    """With TOPICS, all claimed, and the script known to the server."""
    async with open_store(proxy.url) as opened:
        await asyncio.gather(*(start(opened, topic) for topic in TOPICS))
        claimed = 0
        while claimed < len(TOPICS):
            claimed += len(await opened.claim(["runs"], holder="w", limit=200, lease_seconds=LONG_SECONDS))
        await commit_all(opened, [appending(topic, 1, 1, 1) for topic in TOPICS])
        yield opened


async def commit_all(store: Store, commits: Sequence[Commit]) -> list[Outcome]:
    """In one turn of the event loop."""
    return await asyncio.gather(*(store.commit(commit) for commit in commits), return_exceptions=True)


def counting(proxy: Proxy) -> list[Command]:
    """The script calls that go through, from now on."""
    calls: list[Command] = []
    judge = proxy.judge

    def count(command: Command) -> Fate | bytes:
        if command[0] == b"EVALSHA":
            calls.append(command)
        return judge(command)

    proxy.judge = count
    return calls


async def is_written_once(store: Store, last: int) -> None:
    for topic in TOPICS:
        assert await read_all(store, topic) == [event(sequence) for sequence in range(1, last + 1)], topic


@on_every_redis
async def test_commits_of_one_turn_go_together(proxy: Proxy, store: Store) -> None:
    """A call for every 64 topics, and each caller gets what it would get alone."""
    calls = counting(proxy)
    outcomes = await commit_all(store, [appending(topic, 1, 2, 3) for topic in TOPICS])
    assert [call[1] for call in calls] == [APPENDING] * 3
    heads = await store.heads(TOPICS)
    for outcome, head in zip(outcomes, heads, strict=True):
        assert isinstance(outcome, Committed)
        assert outcome.head == head
        assert outcome.entry is not None
        assert (outcome.entry.first, outcome.entry.last) == (2, 3)
    await is_written_once(store, 3)


@on_every_redis
async def test_one_that_is_refused_harms_no_other(proxy: Proxy, store: Store) -> None:
    """A hole, a lost attempt, a wrong token, a closed log, no log, a repeat: each is told of its own, all others are
    written, and nothing is written of those that are not."""
    await store.commit(appending(TOPICS[4], 1, 2, 2, final=4, retention=LONG_SECONDS, tombstone=LONG_SECONDS))
    odd: dict[int, tuple[Commit, type[RunwireError] | None]] = {
        0: (appending(TOPICS[0], 1, 3, 3), SequenceHole),
        1: (appending(TOPICS[1], 0, 2, 2), Fenced),
        2: (appending(TOPICS[2], 1, 2, 2, token="another"), Fenced),
        3: (appending(TOPICS[3], 1, 2, 2, previous=b"another!"), SequenceHole),
        4: (appending(TOPICS[4], 1, 3, 3), LogClosed),
        5: (appending("default/none", 1, 1, 1), RunNotFound),
        6: (appending(TOPICS[6], 1, 1, 1), None),
    }
    commits = [odd[n][0] if n in odd else appending(topic, 1, 2, 2) for n, topic in enumerate(TOPICS)]
    outcomes = await commit_all(store, commits)
    for number, (topic, outcome) in enumerate(zip(TOPICS, outcomes, strict=True)):
        expected = odd[number][1] if number in odd else None
        if expected is None:
            assert isinstance(outcome, Committed), (topic, outcome)
        else:
            assert isinstance(outcome, expected), (topic, outcome)
        wanted = 1 if number in odd and number not in (4, 5) else 2
        if number != 5:
            assert len(await read_all(store, topic)) == wanted, topic


@pytest.mark.parametrize("fate", [Fate.LOSE_COMMAND, Fate.LOSE_REPLY], ids=lambda fate: fate.name)
@on_every_redis
async def test_a_call_whose_connection_is_lost_is_made_good(fate: Fate, proxy: Proxy, store: Store) -> None:
    """Whether the server did it or not: every commit succeeds, and every event is there once."""
    proxy.judge = once(fate, APPENDING)
    outcomes = await commit_all(store, [appending(topic, 1, 2, 2) for topic in TOPICS])
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    await is_written_once(store, 2)


@pytest.mark.parametrize(
    "reply",
    [b"-OOM command not allowed\r\n", b"-READONLY You can't write\r\n", b"-ERR what\r\n", b"*0\r\n", b"+OK\r\n"],
    ids=lambda reply: reply[:5].decode(),
)
@on_every_redis
async def test_a_call_that_is_refused_is_made_one_by_one(reply: bytes, proxy: Proxy, store: Store) -> None:
    """Whatever the server says to it, or if it says what nobody understands: the usual way decides."""
    proxy.judge = once(reply, APPENDING)
    outcomes = await commit_all(store, [appending(topic, 1, 2, 2) for topic in TOPICS])
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    await is_written_once(store, 2)


@on_every_redis
async def test_a_server_that_has_forgotten_the_script_is_taught_it(
    redis_server: RedisServer, proxy: Proxy, store: Store
) -> None:
    """The commits that meet it are made all the same, and later ones go together again."""
    redis_server.execute("SCRIPT", "FLUSH")
    outcomes = await commit_all(store, [appending(topic, 1, 2, 2) for topic in TOPICS])
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    calls = counting(proxy)
    await commit_all(store, [appending(topic, 1, 3, 3) for topic in TOPICS])
    assert COMMIT.sha.encode() not in [call[1] for call in calls]
    await is_written_once(store, 3)


@on_every_redis
async def test_a_caller_that_leaves_takes_nobody_with_it(store: Store) -> None:
    """Its own commit may have taken effect; those in the same call do."""
    tasks = [asyncio.create_task(store.commit(appending(topic, 1, 2, 2))) for topic in TOPICS]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for number, (topic, outcome) in enumerate(zip(TOPICS, outcomes, strict=True)):
        if number % 3:
            assert isinstance(outcome, Committed), outcome
            assert len(await read_all(store, topic)) == 2
        else:
            assert isinstance(outcome, asyncio.CancelledError)


def test_what_does_more_than_append_goes_alone() -> None:
    """Any field of a commit that the short script does not heed keeps it out of there."""
    plain = appending("default/run", 1, 1, 1)
    assert is_append(plain)
    heeded = {"topic", "attempt", "token", "first", "last", "events", "check", "previous"}
    only_with_others = {"queue", "retention", "tombstone"}
    more = {
        "create": True,
        "indexes": ["list"],
        "leaves": ["list"],
        "puts": {"name": b""},
        "puts_once": {"name": b""},
        "deletes": ["name"],
        "schedule": Schedule.DUE,
        "due_in": 1.0,
        "messages": [object()],
        "progress": True,
        "final": 4,
    }
    assert heeded | only_with_others | set(more) == set(Commit.__dataclass_fields__)
    for name, value in more.items():
        assert not is_append(appending("default/run", 1, 1, 1, **{name: value})), name
