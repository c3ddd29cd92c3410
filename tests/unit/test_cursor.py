"""Cursors: opaque, short, bound to one run, and never read wrongly when damaged."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.cursor import MAX_CURSOR_LENGTH, CursorCodec
from runwire.errors import CursorMalformed, CursorMismatch, InvalidRequest
from runwire.pubsub import Position

TOPIC = "default/run"
POSITIONS = st.builds(
    Position,
    epoch=st.binary(min_size=8, max_size=8).map(bytes.hex),
    sequence=st.integers(min_value=0, max_value=2**63 - 1),
    check=st.one_of(st.just(b""), st.binary(min_size=8, max_size=8).filter(any)),
)
POSITION = Position("0123456789abcdef", 42, b"checksum")


@given(POSITIONS, st.text(min_size=1, max_size=50))
def test_a_cursor_is_its_position(position: Position, topic: str) -> None:
    """Every position of every topic comes back, from a short string that needs no escaping in a URL."""
    codec = CursorCodec(topic)
    cursor = codec.encode(position)
    assert codec.decode(cursor) == position
    assert len(cursor) == 50
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)


@given(POSITIONS, st.text(min_size=1), st.text(min_size=1))
def test_a_cursor_of_another_run(position: Position, topic: str, other: str) -> None:
    """Another topic's cursor is told from one that is no cursor at all."""
    cursor = CursorCodec(topic).encode(position)
    if topic != other:
        with pytest.raises(CursorMismatch):
            CursorCodec(other).decode(cursor)


@given(POSITIONS, st.integers(min_value=0, max_value=49), st.integers(min_value=0, max_value=127).map(chr))
def test_a_changed_character_is_noticed(position: Position, place: int, character: str) -> None:
    """Whatever single character is replaced, the cursor is refused, or still means the same."""
    codec = CursorCodec(TOPIC)
    cursor = codec.encode(position)
    changed = cursor[:place] + character + cursor[place + 1 :]
    try:
        # The last character carries two bits that belong to no byte.
        assert codec.decode(changed) == position
    except CursorMalformed:
        assert changed != cursor
    else:
        assert changed == cursor or place == 49


@given(st.integers(min_value=0, max_value=49))
def test_a_cut_cursor_is_refused(length: int) -> None:
    """No beginning of a cursor is a cursor."""
    with pytest.raises(CursorMalformed):
        CursorCodec(TOPIC).decode(CursorCodec(TOPIC).encode(POSITION)[:length])


@given(st.text())
def test_text_is_no_cursor(text: str) -> None:
    """Arbitrary text, of any script and length, is CursorMalformed and never another error."""
    with pytest.raises(CursorMalformed):
        CursorCodec(TOPIC).decode(text)


@given(st.binary(max_size=200))
def test_bytes_are_no_cursor(data: bytes) -> None:
    """Neither is the base64 of arbitrary bytes."""
    with pytest.raises(CursorMalformed):
        CursorCodec(TOPIC).decode(base64.urlsafe_b64encode(data).decode())


def test_an_unknown_version_is_refused() -> None:
    """A cursor of a later version is not guessed at."""
    cursor = CursorCodec(TOPIC).encode(POSITION)
    data = base64.urlsafe_b64decode(cursor + "==")
    later = base64.urlsafe_b64encode(b"\x02" + data[1:]).rstrip(b"=").decode()
    with pytest.raises(CursorMalformed, match="version"):
        CursorCodec(TOPIC).decode(later)


def test_a_long_cursor_is_refused_unread() -> None:
    """More than a cursor can have is not decoded."""
    with pytest.raises(CursorMalformed, match="255"):
        CursorCodec(TOPIC).decode("A" * (MAX_CURSOR_LENGTH + 1))


def test_the_violation_names_the_field() -> None:
    """The error says which field of the request held it."""
    with pytest.raises(InvalidRequest) as caught:
        CursorCodec(TOPIC).decode("?", field="start.cursor")
    assert list(caught.value.violations) == ["start.cursor"]
