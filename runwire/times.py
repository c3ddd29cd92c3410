"""Times and durations of messages, as seconds. A time is rounded to the microsecond: as fine as any client shows it."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the Unix epoch as a Timestamp."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    span = Duration()
    span.FromMicroseconds(round(seconds * 1e6))
    return span


def seconds_of(time: Timestamp | Duration) -> float:
    """A Timestamp as seconds since the Unix epoch, a Duration as seconds."""
    return time.ToNanoseconds() / 1e9


def microseconds_of(time: Timestamp) -> float:
    """A Timestamp as seconds since the Unix epoch, without what is finer than a microsecond: to be compared with times
    that were given to a client."""
    return time.ToMicroseconds() / 1e6
