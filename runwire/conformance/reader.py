"""A client under test: a process that is told what to watch, and reports what it does, in lines of JSON.

docs/conformance.md has the lines. The process serves one request after the other; it is restarted after it was
killed in the middle of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final

from runwire.conformance.transcript import Died, Ended, Event, Failed, Handled, Line, Saved, Session, Stuck, place
from runwire.errors import ConfigurationError
from runwire.scorer_requests import topic_of

_LISTEN_SECONDS: Final = 0.03
"""How long to listen whether a client continues although it should wait."""
_MAX_LINE_BYTES: Final = 4 * 1024 * 1024


class Reader:
    """Drives one client's processes."""

    def __init__(
        self, command: str, patience_seconds: float, tenant: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment`: variables that the processes get beside our own."""
        self._tenant = tenant
        self._command = _split(command)
        self._environment = {**os.environ, **(environment or {})}
        self._patience_seconds = patience_seconds
        self._process: asyncio.subprocess.Process | None = None

    async def watch(self, request: dict[str, Any], *, start: int, dies: Callable[[int], bool] | None = None) -> Session:
        """Lets the client watch until it reports the end or an error, is stuck or dead, or `dies` says that it is to
        be killed at an event, before that is handled. `request` has target, run_id and cursor."""
        session = Session(start)
        if self._process is None:
            await self.start()
        await self._send({"op": "watch", **request})
        while True:
            line = await self._read(request["run_id"], self._patience_seconds)
            session.lines.append(line)
            if isinstance(line, Stuck | Died):
                await self.kill()
                return session
            if isinstance(line, Ended | Failed):
                session.lines += await self._last_words(request["run_id"])
                return session
            if isinstance(line, Event):
                if dies is not None and dies(line.sequence):
                    session.lines += await self._last_words(request["run_id"])
                    await self.kill()
                    return session
                session.lines.append(Handled(line.sequence))
                await self._send({"op": "ack"})

    async def start(self) -> None:
        """Starts the client's process. Raises ConfigurationError if there is no such program."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MAX_LINE_BYTES,
                env=self._environment,
                # A Ctrl-C goes to the kit, which ends its clients itself.
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigurationError(f"cannot start {self._command[0]!r}: {error.strerror}") from None

    async def kill(self) -> None:
        """Ends the process, if there is one, as a crash does."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # A client that died is found out by reading.
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()

    async def _last_words(self, run_id: str) -> list[Line]:
        """What else the client says although it should wait, for the word that an event is handled or for a request."""
        words: list[Line] = []
        while not isinstance(line := await self._read(run_id, _LISTEN_SECONDS), Stuck | Died):
            words.append(line)
        return words

    async def _read(self, run_id: str, seconds: float) -> Line:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                raw = await self._process.stdout.readline()
        except TimeoutError:
            return Stuck(seconds)
        except ValueError:
            return Died(f"it wrote a line of more than {_MAX_LINE_BYTES} bytes")
        if not raw:
            return Died(f"its process ended with exit code {await self._process.wait()}")
        return parse_line(raw, topic_of(self._tenant, run_id))


def _split(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"the command {command!r} cannot be read: {error}") from None
    if not words:
        raise ConfigurationError("the command is empty")
    return words


def parse_line(raw: bytes, topic: str) -> Line:
    """What a client said."""
    try:
        said = json.loads(raw)
        if "event" in said:
            return Event(**said["event"])
        if "cursor" in said:
            position = place(topic, said["cursor"])
            return Saved(said["cursor"], -1 if position is None else position.sequence)
        if "ended" in said:
            return Ended(said["ended"])
        return Failed(said["error"])
    except (ValueError, TypeError, KeyError):
        return Died(f"it wrote {raw[:200].decode(errors='replace').rstrip()!r}, which is no line of the protocol")
