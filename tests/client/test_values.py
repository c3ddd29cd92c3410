"""Python values and google.protobuf.Value."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from runwire.client import from_value, to_struct, to_value

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_there_and_back(value: Any) -> None:
    """What JSON can hold survives the way to the wire and back."""
    over_the_wire = struct_pb2.Value.FromString(to_value(value).SerializeToString())
    assert from_value(over_the_wire) == value


@pytest.mark.parametrize(
    "value, error, text",
    [
        ({"a": [1, {"b": b"x"}]}, TypeError, r"value.a\[1\].b is 'bytes'"),
        ({1: 2}, TypeError, "keys must be str"),
        ([float("nan")], ValueError, r"value\[0\] is nan; it must be finite"),
        (2**60, ValueError, "beyond 2\\^53"),
        (object(), TypeError, "value is 'object'"),
    ],
)
def test_what_json_cannot_hold(value: Any, error: type[Exception], text: str) -> None:
    """Anything else is refused with the path to it, and never changed in silence."""
    with pytest.raises(error, match=text):
        to_value(value)


def test_messages_pass_through() -> None:
    """A Value and a Struct are taken as they are."""
    value = struct_pb2.Value(string_value="x")
    assert to_value(value) is value
    assert to_struct({}) == struct_pb2.Struct()
    assert to_value({}).WhichOneof("kind") == "struct_value"
    assert to_value([]).WhichOneof("kind") == "list_value"
    assert from_value(struct_pb2.Value()) is None
