"""Metrics as Prometheus reads them: text, served over HTTP."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from runwire import metrics
from runwire.errors import ConfigurationError

PATH: Final = "/metrics"
_REQUEST_SECONDS: Final = 5.0
_MOST_LINES: Final = 100
_MOST_AT_ONCE: Final = 8
_LAG_SECONDS: Final = 1.0
_UNITS: Final = {"s": "seconds", "By": "bytes"}

log = logging.getLogger("runwire.metrics")


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[str]:
    """While the block runs this process measures, also how late its loop is, and serves what it measured at `address`
    (HOST:PORT; empty: nowhere). Gives the address, with the port that was free where 0 was asked for.

    Does nothing at all where nothing is to be measured. Raises ConfigurationError.
    """
    if not metrics.wanted(address):
        yield ""
        return
    async with AsyncExitStack() as stack:
        reader = stack.enter_context(metrics.measuring())
        lag = _Lag()
        stack.enter_context(metrics.LOOP_LAG.watch(lag.look))
        stack.callback(lag.stop)
        if not address:
            yield ""
            return
        server = await _listen(address, _Answers(reader))
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        host, port = server.sockets[0].getsockname()[:2]
        log.info("metrics are at http://%s:%d%s", host, port, PATH)
        yield f"{host}:{port}"


async def _listen(address: str, answers: _Answers) -> asyncio.Server:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"metrics: {address!r} is no address; write HOST:PORT, such as 127.0.0.1:9464")
    try:
        return await asyncio.start_server(answers.answer, host.strip("[]"), int(port), limit=8192)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"metrics: cannot listen on {address!r}: {error}") from None


class _Lag:
    """How late the event loop is."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = 0.0
        self._wait()

    def _wait(self) -> None:
        self._due = self._loop.time() + _LAG_SECONDS
        self._next = self._loop.call_at(self._due, self._come)

    def _come(self) -> None:
        self._seconds = max(0.0, self._loop.time() - self._due)
        self._wait()

    def stop(self) -> None:
        self._next.cancel()

    def look(self) -> list[tuple[float, metrics.Labels]]:
        return [(self._seconds, {})]


class _Answers:
    """A server of one page, for scrapers: one request a connection, and few at once."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._open = 0

    async def answer(self, incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                status, body = await self._page(incoming)
                head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                outgoing.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
                await outgoing.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            pass  # whoever it was does not want it any more, or is no scraper
        finally:
            self._open -= 1
            outgoing.close()

    async def _page(self, incoming: asyncio.StreamReader) -> tuple[str, bytes]:
        words = (await incoming.readline()).split()
        for _ in range(_MOST_LINES):
            if not (await incoming.readline()).strip():
                break
        if self._open > _MOST_AT_ONCE:
            return "503 Service Unavailable", b"too many at once\n"
        if len(words) != 3 or words[0] != b"GET":
            return "405 Method Not Allowed", b"GET\n"
        if words[1].split(b"?")[0] != PATH.encode():
            return "404 Not Found", f"{PATH}\n".encode()
        return "200 OK", text_of(self._reader).encode()


def text_of(reader: Any) -> str:
    """All that was measured, in the text format of Prometheus."""
    data = reader.get_metrics_data()
    lines: list[str] = []
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                lines += _lines(metric)
    return "".join(f"{line}\n" for line in lines)


def name_of(instrument: metrics.Instrument) -> str:
    """The name of a metric in Prometheus: with its unit, and `_total` where it counts."""
    name = instrument.name.replace(".", "_")
    if (unit := _UNITS.get(instrument.unit, "")) and not name.endswith(unit):
        name += f"_{unit}"
    return name + ("_total" if instrument.kind == "counter" else "")


_BY_NAME: Final = {instrument.name: instrument for instrument in metrics.INSTRUMENTS}


def _lines(metric: Any) -> Iterator[str]:
    instrument = _BY_NAME.get(metric.name)
    if instrument is None:
        return
    name = name_of(instrument)
    yield f"# HELP {name} {instrument.description}"
    yield f"# TYPE {name} {instrument.kind}"
    for point in metric.data.data_points:
        labels = dict(point.attributes or {})
        if instrument.kind == "histogram":
            yield from _histogram(name, labels, point)
        else:
            yield f"{name}{_labels(labels)} {_number(point.value)}"


def _histogram(name: str, labels: Mapping[str, object], point: Any) -> Iterator[str]:
    total = 0
    for bound, count in zip((*point.explicit_bounds, math.inf), point.bucket_counts, strict=True):
        total += count
        yield f"{name}_bucket{_labels({**labels, 'le': _number(bound)})} {total}"
    yield f"{name}_sum{_labels(labels)} {_number(point.sum)}"
    yield f"{name}_count{_labels(labels)} {point.count}"


def _labels(labels: Mapping[str, object]) -> str:
    parts = ",".join(f'{key}="{_escaped(str(labels[key]))}"' for key in sorted(labels))
    return f"{{{parts}}}" if parts else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
