"""The frames of WatchRun, as bytes: events leave as they were stored."""

from __future__ import annotations

from typing import cast

from runwire.agent.v1 import agent_service_pb2, run_pb2
from runwire.batch import Batch
from runwire.caching_pubsub import CaughtUp, Ended, Gap, Idle, Item, Opened
from runwire.cursor import CursorCodec
from runwire.errors import ServerDraining, StreamMaxAge
from runwire.frames import varint
from runwire.times import duration


class Frames:
    """Cursors and frames of what is sent. The newest batch is kept: readers of one log take it one after the other."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._topic = b""
        self._made = "", b""

    def of(self, item: Item, codec: CursorCodec, heartbeat: float) -> tuple[str, bytes]:
        """The cursor after an item, and its frame."""
        if not isinstance(item, Batch):
            cursor = codec.encode(item.position)
            return cursor, _other_frame(item, cursor, heartbeat)
        last = self._batch
        if last is None or item.body is not last.body or item.position != last.position or codec.topic != self._topic:
            cursor = codec.encode(item.position)
            self._made = cursor, _batch_frame(item.body, cursor)
            self._batch, self._topic = item, codec.topic
        return self._made


def _other_frame(item: Opened | CaughtUp | Idle | Gap | Ended, cursor: str, heartbeat: float) -> bytes:
    response = agent_service_pb2.WatchRunResponse(cursor=cursor)
    if isinstance(item, Opened):
        response.opened.epoch = item.head.epoch
        response.opened.resumed = item.position.sequence > 0
        response.opened.earliest_sequence = item.head.earliest if item.head.last else 0
        response.opened.latest_sequence = item.head.last
        response.opened.heartbeat_interval.CopyFrom(duration(heartbeat))
    elif isinstance(item, CaughtUp):
        response.caught_up.SetInParent()
    elif isinstance(item, Idle):
        response.heartbeat.send_time.GetCurrentTime()
    elif isinstance(item, Gap):
        response.gap.first_sequence, response.gap.last_sequence = item.first, item.last
    else:
        response.ended.state = cast(run_pb2.RunState, item.final)
        response.ended.last_sequence = item.position.sequence
    return response.SerializeToString()


def _batch_frame(body: bytes, cursor: str) -> bytes:
    """WatchRunResponse{cursor = 1, batch = 3: Batch{events}}, around events that stay as they are."""
    return b"\x0a" + varint(len(cursor)) + cursor.encode("ascii") + b"\x1a" + varint(len(body)) + body


def closing(error: ServerDraining | StreamMaxAge, cursor: str) -> bytes:
    """The last frame of a stream that the server ends."""
    draining = isinstance(error, ServerDraining)
    response = agent_service_pb2.WatchRunResponse(cursor=cursor)
    response.closing.reason = (
        agent_service_pb2.CLOSE_REASON_DRAINING if draining else agent_service_pb2.CLOSE_REASON_MAX_AGE
    )
    response.closing.retry_delay.CopyFrom(duration(error.retry_delay_seconds))
    return response.SerializeToString()
