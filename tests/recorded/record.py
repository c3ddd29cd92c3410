"""`python -m tests.recorded.record`: keeps what this release writes into its stores, for later releases to read.

Run it once for each release, before it is published. Folders of releases are never written again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import redis

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2
from tests.recorded import agents
from tests.redis.places import any_binary
from tests.servers import start_redis
from tests.service.replica import mortal_worker, replica, value

FOLDER: Final = Path(__file__).parent
RETENTION_SECONDS: Final = 10 * 365 * 86400.0
IDS: Final = ("ended", "suspended", "queued", "waiting")
AGENTS: Final = (agents.recorded, agents.talk)


async def fill(url: str) -> None:
    """Leaves one run in each of the states of IDS."""
    async with replica(url, *AGENTS, role="serve") as it:
        started = {}
        for name in IDS:
            request = pb.StartRunRequest(agent_id="recorded", request_id=name, input=value(name))
            if name == "waiting":
                request.agent_id = "recorded-talk"
                request.conversation.SetInParent()
            if name != "queued":
                started[name] = (await it.stub.StartRun(request)).run.run_id
        async with mortal_worker(url, *AGENTS, retention_seconds=RETENTION_SECONDS):
            await it.suspended(started["suspended"])
            await it.suspended(started["ended"])
            await it.resume(started["ended"], answer("well"))
            await it.ended(started["ended"])
            async with it.watch(started["waiting"]) as watch:
                await watch.until_event("turn_finished")
        await it.start("recorded", "queued", request_id="queued")


def answer(text: str) -> run_event_pb2.Answer:
    return run_event_pb2.Answer(request_id="suspend/go on", data=value(text))


def dump(client: redis.Redis) -> list[list[str]]:
    """Commands that make the same keys again. Every word is in base64, as keys and values are any bytes."""
    commands: list[list[Any]] = []
    for key in sorted(client.scan_iter()):
        kind = client.type(key).decode()
        if kind == "hash":
            commands.append(["HSET", key, *(word for pair in sorted(client.hgetall(key).items()) for word in pair)])
        elif kind == "zset":
            places = client.zrange(key, 0, -1, withscores=True)
            commands.append(["ZADD", key, *(word for name, score in places for word in (repr(score), name))])
        elif kind == "set":
            commands.append(["SADD", key, *sorted(client.smembers(key))])
        elif kind == "stream":
            commands += [
                ["XADD", key, entry, *(w for p in fields.items() for w in p)] for entry, fields in client.xrange(key)
            ]
        elif kind == "string":
            commands.append(["SET", key, client.get(key)])
        else:
            raise AssertionError(f"{key!r} is a {kind}")
    return [[base64.b64encode(_bytes(word)).decode() for word in command] for command in commands]


def _bytes(word: str | bytes) -> bytes:
    return word.encode() if isinstance(word, str) else word


def restore(client: redis.Redis, commands: list[list[str]]) -> None:
    """Executes what `dump` gave."""
    for command in commands:
        client.execute_command(*map(base64.b64decode, command))


def main(release: str) -> None:
    """Records both engines."""
    folder = FOLDER / release
    folder.mkdir()
    with tempfile.TemporaryDirectory() as temporary:
        source = f"{temporary}/runs.db"
        asyncio.run(fill(f"sqlite:///{source}"))
        with sqlite3.connect(source) as connection:
            connection.execute("VACUUM INTO ?", (str(folder / "runs.db"),))
    server = start_redis(any_binary())
    try:
        asyncio.run(fill(server.url))
        with redis.Redis(port=server.port) as client:
            (folder / "redis.json").write_text(json.dumps(dump(client), indent=0) + "\n")
    finally:
        server.close()
    print(folder)


if __name__ == "__main__":
    main(sys.argv[1])
