"""Every error that Runwire raises on purpose.

    RunwireError
    +-- ConfigurationError          a setting is wrong; the message says what to do
    +-- InvalidRequest              INVALID_REQUEST: field values are wrong, one violation each
    |   +-- RequestMalformed        REQUEST_MALFORMED: these bytes are no request
    |   +-- CursorMalformed         CURSOR_MALFORMED: these bytes are no cursor
    +-- CursorError                 there is no resuming from this cursor
    |   +-- CursorMismatch          CURSOR_MISMATCH: it belongs to another run
    |   +-- CursorExpired           CURSOR_EXPIRED: events after it are gone
    |   +-- CursorAhead             CURSOR_AHEAD: it is beyond the tail
    |   +-- CursorEpochMismatch     CURSOR_EPOCH_MISMATCH: the log was re-created or rolled back since
    +-- Unauthenticated             nobody knows who calls
    |   +-- TokenMissing            TOKEN_MISSING: neither a token nor a client certificate came
    |   +-- TokenInvalid            TOKEN_INVALID: it is none that this service takes
    |   +-- TokenExpired            TOKEN_EXPIRED
    |   +-- TokenRevoked            TOKEN_REVOKED
    |   +-- CertificateUnknown      CERTIFICATE_UNKNOWN: no rule says who this is
    +-- PermissionDenied
    |   +-- ScopeMissing            SCOPE_MISSING: the caller is known, and may not do this
    |   +-- OwnOnly                 OWN_ONLY: the caller sees what it started, and asked for more
    +-- EventsLost                  EVENTS_LOST: the log vanished under a live reader
    +-- NotFound
    |   +-- RunNotFound             RUN_NOT_FOUND
    |   +-- RunExpired              RUN_EXPIRED: known, but its events are purged
    |   +-- AgentNotFound           AGENT_NOT_FOUND
    |   +-- ScorerNotFound          SCORER_NOT_FOUND
    |   +-- ScorerRunNotFound       SCORER_RUN_NOT_FOUND
    +-- AlreadyExists               REQUEST_ID_REUSED: the request id was used with another request
    +-- PreconditionFailed
    |   +-- NotSuspended            NOT_SUSPENDED: the run does not wait for this answer
    |   +-- RunTokensOff            RUN_TOKENS_OFF: the service has no keys to sign run tokens with
    |   +-- AlreadyAnswered         ALREADY_ANSWERED: the first answer stands
    |   +-- NotAConversation        NOT_A_CONVERSATION: the run was not started as one
    |   +-- ConversationEnded       CONVERSATION_ENDED: it takes no messages any more
    |   +-- NotForkable             NOT_FORKABLE: there is nothing to continue from
    |   +-- JournalGone             JOURNAL_GONE: what it would continue from is not kept any more
    |   +-- ClaimLost               CLAIM_LOST: the scorer run is in the hands of somebody else, or of nobody
    +-- FrameUnreadable             FRAME_UNREADABLE: the client cannot parse what the service sent
    +-- ClientClosed                CLIENT_CLOSED: the client was closed
    +-- CommitRefused               the store refused a commit; nothing of it was written
    |   +-- Fenced                  a worker with a higher attempt owns the run
    |   +-- SequenceHole            the events do not continue the log
    |   +-- LogClosed               the log has its last event
    |   +-- TopicExists             there is such a log already
    |   +-- FieldExists             a field that may be put only once is there already
    +-- Unavailable                 try again later
        +-- StoreUnavailable        STORE_UNAVAILABLE
        +-- ServerDraining          SERVER_DRAINING
        +-- StreamMaxAge            STREAM_MAX_AGE
        +-- SlowConsumer            SLOW_CONSUMER
        +-- TooManyStreams          TOO_MANY_STREAMS
        +-- TooManyRequests         TOO_MANY_REQUESTS
        +-- RateExceeded            RATE_EXCEEDED: a tenant starts more than it may
        +-- QueueFull               QUEUE_FULL: as many runs of a tenant wait as may
        +-- TooManyMessages         TOO_MANY_MESSAGES: as many wait in the conversation as may
        +-- KeysUnavailable         KEYS_UNAVAILABLE: who signed the token cannot be looked up

`reason` is the ErrorInfo.reason on the wire and `metadata` its metadata; `runwire.rpc` maps a class to a status
and `runwire.client` maps a status back to the same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class RunwireError(Exception):
    """Base of all errors below."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = {key: str(value) for key, value in metadata.items()}

    def __str__(self) -> str:
        return self.message


class ConfigurationError(RunwireError):
    """A setting, an argument or a module named on the command line is wrong. Exit code 2."""

    reason = "INVALID_CONFIGURATION"


class InvalidRequest(RunwireError):
    """Field values are wrong. `violations` maps the path of a field to what is wrong with it."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Mapping[str, str], message: str = "", **metadata: str | int) -> None:
        text = message or "; ".join(f"{path}: {problem}" for path, problem in violations.items())
        super().__init__(text, **metadata)
        self.violations = dict(violations)


class RequestMalformed(InvalidRequest):
    """The bytes of the request do not parse. The violation names the field, as far as it is known; else `request`."""

    reason = "REQUEST_MALFORMED"

    def __init__(self, message: str, field: str = "request", problem: str = "cannot be parsed") -> None:
        super().__init__({field: problem}, message)


class CursorMalformed(InvalidRequest):
    """The bytes given as a cursor are no cursor."""

    reason = "CURSOR_MALFORMED"

    def __init__(self, problem: str, field: str = "cursor") -> None:
        super().__init__({field: problem}, f"malformed cursor: {problem}")


class CursorError(RunwireError):
    """There is no resuming from this cursor. Starting over is the caller's decision."""


class CursorMismatch(CursorError):
    """The cursor belongs to another run."""

    reason = "CURSOR_MISMATCH"


class CursorExpired(CursorError):
    """Events after the cursor are gone. Metadata: earliest_sequence, latest_sequence, earliest_cursor."""

    reason = "CURSOR_EXPIRED"

    @property
    def earliest_sequence(self) -> int:
        return int(self.metadata.get("earliest_sequence", 0))

    @property
    def latest_sequence(self) -> int:
        return int(self.metadata.get("latest_sequence", 0))

    @property
    def earliest_cursor(self) -> str:
        """Cursor from which all that is left can be read."""
        return self.metadata.get("earliest_cursor", "")


class CursorAhead(CursorError):
    """The cursor is beyond the tail of the log."""

    reason = "CURSOR_AHEAD"


class CursorEpochMismatch(CursorError):
    """The log was re-created, or its store rolled back, since the cursor was given out."""

    reason = "CURSOR_EPOCH_MISMATCH"


class Unauthenticated(RunwireError):
    """Nobody knows who calls."""

    reason = "UNAUTHENTICATED"


class TokenMissing(Unauthenticated):
    """The call came with neither a token nor a client certificate."""

    reason = "TOKEN_MISSING"


class TokenInvalid(Unauthenticated):
    """The token is none that this service takes: forged, damaged, of another issuer or for another audience."""

    reason = "TOKEN_INVALID"


class TokenExpired(Unauthenticated):
    """The token was good once."""

    reason = "TOKEN_EXPIRED"


class TokenRevoked(Unauthenticated):
    """The token was taken back."""

    reason = "TOKEN_REVOKED"


class CertificateUnknown(Unauthenticated):
    """The client's certificate is good, and no rule says who it is."""

    reason = "CERTIFICATE_UNKNOWN"


class PermissionDenied(RunwireError):
    """The caller is known, and may not do this."""

    reason = "PERMISSION_DENIED"


class ScopeMissing(PermissionDenied):
    """The caller lacks a scope. Metadata: scope."""

    reason = "SCOPE_MISSING"


class OwnOnly(PermissionDenied):
    """The caller sees only what it started, and asked for what is everybody's."""

    reason = "OWN_ONLY"


class EventsLost(RunwireError):
    """The log vanished, or was replaced, under a live reader."""

    reason = "EVENTS_LOST"


class NotFound(RunwireError):
    """There is no such thing."""

    reason = "NOT_FOUND"


class RunNotFound(NotFound):
    reason = "RUN_NOT_FOUND"


class RunExpired(NotFound):
    """The run is known, but its events are purged. Metadata: final_state."""

    reason = "RUN_EXPIRED"


class AgentNotFound(NotFound):
    reason = "AGENT_NOT_FOUND"


class ScorerNotFound(NotFound):
    reason = "SCORER_NOT_FOUND"


class ScorerRunNotFound(NotFound):
    reason = "SCORER_RUN_NOT_FOUND"


class AlreadyExists(RunwireError):
    """The request id was used before with another request. Metadata: run_id or scorer_run_id."""

    reason = "REQUEST_ID_REUSED"


class PreconditionFailed(RunwireError):
    """The thing is not in a state that allows the call."""

    reason = "FAILED_PRECONDITION"


class NotSuspended(PreconditionFailed):
    """The run does not wait for this answer."""

    reason = "NOT_SUSPENDED"


class AlreadyAnswered(PreconditionFailed):
    """The request was answered before; the first answer stands. Metadata: answer_time."""

    reason = "ALREADY_ANSWERED"


class RunTokensOff(PreconditionFailed):
    """The service has no keys to sign run tokens with."""

    reason = "RUN_TOKENS_OFF"


class NotAConversation(PreconditionFailed):
    """The run was not started as a conversation."""

    reason = "NOT_A_CONVERSATION"


class ConversationEnded(PreconditionFailed):
    """The conversation takes no messages any more."""

    reason = "CONVERSATION_ENDED"


class NotForkable(PreconditionFailed):
    """There is nothing to continue from."""

    reason = "NOT_FORKABLE"


class JournalGone(PreconditionFailed):
    """What the steps of a run left, or what a conversation remembered, is not kept any more: nothing can continue from
    there."""

    reason = "JOURNAL_GONE"


class ClaimLost(PreconditionFailed):
    """The report came too late: somebody else has the scorer run, or it was cancelled, redriven or took too long."""

    reason = "CLAIM_LOST"


class FrameUnreadable(RunwireError):
    """A frame, or an answer, of the service does not parse: nested too deeply for protobuf, or damaged. It is no cut:
    the same bytes would come again. The cursor stands before the frame."""

    reason = "FRAME_UNREADABLE"


class ClientClosed(RunwireError, RuntimeError):
    """The client was closed, before the call or during it. Whether the call took effect is not known."""

    reason = "CLIENT_CLOSED"


class CommitRefused(RunwireError):
    """The store refused a commit. Nothing of it was written."""

    reason = "COMMIT_REFUSED"


class Fenced(CommitRefused):
    """A worker with a higher attempt owns the topic. The caller must stop at once and write nothing more."""

    reason = "FENCED"


class SequenceHole(CommitRefused):
    """The events of the commit do not continue the log."""

    reason = "SEQUENCE_HOLE"


class LogClosed(CommitRefused):
    """The log has its last event."""

    reason = "LOG_CLOSED"


class TopicExists(CommitRefused):
    """A commit with `create` found the topic."""

    reason = "TOPIC_EXISTS"


class FieldExists(CommitRefused):
    """A field of `Commit.puts_once` is there already. `field` names it, `value` is what it holds."""

    reason = "FIELD_EXISTS"

    def __init__(self, field: str, value: bytes) -> None:
        super().__init__(f"field {field!r} is there already", field=field)
        self.field = field
        self.value = value


class Unavailable(RunwireError):
    """Not now. `retry_delay_seconds` says when to try again."""

    reason = "UNAVAILABLE"
    needs_somebody: ClassVar[bool] = False
    """It will not pass by itself."""

    def __init__(self, message: str, retry_delay_seconds: float = 1.0, **metadata: str | int) -> None:
        super().__init__(message, **metadata)
        self.retry_delay_seconds = retry_delay_seconds


class StoreUnavailable(Unavailable):
    """The store does not answer, or refuses to write for now."""

    reason = "STORE_UNAVAILABLE"


class ServerDraining(Unavailable):
    """This server shuts down; another replica will serve."""

    reason = "SERVER_DRAINING"


class StreamMaxAge(Unavailable):
    """The stream reached the greatest age that this server allows; resume."""

    reason = "STREAM_MAX_AGE"


class SlowConsumer(Unavailable):
    """The client did not read for too long; resume when it can."""

    reason = "SLOW_CONSUMER"


class TooManyStreams(Unavailable):
    """This server has as many streams as it allows."""

    reason = "TOO_MANY_STREAMS"


class TooManyRequests(Unavailable):
    """This server works on as many calls of this kind as it allows, and as many wait."""

    reason = "TOO_MANY_REQUESTS"


class RateExceeded(Unavailable):
    """A tenant starts more in a second than it may. Metadata: tenant."""

    reason = "RATE_EXCEEDED"


class QueueFull(Unavailable):
    """As many runs of the tenant wait for a worker as may. Metadata: tenant."""

    reason = "QUEUE_FULL"


class TooManyMessages(Unavailable):
    """As many messages wait in the conversation as may."""

    reason = "TOO_MANY_MESSAGES"


class KeysUnavailable(Unavailable):
    """The keys of the tokens' issuer cannot be fetched."""

    reason = "KEYS_UNAVAILABLE"
