"""Page tokens: what this service gave out, for the same request, and nothing else."""

from __future__ import annotations

import base64

import pytest

from runwire.agent.v1.agent_service_pb2 import ListRunsRequest
from runwire.errors import InvalidRequest
from runwire.paging import decode_token, encode_token


def token(payload: bytes) -> str:
    return base64.urlsafe_b64encode(payload).decode()


def test_a_token_names_its_place() -> None:
    """Also with another page size; the first page has none."""
    given = encode_token(ListRunsRequest(agent_id="a", page_size=3), [1.5, "x"])
    assert decode_token(ListRunsRequest(agent_id="a", page_size=9, page_token=given), float, str) == (1.5, "x")
    assert decode_token(ListRunsRequest(agent_id="a"), float, str) is None
    single = encode_token(ListRunsRequest(), "x")
    assert decode_token(ListRunsRequest(page_token=single), str) == ("x",)


@pytest.mark.parametrize(
    "wrong", ["x", "ü", token(b"1"), token(b"12345678{"), token(b"12345678\xff"), token(b"12345678" + b"[" * 200_000)]
)
def test_what_is_no_token_is_refused(wrong: str) -> None:
    """Whatever the bytes are, they are the client's mistake, and no fault of the service."""
    with pytest.raises(InvalidRequest) as caught:
        decode_token(ListRunsRequest(page_token=wrong), str)
    assert set(caught.value.violations) == {"page_token"}


def test_a_token_of_another_request_is_refused() -> None:
    """Its place would mean something else there."""
    given = encode_token(ListRunsRequest(agent_id="a"), [1.5, "x"])
    with pytest.raises(InvalidRequest, match="other arguments"):
        decode_token(ListRunsRequest(agent_id="b", page_token=given), float, str)


@pytest.mark.parametrize(
    "place",
    [
        None,
        {},
        [],
        "x",
        1.5,
        ["x", 1.5],
        [1.5],
        [1.5, "x", "y"],
        [True, "x"],
        [None, "x"],
        [[1.5], "x"],
        [float("nan"), "x"],
        [float("inf"), "x"],
        [10**400, "x"],
        [1.5, 2],
        [1.5, "\ud800"],
        [1.5, "a\0b"],
        [1.5, "x" * 10_000],
    ],
    ids=repr,
)
def test_a_place_that_somebody_made_up_is_refused(place: object) -> None:
    """A token is no secret: with the right digest but another shape inside it is refused, and goes to no store."""
    made_up = encode_token(ListRunsRequest(agent_id="a"), place)
    with pytest.raises(InvalidRequest) as caught:
        decode_token(ListRunsRequest(agent_id="a", page_token=made_up), float, str)
    assert set(caught.value.violations) == {"page_token"}
