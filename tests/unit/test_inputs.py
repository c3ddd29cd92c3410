"""What programs have at hand as inputs, and files as parts."""

from __future__ import annotations

import base64
import dataclasses
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from runwire import parts
from runwire.agent.v1 import run_pb2
from runwire.client import requests
from runwire.client.inputs import as_value
from runwire.errors import InvalidRequest
from runwire.values import from_value
from scorer_service import Sample


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    name: str
    bought: datetime


@dataclasses.dataclass
class Order:
    items: list[Item]
    at: datetime
    price: Decimal
    colour: Colour = Colour.RED
    note: bytes = b"caf\xc3\xa9"
    tags: frozenset[str] = frozenset({"a"})
    patience: timedelta = timedelta(days=-1, seconds=3, microseconds=5)


ORDER = Order(
    [Item(name="x", bought=datetime(2026, 1, 2, tzinfo=UTC))],
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    Decimal("1.10"),
)


def test_an_order_comes_back_as_it_was() -> None:
    """A dataclass with models, times, decimals, enums, bytes, sets and durations is what the agent's type reads."""
    assert TypeAdapter(Order).validate_python(from_value(as_value(ORDER))) == ORDER


KINDS: dict[Any, st.SearchStrategy[Any]] = {
    datetime: st.datetimes(timezones=st.none() | st.just(UTC)),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(timedelta(days=-90_000), timedelta(days=90_000)),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    UUID: st.uuids(),
    Colour: st.just(Colour.RED),
    bytes: st.text().map(str.encode),
    tuple[int, str]: st.tuples(st.integers(-(2**53), 2**53), st.text()),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "__name__", str(kind)))
def test_each_kind_comes_back(kind: Any) -> None:
    """What is sent is read back by pydantic as the same value of the same type."""

    @given(KINDS[kind])
    def comes_back(value: Any) -> None:
        assert TypeAdapter(kind).validate_python(from_value(as_value(value))) == value

    comes_back()


@pytest.mark.parametrize(
    "value, error, said",
    [
        ({"file": b"\xff\xfe"}, ValueError, r"input\.file is 2 bytes that are no UTF-8 text: .*base64"),
        ([object()], TypeError, r"is 'object'; it must be"),
        ({"a": {1: 2}}, TypeError, "keys must be str"),
        (Item, TypeError, "it must be"),
        (2**53 + 1, ValueError, "lose digits"),
    ],
)
def test_what_would_be_changed_on_the_way(value: Any, error: type[Exception], said: str) -> None:
    """It is refused, by its place, with what to do."""
    with pytest.raises(error, match=said):
        as_value(value)


def test_a_value_inside_itself() -> None:
    """It is refused as too deep."""
    inner: list[Any] = []
    inner.append(inner)
    with pytest.raises(ValueError, match="nested more than 30 deep"):
        as_value(inner)


def start(input: Any) -> Any:
    return requests.start_run("a", input, request_id=None, labels=None, scorers=(), run_timeout=None)


def send(message: Any) -> Any:
    return requests.send_message("r", message, mode="queue", request_id=None)


@pytest.mark.parametrize("ask, field", [(start, "input"), (send, "message")])
def test_what_is_too_large_is_refused_before_it_is_sent(ask: Any, field: str) -> None:
    """By name, with what to do."""
    with pytest.raises(InvalidRequest) as wrong:
        ask(["x", parts.image(b"x" * 900_000, "image/png")])
    assert list(wrong.value.violations) == [field]
    assert "give files by URL" in wrong.value.violations[field]


def test_parts_of_files(tmp_path: Path) -> None:
    """A file is a part of the kind that its name says, and is refused where its name says nothing."""
    for name, kind in (("a.png", "image"), ("a.mp3", "audio"), ("a.mp4", "video"), ("a.pdf", "document")):
        (tmp_path / name).write_bytes(b"\x00\xff")
        part = parts.of_file(tmp_path / name)
        assert (part["type"], base64.b64decode(str(part["data"]))) == (kind, b"\x00\xff")
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(InvalidRequest, match="nobody knows what 'a' is"):
        parts.of_file(tmp_path / "a")
    with pytest.raises(InvalidRequest, match="must be set for the bytes of image"):
        parts.image(b"x")
    assert parts.image("https://e.org/a") == {"type": "image", "url": "https://e.org/a"}


def test_parts_of_messages() -> None:
    """Each kind of InputPart has its object."""
    media = run_pb2.Media(data=b"\x00", media_type="a/b")
    assert parts.of_proto(run_pb2.InputPart(text="t"), "p") == {"type": "text", "text": "t"}
    for kind in ("image", "audio", "video", "document"):
        assert parts.of_proto(run_pb2.InputPart(**{kind: media}), "p") == {  # type: ignore[arg-type]
            "type": kind,
            "data": "AA==",
            "media_type": "a/b",
        }
        url = run_pb2.Media(url="https://e.org")
        assert parts.of_proto(run_pb2.InputPart(**{kind: url}), "p") == {"type": kind, "url": "https://e.org"}  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="holds no content"):
        parts.of_proto(run_pb2.InputPart(), "p")


def test_parts_as_text() -> None:
    """Scorers see the text of parts, and of files their address or kind: no base64, and no names of fields."""
    given = [
        "What?",
        {"type": "text", "text": "And?"},
        parts.image(b"\xff" * 1000, "image/png"),
        parts.audio("https://e.org/a"),
    ]
    assert Sample(input=given).input_text == "What?\nAnd?\n[image image/png]\nhttps://e.org/a"
    for other in ({"type": "text"}, {"type": "refund", "text": "a"}, {"type": "image", "url": "a", "more": 1}):
        assert parts.as_text(other) is None
