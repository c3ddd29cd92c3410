"""Commits that append events and do nothing else: those of one turn of the event loop go out in one script call.

A way that is often there, and never needed. Whatever it cannot do, because there is no connection, the server refuses
or something is not as usual, it leaves to the caller, who commits the same again by lua/commit.lua: that tells what is
wrong, and a commit with events takes effect once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Final

from runwire.errors import StoreUnavailable
from runwire.pubsub import Commit, Committed, Head, Schedule
from runwire.redis.client import Client
from runwire.redis.link import Reply, ReplyError, Word
from runwire.redis.records import pack, seconds, understood
from runwire.redis.scripts import APPEND
from runwire.redis.shards import Shards
from runwire.topic import entry_of

_MAX_COMMITS: Final = 64
_MAX_BYTES: Final = 256 * 1024
"""Of one call, while which the server does nothing else."""

Done = asyncio.Future[Committed | None]
"""None: it was not done, as far as one can tell."""


def is_append(commit: Commit) -> bool:
    """Whether it appends events and does nothing else."""
    return not (
        not commit.events
        or commit.final
        or commit.progress
        or commit.puts
        or commit.schedule is not Schedule.KEEP
        or commit.indexes
        or commit.leaves
        or commit.deletes
        or commit.messages
        or commit.puts_once
        or commit.create
        or commit.due_in
    )


class _Call:
    """What goes out together."""

    def __init__(self, prefix: str) -> None:
        self.commits: list[tuple[Commit, Done]] = []
        self.size = 0
        self.keys: list[str] = []
        self.words: list[Word] = [prefix]


class Appends:
    """Gathers them, by shard."""

    def __init__(self, client: Client, shards: Shards) -> None:
        self._client = client
        self._shards = shards
        self._calls: dict[int, _Call] = {}

    def add(self, commit: Commit) -> Done:
        """It goes out when this turn of the event loop is over. To be awaited at once."""
        loop = asyncio.get_running_loop()
        shard = self._shards.of(commit.topic)
        call = self._calls.get(shard)
        if call is None:
            call = self._calls[shard] = _Call(self._shards.prefix(shard))
            loop.call_soon(self._send, shard, call)
        done: Done = loop.create_future()
        call.commits.append((commit, done))
        call.keys += self._shards.head_and_log(shard, commit.topic)
        call.words += (commit.topic, commit.attempt or 0, commit.token, pack(commit))
        call.size += len(commit.events)
        if len(call.commits) == _MAX_COMMITS or call.size >= _MAX_BYTES:
            self._send(shard, call)
        return done

    def _send(self, shard: int, call: _Call) -> None:
        if self._calls.get(shard) is not call:
            return  # it was full, and has gone
        del self._calls[shard]
        reply = self._client.send(APPEND, shard, call.keys, call.words)
        if reply is None:
            _leave(call)
        else:
            reply.add_done_callback(partial(self._take, shard, call))

    def _take(self, shard: int, call: _Call, reply: asyncio.Future[Reply]) -> None:
        error = reply.exception()
        if error is None:
            with suppress(StoreUnavailable), understood():
                _tell(call, reply.result())
        elif isinstance(error, ReplyError) and error.code == "NOSCRIPT":
            self._client.teach(APPEND, shard)
        _leave(call)


def _tell(call: _Call, reply: Reply) -> None:
    now = seconds(reply[0])
    for (commit, done), what in zip(call.commits, reply[1:], strict=True):
        if what and not done.done():
            epoch, earliest, created = what[0].decode(), int(what[1]), seconds(what[2])
            head = Head(epoch, commit.attempt or 0, earliest, commit.last, commit.check, 0, False, created, 0.0)
            done.set_result(Committed(head, entry_of(commit, epoch), now))


def _leave(call: _Call) -> None:
    """Leaves what was not done to those who wait for it."""
    for _, done in call.commits:
        if not done.done():
            done.set_result(None)
