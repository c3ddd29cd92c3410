"""From a gRPC status back to the error that the service raised: the same class, message and metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from runwire import errors
from runwire.times import seconds_of

_DETAILS_KEY: Final = "grpc-status-details-bin"

_BY_CODE: Final[Mapping[grpc.StatusCode, type[errors.RunwireError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PreconditionFailed,
    grpc.StatusCode.OUT_OF_RANGE: errors.CursorError,
    grpc.StatusCode.DATA_LOSS: errors.EventsLost,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
}
"""For a status without a reason that we know: one of a newer service, or of something between us and it."""

# What gRPC says when a connection breaks under a stream, whether the peer or something between did it.
_BROKEN_CODES: Final = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_BROKEN_STREAM: Final = ("rst_stream", "unexpected eos", "eof", "stream removed", "connection reset", "goaway")


def error_of(call: grpc.RpcError) -> errors.RunwireError:
    """The error that a failed call stands for.

    `errors.Unavailable` and its subclasses, and only they, mean that the same call may be made again; their
    `retry_delay_seconds` is what the service asked for, 0 where it did not ask. Metadata always carries `code`, the
    name of the gRPC status.
    """
    code: grpc.StatusCode = call.code()
    message: str = call.details() or code.name
    pairs: Iterable[tuple[str, str | bytes]] = call.trailing_metadata() or ()  # type: ignore[assignment]
    details = _Details(pairs)
    metadata = {**details.metadata, "code": code.name}
    kind = _class_of(code, details.reason, message)
    if issubclass(kind, errors.InvalidRequest):
        return _invalid_request(kind, message, details.violations, metadata)
    error = kind(message)
    if isinstance(error, errors.Unavailable):
        error.retry_delay_seconds = details.retry_delay_seconds
    error.metadata = metadata
    return error


class _Details:
    """The parts of google.rpc.Status that this project uses."""

    def __init__(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        self.reason = ""
        self.metadata: dict[str, str] = {}
        self.violations: dict[str, str] = {}
        self.retry_delay_seconds = 0.0
        for detail in _details(trailing_metadata):
            if isinstance(detail, error_details_pb2.ErrorInfo):
                self.reason = detail.reason
                self.metadata = dict(detail.metadata)
            elif isinstance(detail, error_details_pb2.BadRequest):
                self.violations = {each.field: each.description for each in detail.field_violations}
            elif isinstance(detail, error_details_pb2.RetryInfo):
                self.retry_delay_seconds = max(0.0, seconds_of(detail.retry_delay))


_Detail: TypeAlias = error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo


def _details(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[_Detail]:
    """Details that do not parse are left out: the status code still says what happened."""
    packed = next((value for key, value in trailing_metadata if key == _DETAILS_KEY), b"")
    try:
        status = status_pb2.Status.FromString(packed if isinstance(packed, bytes) else b"")
        for each in status.details:
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                if each.Is(kind.DESCRIPTOR):
                    yield kind.FromString(each.value)
    except DecodeError:
        return


def _class_of(code: grpc.StatusCode, reason: str, message: str) -> type[errors.RunwireError]:
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    if code in _BROKEN_CODES and any(sign in message.lower() for sign in _BROKEN_STREAM):
        return errors.Unavailable
    # Our own cancellation never gets here; this is a stream reset by a proxy, or by a server that was stopped.
    if code is grpc.StatusCode.CANCELLED:
        return errors.Unavailable
    return _BY_CODE.get(code, errors.RunwireError)


def _invalid_request(
    kind: type[errors.InvalidRequest], message: str, violations: Mapping[str, str], metadata: dict[str, str]
) -> errors.InvalidRequest:
    error = kind.__new__(kind)
    # CursorMalformed takes other arguments than its base; both hold what the base holds.
    errors.InvalidRequest.__init__(error, violations, message)
    error.metadata = metadata
    return error


def _family(kind: type[errors.RunwireError]) -> Iterator[type[errors.RunwireError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _family(each)


_BY_REASON: Final = {
    kind.reason: kind for kind in _family(errors.RunwireError) if not issubclass(kind, errors.CommitRefused)
}
