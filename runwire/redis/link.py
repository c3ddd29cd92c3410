"""One connection to a Redis server, shared by everybody in the process.

Commands of one turn of the event loop go out in one write, and replies come back in order, so any number of callers
share one connection and nobody waits for another's round trip. RESP2, parsed by hiredis. This takes the place of
redis-py: a script call costs a third of its CPU with one caller and a tenth with twenty (docs/redis.md), and a
cancelled call leaves the connection as it was.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import ssl
import sys
import termios
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from hiredis import ProtocolError, Reader, pack_command

logger = logging.getLogger(__name__)

Word = str | bytes | int | float
Reply = Any
"""bytes, int, None, or a list of these."""

_CHECKS_A_TIMEOUT: Final = 4
_FULL: Final = "ERR max number of clients reached"
_NONE_YET: Final = object()


class LinkLost(Exception):
    """The connection is gone, or could not be made."""


class ReplyError(Exception):
    """The server's refusal of a command. Scripts of Redis 6.2 wrap it: `code` is the inner one."""

    @property
    def code(self) -> str:
        text = str(self)
        if "attempted to access a non local key" in text:
            return "TRYAGAIN"  # what commands outside scripts get while a cluster moves a slot
        if text.startswith("ERR Error running script"):
            text = text.rsplit(": -", 1)[-1]
        return text.split(" ", 1)[0]


@dataclass(frozen=True)
class Address:
    """Where a server listens: host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Access:
    """How to be let in. No secret of it is ever shown."""

    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    timeout_seconds: float = 5.0
    """How long a connection may take to be made, and a server to answer."""


class Link(asyncio.Protocol):
    """A live connection. Made by `connect`; once lost it stays lost."""

    def __init__(self, timeout_seconds: float, on_message: Callable[[list[Any]], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(protocolError=ProtocolError, replyError=ReplyError)
        self._timeout = timeout_seconds
        self._on_message = on_message
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._waiting: deque[tuple[asyncio.Future[Reply], int]] = deque()
        """Replies that are owed, each with where in all that was written its command ends."""
        self._writable: asyncio.Event = asyncio.Event()
        self._writable.set()
        self._heard = self._loop.time()
        """When the server last gave a sign of life."""
        self._written = 0
        self._sent = 0
        self._socket: Any = None
        self._watch: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is gone."""

    # For callers

    async def call(self, *words: Word, unclaimed: Callable[[Reply], None] | None = None) -> Reply:
        """Sends a command and returns its reply.

        Raises ReplyError if the server refuses it, LinkLost if the connection goes first: the command may have been
        carried out. Cancelling gives up the reply, not the command; `unclaimed` is called with such a reply.
        """
        if not self._writable.is_set():
            await self._writable.wait()
        reply = self.send(*words)
        if unclaimed is None:
            return await reply
        try:
            return await asyncio.shield(reply)
        except asyncio.CancelledError:
            reply.add_done_callback(lambda done: None if done.exception() else unclaimed(done.result()))
            raise

    def send(self, *words: Word) -> asyncio.Future[Reply]:
        """The same without waiting for a connection that is held up. What one turn of the loop sends goes out
        together, in order."""
        reply: asyncio.Future[Reply] = self._loop.create_future()
        if self.lost.done():
            reply.set_exception(LinkLost("the connection is closed"))
            return reply
        packed = pack_command(words)  # type: ignore[arg-type]  # its stub says a tuple of one
        # Not before: a word that cannot be sent must leave no place for a reply, or all later ones would be shifted.
        if not self._waiting:
            self._heard = self._loop.time()
        self._waiting.append((reply, self._written + len(packed)))
        self._write(packed)
        return reply

    @property
    def writable(self) -> bool:
        """Whether the connection takes more, and is not held up."""
        return self._writable.is_set()

    def write(self, *words: Word) -> None:
        """Sends a command that is answered by messages, and not by a reply."""
        self._write(pack_command(words))  # type: ignore[arg-type]  # its stub says a tuple of one

    def _write(self, packed: bytes) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        self._written += len(packed)

    def close(self) -> None:
        """Ends the connection; calls under way raise LinkLost."""
        if self._transport is not None:
            self._transport.abort()

    # For the event loop

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports are of asyncio's class: uvloop's are not.
        self._transport = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        _keep_alive(self._socket)
        self._check_later()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except ProtocolError as error:
            logger.error("a Redis server sent what is not its protocol: %s", error)
            self.close()

    def _take(self, reply: Reply) -> None:
        if self._on_message is not None and _is_message(reply):
            self._on_message(reply)
            return
        if not self._waiting:
            if isinstance(reply, ReplyError):
                logger.warning("Redis refuses a subscription: %s", reply)
            return
        future, _ = self._waiting.popleft()
        if future.done():  # its caller was cancelled
            return
        if isinstance(reply, ReplyError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._writable.set()
        if not self.lost.done():
            self.lost.set_result(None)
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(LinkLost(f"the connection was lost: {error or 'closed by the server'}"))

    def _check_later(self) -> None:
        self._watch = self._loop.call_later(self._timeout / _CHECKS_A_TIMEOUT, self._check)

    def _check(self) -> None:
        """Gives up on a server that owes a reply and is silent. A connection for messages is asked for a sign."""
        self._note_sent()
        silent = self._loop.time() - self._heard
        if self._waiting and silent > self._timeout:
            logger.warning("a Redis server did not answer for %.1f s: connection closed", silent)
            self.close()
            return
        if self._on_message is not None and not self._waiting and silent > self._timeout:
            # Nobody waits for the answer: what counts is that something comes.
            self.send("PING").add_done_callback(lambda done: done.exception())
        self._check_later()

    def _note_sent(self) -> None:
        """A server is not silent while the command that it owes the next reply to is still on its way out. Others that
        leave behind it are no sign of life: a server that hangs takes them too."""
        sent = self._written - self._unsent()
        if self._waiting and self._sent < self._waiting[0][1] and sent > self._sent:
            self._heard = self._loop.time()
        self._sent = sent

    def _unsent(self) -> int:
        """Bytes that wait here or in the kernel until the other end has taken them."""
        if self._transport is None or self._transport.is_closing():
            return 0
        here = self._transport.get_write_buffer_size() + sum(map(len, self._outgoing))
        try:
            queued = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError, AttributeError):  # not known on this system
            return here
        return here + int.from_bytes(queued, sys.byteorder)


def _keep_alive(peer: Any) -> None:
    """Asks the kernel to notice a peer that is gone. Nagle's algorithm is off already: every loop does that."""
    if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # Options are set on a copy: what uvloop gives out as the socket is none, and has its number only.
    with socket.socket(fileno=os.dup(peer.fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _is_message(reply: Reply) -> bool:
    return isinstance(reply, list) and bool(reply) and reply[0] in _MESSAGES


_MESSAGES: Final = (b"message", b"subscribe", b"unsubscribe")


async def connect(address: Address, access: Access, *, on_message: Callable[[list[Any]], None] | None = None) -> Link:
    """A live connection, authenticated and with its database selected.

    `on_message` makes it one for pub/sub, and takes its messages. Raises LinkLost if the server cannot be reached,
    ReplyError if it does not let us in.
    """
    loop = asyncio.get_running_loop()
    link = Link(access.timeout_seconds, on_message)
    try:
        async with asyncio.timeout(access.timeout_seconds):
            if address.path:
                await loop.create_unix_connection(lambda: link, address.path, ssl=access.tls)
            else:
                await loop.create_connection(lambda: link, address.host, address.port, ssl=access.tls)
            await _greet(link, access)
    except (OSError, TimeoutError) as error:
        link.close()
        raise LinkLost(f"{address} cannot be reached: {error or 'no answer in time'}") from None
    except BaseException:
        link.close()
        raise
    return link


async def _greet(link: Link, access: Access) -> None:
    # All at once and then the answers: one round trip.
    replies = []
    if access.password:
        words = (access.username, access.password) if access.username else (access.password,)
        replies.append(link.send("AUTH", *words))
    if access.database:
        replies.append(link.send("SELECT", access.database))
    replies.append(link.send("PING"))
    for result in await asyncio.gather(*replies, return_exceptions=True):
        if isinstance(result, ReplyError):
            if str(result).startswith(_FULL):
                raise LinkLost("the server has as many clients as it takes")
            raise _without(access.password, result)
        if isinstance(result, BaseException):
            raise result


def _without(password: str, refusal: ReplyError) -> ReplyError:
    # A server that does not know AUTH repeats what it was told, long words cut off.
    text = str(refusal).partition(", with args")[0]
    return ReplyError(text.replace(password, "***") if password else text)
