"""docs/wire.md is true: its commands are run as they stand, beside Runwire's own consumers."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import time
from pathlib import Path

from runwire.connect import open_store
from runwire.pubsub import Commit, Message
from runwire.scorer.v1.scorer_run_requested_pb2 import ScorerRunRequested
from tests.conformance.logs import LONG_SECONDS
from tests.redis.places import redis_6_2_server  # noqa: F401 - a fixture
from tests.servers import RedisServer, on_every_redis, program

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"
QUEUE = "scorer-requests"
REQUEST = ScorerRunRequested(scorer_run_id="demo").SerializeToString()
MARK = "---- next block ----"


def fenced() -> list[tuple[str, str]]:
    """Language and text of each fenced block of the page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each block of commands, and what it prints: the block of text after it, if there is one."""
    blocks = [*fenced(), ("", "")]
    return [
        (text, blocks[place + 1][1] if blocks[place + 1][0] == "text" else "")
        for place, (language, text) in enumerate(blocks)
        if language == "sh"
    ]


def sql(word: str) -> str:
    """The statement of the page that begins with `word`."""
    (statement,) = (text for language, text in fenced() if language == "sql" and text.startswith(word))
    return statement


def without_ids(output: str) -> str:
    return re.sub(r"\b\d{13}-\d+\b", "ID", output).strip()


def run(script: str, server: RedisServer, folder: Path) -> str:
    """What a shell prints, in which `redis-cli` goes to this server."""
    prelude = f'set -eu -o pipefail\nredis-cli() {{ "{program("redis-cli")}" -p {server.port} "$@"; }}\n'
    done = subprocess.run(["bash", "-c", prelude + script], cwd=folder, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(errors="replace")


@on_every_redis
def test_every_command_of_the_page(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> None:
    """Each block of commands prints what the page says, from top to bottom."""
    said = run(f"\necho '{MARK}'\n".join(command for command, _ in commands()), redis_server, tmp_path).split(MARK)
    assert len(said) >= 7
    for output, (command, expected) in zip(said, commands(), strict=True):
        assert without_ids(output) == without_ids(expected), command


@on_every_redis
async def test_both_work_on_the_same_queue(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> None:
    """What the page's commands send, Runwire receives; what Runwire sends, they take; and neither takes the other's."""
    names, _, send, take, *_ = (command for command, _ in commands())
    async with open_store(redis_url) as store:
        run(names + send, redis_server, tmp_path)
        (delivery,) = await store.receive(QUEUE, consumer="runwire", limit=10, lease_seconds=LONG_SECONDS)
        assert delivery.body == REQUEST
        assert ScorerRunRequested.FromString(delivery.body).scorer_run_id == "demo"
        await store.acknowledge(QUEUE, [delivery.message_id])

        await store.commit(Commit("default/run", create=True, messages=[Message(QUEUE, REQUEST)]))
        run(names + take.replace("BLOCK 5000", ""), redis_server, tmp_path)
        assert (tmp_path / "taken").read_bytes().endswith(REQUEST + b"\n")
        assert await store.receive(QUEUE, consumer="runwire", limit=10, lease_seconds=0.01) == []
        assert await store.backlog(QUEUE) == 1

        # The consumer of the page dies: its lease is in its name.
        await store.commit(Commit("default/other", create=True, messages=[Message(QUEUE, b"other")]))
        run(names.replace(":60000", ":50") + take, redis_server, tmp_path)
        (delivery,) = await store.receive(
            QUEUE, consumer="runwire", limit=10, lease_seconds=LONG_SECONDS, wait_seconds=LONG_SECONDS
        )
        assert (delivery.body, delivery.deliveries) == (b"other", 2)


async def test_the_statements_for_sqlite(tmp_path: Path) -> None:
    """The same for a SQLite file: sent by Runwire and taken by the page, and the other way round."""
    file = tmp_path / "store.db"
    async with open_store(f"sqlite:///{file}") as store:
        await store.commit(Commit("default/run", create=True, messages=[Message(QUEUE, REQUEST)]))
        with sqlite3.connect(file, isolation_level=None) as connection:
            mine = {"me": "python-1"}
            assert connection.execute(sql("UPDATE"), mine | {"now": time.time()}).fetchall() == [(1, REQUEST, 1)]
            assert await store.receive(QUEUE, consumer="runwire", limit=10, lease_seconds=LONG_SECONDS) == []
            assert connection.execute(sql("UPDATE"), mine | {"now": time.time() + 61}).fetchall() == [(1, REQUEST, 2)]
            assert connection.execute(sql("DELETE"), {"id": 1, "me": "python-2"}).rowcount == 0
            assert connection.execute(sql("DELETE"), {"id": 1, "me": "python-1"}).rowcount == 1
            assert await store.backlog(QUEUE) == 0
            connection.execute(sql("INSERT"), {"body": REQUEST})
        connection.close()
        (delivery,) = await store.receive(QUEUE, consumer="runwire", limit=10, lease_seconds=LONG_SECONDS)
        assert (delivery.body, delivery.deliveries) == (REQUEST, 1)
