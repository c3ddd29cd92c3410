"""The Python clients under test: `python -m runwire.conformance.adapter`, with `--sync` for the synchronous one."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from runwire.client import AgentClient, RunEvent, RunState, sync
from runwire.client.access import from_environment
from runwire.conformance.transcript import Event
from runwire.errors import RunwireError


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _event(event: RunEvent) -> dict[str, Any]:
    return {"event": vars(Event.of(event))}


def _arguments(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "after": request["cursor"],
        "heartbeat_seconds": request["heartbeat_seconds"],
        "max_batch_size": request["max_batch_size"],
    }


async def follow(request: dict[str, Any], commands: asyncio.StreamReader) -> None:
    saved = request["cursor"]
    async with (
        AgentClient(request["target"], **from_environment().arguments()) as client,
        client.watch(request["run_id"], **_arguments(request)) as stream,
    ):
        try:
            async for event in stream:
                if stream.cursor != saved:
                    saved = stream.cursor
                    say({"cursor": saved})
                say(_event(event))
                await commands.readline()
            say({"cursor": stream.cursor})
            say({"ended": RunState.Name(stream.state)})
        except RunwireError as error:
            say({"error": error.reason})


async def serve() -> None:
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        await follow(json.loads(line), commands)


def follow_sync(request: dict[str, Any]) -> None:
    saved = request["cursor"]
    with (
        sync.AgentClient(request["target"], **from_environment().arguments()) as client,
        client.watch(request["run_id"], **_arguments(request)) as stream,
    ):
        try:
            for event in stream:
                if stream.cursor != saved:
                    saved = stream.cursor
                    say({"cursor": saved})
                say(_event(event))
                sys.stdin.readline()
            say({"cursor": stream.cursor})
            say({"ended": RunState.Name(stream.state)})
        except RunwireError as error:
            say({"error": error.reason})


def serve_sync() -> None:
    while line := sys.stdin.readline():
        follow_sync(json.loads(line))


if __name__ == "__main__":
    if "--sync" in sys.argv[1:]:
        serve_sync()
    else:
        asyncio.run(serve())
