"""Channels to one service, replaced when a connection is found dead.

A frozen peer keeps its connection open, and every new call on the same channel would wait in it. A client that notices
asks for another channel; the old one is closed when its last call has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from runwire.errors import ClientClosed, FrameUnreadable

Metadata = Sequence[tuple[str, str | bytes]]
"""Sent with every call, such as `[("authorization", "Bearer ...")]`."""

MetadataSource = Metadata | Callable[[], Metadata]
"""Fixed, or asked for at every call, for tokens that expire."""

C = TypeVar("C")

_OPTIONS: Final[Mapping[str, str | int]] = {
    # The library decides when to try again; gRPC's own pauses between connections (1 s to 120 s) would come on top.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    # Also the limit of one attempt to connect: a frozen peer accepts connections and says nothing on them.
    "grpc.min_reconnect_backoff_ms": 5000,
    # A new channel is a new connection, not the old one under another name.
    "grpc.use_local_subchannel_pool": 1,
}


def channel_options(own: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Options of a channel; those of the caller win."""
    return list({**_OPTIONS, **dict(own)}.items())


def call_metadata(source: MetadataSource) -> list[tuple[str, str | bytes]]:
    """What to send with one call."""
    return list(source() if callable(source) else source)


@dataclass(eq=False)
class Lease(Generic[C]):
    """One channel with the stub made for it, in the hands of `users` calls."""

    channel: C
    stub: Any
    users: int = field(default=0)
    retired: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for what the service sent, where that does not parse."""

    problem: str


class Readable:
    """A channel as stubs use it. gRPC would log what does not parse, and then give nothing, as at the end of a stream;
    here the caller gets Unreadable."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def unary_unary(self, method: str, serialize: Any = None, deserialize: Any = None, **more: Any) -> Any:
        return self._make(self._channel.unary_unary, method, serialize, deserialize, more)

    def unary_stream(self, method: str, serialize: Any = None, deserialize: Any = None, **more: Any) -> Any:
        return self._make(self._channel.unary_stream, method, serialize, deserialize, more)

    @staticmethod
    def _make(make: Any, method: str, serialize: Any, deserialize: Any, more: dict[str, Any]) -> Any:
        # The generated stubs name them so.
        serialize = more.pop("request_serializer", serialize)
        deserialize = more.pop("response_deserializer", deserialize)
        return make(method, request_serializer=serialize, response_deserializer=_or_unreadable(deserialize), **more)


def _or_unreadable(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception as error:
            return Unreadable(str(error))

    return read


def readable(answer: Any, target: str) -> Any:
    """What the service sent. Raises FrameUnreadable where that does not parse."""
    if isinstance(answer, Unreadable):
        raise FrameUnreadable(f"what {target} sent cannot be read: {answer.problem}")
    return answer


class Channels(Generic[C]):
    """The present channel of a client. Safe to use from several threads."""

    def __init__(self, connect: Callable[[], C], stub: Callable[[Any], Any]) -> None:
        self._connect = connect
        self._stub = stub
        self._present: Lease[C] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def acquire(self) -> Lease[C]:
        """The channel for one call, until `release`. Raises ClientClosed."""
        with self._lock:
            if self._closed:
                raise ClientClosed("this client is closed")
            if self._present is None:
                channel = self._connect()
                self._present = Lease(channel, self._stub(Readable(channel)))
            self._present.users += 1
            return self._present

    def release(self, lease: Lease[C], *, broken: bool = False) -> C | None:
        """Ends a call; `broken` says that the connection must not be used again. Returns a channel to close."""
        with self._lock:
            lease.users -= 1
            if broken:
                lease.retired = True
                if self._present is lease:
                    self._present = None
            return lease.channel if lease.retired and lease.users == 0 else None

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._closed

    def close(self) -> C | None:
        """Refuses further calls. Returns the present channel, to be closed."""
        with self._lock:
            lease, self._present, self._closed = self._present, None, True
        return None if lease is None else lease.channel
