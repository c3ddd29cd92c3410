"""A proxy before a Redis server that loses what a test tells it to lose."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Any

from hiredis import Reader, pack_command

Command = list[bytes]


class Fate(Enum):
    """What becomes of a command."""

    PASS = "it reaches the server, and its reply the client"
    LOSE_COMMAND = "the connection is cut before the server sees it"
    LOSE_REPLY = "the server carries it out, and the connection is cut before the client knows"
    SWALLOW = "it goes nowhere, and the connection stays"


class Proxy:
    """Forwards command by command. `judge` decides on each; bytes from it are the reply, instead of the server's."""

    def __init__(self, target_port: int) -> None:
        self.judge: Callable[[Command], Fate | bytes] = lambda command: Fate.PASS
        self.commands: list[Command] = []
        self.hold: Callable[[Command], bool] = lambda command: False
        """Whether replies from this command on wait for `release`; `holding` is set then."""
        self.holding = asyncio.Event()
        self.release = asyncio.Event()
        self.delay_seconds = 0.0
        """Of every reply."""
        self.bytes_a_second = 0
        """How fast the way to the server is; 0: as fast as it can."""
        self.connections = 0
        self.port = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port))
        # Small, so that a slow way holds up the client, and not a buffer of megabytes between.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self._server = await asyncio.start_server(self._serve, sock=listening)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses connections from now on and cuts those there are; `start` opens the same port again."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def fail_over(self, target_port: int) -> None:
        """From now on this is the way to another server."""
        self._target_port = target_port
        self.cut()

    def cut(self) -> None:
        """Cuts every connection."""
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._open |= {writer, server_writer}
        with suppress(OSError):
            async with asyncio.TaskGroup() as tasks:
                lose, held = asyncio.Event(), asyncio.Event()
                tasks.create_task(self._forward(reader, writer, server_writer, lose, held))
                tasks.create_task(self._return(server_reader, writer, server_writer, lose, held))
        self._open -= {writer, server_writer}
        writer.transport.abort()
        server_writer.transport.abort()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
        lose: asyncio.Event,
        held: asyncio.Event,
    ) -> None:
        parser = Reader()
        while data := await reader.read(65536):
            if self.bytes_a_second:
                await asyncio.sleep(len(data) / self.bytes_a_second)
            parser.feed(data)
            command: Any
            while (command := parser.gets()) is not False:
                self.commands.append(command)
                if self.hold(command):
                    held.set()
                    self.holding.set()
                fate = self.judge(command)
                if isinstance(fate, bytes):
                    writer.write(fate)
                elif fate is Fate.LOSE_COMMAND:
                    writer.transport.abort()
                else:
                    if fate is Fate.LOSE_REPLY:
                        lose.set()
                    if fate is not Fate.SWALLOW:
                        server.write(pack_command(tuple(command)))
        server.transport.abort()

    async def _return(
        self,
        server: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_writer: asyncio.StreamWriter,
        lose: asyncio.Event,
        held: asyncio.Event,
    ) -> None:
        while data := await server.read(65536):
            if lose.is_set():
                writer.transport.abort()
                server_writer.transport.abort()
                return
            await asyncio.sleep(self.delay_seconds)
            if held.is_set():
                await self.release.wait()
                held.clear()
            writer.write(data)
        writer.transport.abort()


@asynccontextmanager
async def proxied(target_port: int) -> AsyncIterator[Proxy]:
    """A proxy before the server on a port."""
    proxy = Proxy(target_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


def once(fate: Fate | bytes, *words: bytes) -> Callable[[Command], Fate | bytes]:
    """`fate` for the first command in which these words occur; all others pass."""
    done = False

    def judge(command: Command) -> Fate | bytes:
        nonlocal done
        if done or not all(any(word in part for part in command) for word in words):
            return Fate.PASS
        done = True
        return fate

    return judge
