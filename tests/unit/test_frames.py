"""Framing of events: the bytes are those of the protobuf field `repeated RunEvent events = 1`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire import frames
from runwire.agent.v1.agent_service_pb2 import Batch
from runwire.agent.v1.run_event_pb2 import RunEvent

EVENTS = st.lists(st.binary(max_size=300), max_size=20)


def text_event(sequence: int, size: int) -> RunEvent:
    event = RunEvent(sequence=sequence)
    event.text_delta.text = "x" * size
    return event


@given(EVENTS)
def test_events_come_back(events: list[bytes]) -> None:
    """What was framed and joined is found again, and the spans cover the body without a gap."""
    body = b"".join(map(frames.frame, events))
    assert list(frames.events(body)) == events
    offset = 0
    for start, event, end in frames.spans(body):
        assert start == offset
        assert start < event <= end
        offset = end
    assert offset == len(body)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 129, 16_383, 16_384, 2_000_000])
def test_a_body_is_a_protobuf_batch(size: int) -> None:
    """protobuf itself writes the same bytes and reads the joined frames, at every length of the varint."""
    events = [text_event(1, size), text_event(2, 3)]
    body = b"".join(frames.frame(event.SerializeToString()) for event in events)
    assert body == Batch(events=events).SerializeToString()
    assert list(Batch.FromString(body).events) == events


@given(st.integers(min_value=0, max_value=2**40))
def test_varints(value: int) -> None:
    """Seven bits a byte, least significant first, the last byte without the high bit."""
    encoded = frames.varint(value)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded)) == value
    assert all(byte >= 0x80 for byte in encoded[:-1])
    assert encoded[-1] < 0x80


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5), st.data())
def test_a_cut_body_is_noticed(events: list[bytes], data: st.DataObject) -> None:
    """A body that was cut anywhere but between two events raises and never gives a shorter last event."""
    body = b"".join(map(frames.frame, events))
    borders = {0} | {end for _, _, end in frames.spans(body)}
    cut = data.draw(st.sampled_from([place for place in range(len(body)) if place not in borders]))
    with pytest.raises(ValueError, match="cut"):
        list(frames.events(body[:cut]))


@pytest.mark.parametrize("body", [b"\x12\x01a", b"x", b"\x0a\x01a\x00", b"\x0a\xff\xff\xff\xff\xff\xff\x01"])
def test_other_bytes_are_refused(body: bytes) -> None:
    """Another field, or a length of absurd size, is no body."""
    with pytest.raises(ValueError, match="byte"):
        list(frames.spans(body))


def test_checks_tell_events_apart() -> None:
    """Eight bytes that differ where the events differ."""
    checks = {frames.event_check(b"%d" % number) for number in range(1000)}
    assert len(checks) == 1000
    assert {len(check) for check in checks} == {8}
