"""The frames of WatchRun, and the one that is kept for the next reader."""

from __future__ import annotations

from itertools import product

from agent_service.stream_frames import Frames
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.batch import Batch
from runwire.caching_pubsub import CaughtUp, Item
from runwire.cursor import CursorCodec
from runwire.frames import frame
from runwire.pubsub import Position

_BODIES = (frame(b"\x08\x01"), frame(b"\x08\x01") * 2)
_TOPICS = ("acme/one", "acme/two")
_EPOCHS = ("0" * 16, "f" * 16)
_POSITIONS = [Position(*each) for each in product(_EPOCHS, (1, 2), (b"", b"checked1"))]
_ITEMS: list[Item] = [Batch(position, 1, body) for position, body in product(_POSITIONS, _BODIES)]


def test_what_is_kept_is_nobody_elses() -> None:
    """Whatever was made before for whomever, a frame holds its own reader's cursor and its own events, also where other
    logs, epochs and places have the very same bytes."""
    every = list(product(_TOPICS, [*_ITEMS, CaughtUp(_POSITIONS[0])]))
    for before, after in product(every, every):
        frames = Frames()
        for topic, item in (before, after, before):
            cursor, data = frames.of(item, CursorCodec(topic), 10.0)
            assert CursorCodec(topic).decode(cursor) == item.position
            read = pb.WatchRunResponse.FromString(data)
            assert read.cursor == cursor
            assert read.batch.SerializeToString() == (item.body if isinstance(item, Batch) else b"")


def test_readers_of_one_log_share_the_bytes() -> None:
    """The second reader of the same events gets the very frame of the first."""
    frames = Frames()
    position = Position(_EPOCHS[0], 1, b"checked1")
    batches = [Batch(Position(_EPOCHS[0], 1, b"checked1"), 1, _BODIES[0]) for _ in range(2)]
    made = [frames.of(batch, CursorCodec("acme/one"), 10.0)[1] for batch in batches]
    assert made[0] is made[1]
    assert CursorCodec("acme/one").decode(pb.WatchRunResponse.FromString(made[0]).cursor) == position
