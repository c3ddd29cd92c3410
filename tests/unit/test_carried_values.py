"""What agents produce, as every client reads it: nothing is refused, and the forms are those that are documented."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from google.protobuf import json_format, struct_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.scorer.v1 import scorer_service_pb2
from runwire.values import (
    MAX_DEPTH,
    carry_struct,
    carry_text,
    carry_value,
    check_value,
    cleaned,
    from_value,
    make_readable,
    may_be_unreadable,
    to_struct,
    to_value,
)

PROTOBUF_LEVELS = 100
"""Messages inside one another that protobuf reads by default, the outermost not counted."""


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    n: int
    tags: set[str]


@dataclasses.dataclass
class Point:
    x: int
    raw: bytes


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "value, carried",
    [
        (2**53, 2**53),
        (2**53 + 1, str(2**53 + 1)),
        (-(2**64), str(-(2**64))),
        (10**5000, hex(10**5000)),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        ([-math.inf], ["-Infinity"]),
        ("half \ud83d", "half \ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        (b"text", "text"),
        (b"\xff\x00", "/wA="),
        ({1}, [1]),
        ((1, 2), [1, 2]),
        (Colour.RED, "red"),
        (Model(n=2**60, tags={"a"}), {"n": str(2**60), "tags": ["a"]}),
        (Point(1, b"\xff"), {"x": 1, "raw": "/w=="}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(minutes=1), "PT60S"),
        (Decimal("0.10"), "0.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("a/b"), "a/b"),
        ({1: "a", "1": "b", None: "c", False: "d"}, {"1": "a", "1 (2)": "b", "null": "c", "false": "d"}),
        ({"\ud800": 1}, {"\ufffd": 1}),
        (Hostile(), "<Hostile>"),
        (struct_pb2.Value(number_value=3), 3),
        (run_pb2.RunError(reason="r"), {"reason": "r"}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_each_form(value: Any, carried: Any) -> None:
    """Each kind of value that JSON or a Value does not have is carried in its documented form."""
    assert from_value(carry_value(value)) == carried


def nested(levels: int, *, lists: bool = False) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if lists else {"a": value}
    return value


@pytest.mark.parametrize("lists", [False, True])
def test_what_is_too_deep(lists: bool) -> None:
    """MAX_DEPTH levels are carried as they are; what is deeper becomes text at the place where it is too deep."""
    assert from_value(carry_value(nested(MAX_DEPTH, lists=lists))) == nested(MAX_DEPTH, lists=lists)
    for levels in (MAX_DEPTH + 1, 200, 100_000):
        value = carry_value(nested(levels, lists=lists))
        assert not check_value(value, "")
        found: Any = from_value(value)
        for _ in range(MAX_DEPTH):
            found = found[0] if lists else found["a"]
        assert found.startswith("[too deep] [" if lists else '[too deep] {"a": ')


def test_what_holds_itself() -> None:
    """A cycle ends where it starts over; the same thing twice beside itself is no cycle."""
    loop: dict[str, Any] = {"n": 1}
    loop["again"] = [loop]
    assert from_value(carry_value(loop)) == {"n": 1, "again": ["[cycle]"]}
    twice = [1]
    assert from_value(carry_value([twice, twice])) == [[1], [1]]


def test_what_is_too_large() -> None:
    """It becomes the beginning of its text, also where few objects would become very many values."""
    text = from_value(carry_value("x" * 2_000_000))
    assert isinstance(text, str)
    assert text.startswith("[too large] xxx")
    assert text.endswith(" ...")
    many: list[Any] = []
    for _ in range(29):
        many = [many, many]
    for value in (many, {"a": "ü" * 1_000_000}, list(range(1_000_000))):
        carried = carry_value(value, 100_000)
        assert carried.string_value.startswith("[too large] ")
        assert carried.ByteSize() <= 100_000
    assert from_value(carry_value(carry_struct("x" * 2_000_000).fields["value"])) is not None
    assert carry_text("é" * 100, 20).endswith(" ...")
    assert len(carry_text("é" * 100, 20).encode()) <= 20


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE00F))
    | st.binary()
    | st.decimals()
    | st.timedeltas()
    | st.builds(object)
    | st.builds(Hostile),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.none() | st.booleans(), inner, max_size=4)
    ),
    max_leaves=30,
)


@given(anything, st.sampled_from([0, 100, 5_000, 1_000_000]))
def test_nothing_is_refused(value: Any, most: int) -> None:
    """Whatever it is, it becomes a Value that passes every check, on the wire and as JSON."""
    for carried in (carry_value(value, most), struct_pb2.Value(struct_value=carry_struct(value, most))):
        assert not check_value(carried, "")
        assert struct_pb2.Value.FromString(carried.SerializeToString()) == carried
        json_format.MessageToJson(carried)
    assert carry_value(value, most).ByteSize() <= max(most, 300)


@given(
    st.recursive(
        st.none() | st.text(st.characters()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_cleaned_json_is_utf8(data: Any) -> None:
    """JSON data without lone surrogates can be serialised."""
    assert repr(cleaned(data)).encode()


@pytest.mark.parametrize(
    "value, text",
    [
        (nested(MAX_DEPTH + 1), "is nested more than 30 deep"),
        ({"a": ["\ud800"]}, r"value.a\[0\] holds a lone surrogate"),
        (10**400, "beyond 2\\^53"),
    ],
)
def test_what_a_client_may_not_send(value: Any, text: str) -> None:
    """A client is told before it sends, with the path."""
    with pytest.raises(ValueError, match=text):
        to_value(value)


def raw(levels: int) -> struct_pb2.Value:
    value = place = struct_pb2.Value()
    for _ in range(levels):
        place = place.struct_value.fields["a"]
    place.number_value = 1
    return value


def test_what_an_older_version_stored_is_mended() -> None:
    """Values that nobody could read become text at any place of a message, times that are none go, the rest stays."""
    run = run_pb2.Run(run_id="r", input=raw(31), labels={"k": "v"})
    run.output.list_value.values.add(number_value=math.nan)
    run.timeout.seconds = 2**62
    run.start_time.seconds = 5
    run.scorers.add(options=to_struct({"n": 1})).options.fields["x"].number_value = math.inf
    assert may_be_unreadable(run.SerializeToString())
    make_readable(run)
    assert not may_be_unreadable(run.SerializeToString())
    assert from_value(run.output) == ["NaN"]
    assert from_value(run.scorers[0].options.fields["x"]) == "Infinity"
    assert not check_value(run.input, "")
    assert not run.HasField("timeout")
    assert (run.run_id, run.start_time.seconds, run.labels["k"]) == ("r", 5, "v")
    event = run_event_pb2.RunEvent(custom=run_event_pb2.CustomEvent(data=to_struct({"a": 1})))
    before = event.SerializeToString()
    make_readable(event)
    assert event.SerializeToString() == before


def places(descriptor: Descriptor, depth: int, above: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """How deep each Value stands inside of a message; a Struct counts as the Value around it would."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None or inner.full_name in above:
            continue
        name = inner.full_name
        if name == "google.protobuf.Value":
            yield depth + 1, field.full_name
        elif name == "google.protobuf.Struct":
            yield depth, field.full_name
        else:
            yield from places(inner, depth + 1, (*above, name))


def test_the_deepest_envelope_can_be_read() -> None:
    """In every answer and frame of both services a Value of MAX_DEPTH levels is within what protobuf reads: an object
    is three messages. And protobuf does read the deepest of them."""
    services = (
        agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"],
        scorer_service_pb2.DESCRIPTOR.services_by_name["ScorerService"],
    )
    found = [
        place
        for service in services
        for method in service.methods
        for answer in (method.output_type, method.input_type)
        for place in places(answer, 0, ())
    ]
    deepest, where = max(found)
    assert (deepest, where) == (5, max(name for depth, name in found if depth == 5))
    assert deepest + 3 * MAX_DEPTH <= PROTOBUF_LEVELS
    assert deepest + 3 * (MAX_DEPTH + 2) > PROTOBUF_LEVELS, "the bound could be higher"
    data = to_value(nested(MAX_DEPTH))
    answer = run_event_pb2.Answer(approve=run_event_pb2.Approve(override_arguments=data.struct_value))
    pending = run_pb2.PendingRequest(arguments=data)
    for event in (
        run_event_pb2.RunEvent(run_resumed=run_event_pb2.RunResumed(answers=[answer])),
        run_event_pb2.RunEvent(run_suspended=run_event_pb2.RunSuspended(pending=[pending])),
    ):
        frame: Message = agent_service_pb2.WatchRunResponse(batch=agent_service_pb2.Batch(events=[event]))
        assert agent_service_pb2.WatchRunResponse.FromString(frame.SerializeToString()) == frame
