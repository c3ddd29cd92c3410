import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from runwire.scorer.v1 import scorer_run_pb2 as _scorer_run_pb2
from runwire.scorer.v1 import scorer_run_requested_pb2 as _scorer_run_requested_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExternalScorer(_message.Message):
    __slots__ = ("scorer_id", "version", "description", "direction", "options_schema", "timeout", "retries")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    version: str
    description: str
    direction: _scorer_run_pb2.ScoreDirection
    options_schema: _struct_pb2.Struct
    timeout: _duration_pb2.Duration
    retries: int
    def __init__(self, scorer_id: _Optional[str] = ..., version: _Optional[str] = ..., description: _Optional[str] = ..., direction: _Optional[_Union[_scorer_run_pb2.ScoreDirection, str]] = ..., options_schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., retries: _Optional[int] = ...) -> None: ...

class RegisterScorerRequest(_message.Message):
    __slots__ = ("scorer",)
    SCORER_FIELD_NUMBER: _ClassVar[int]
    scorer: ExternalScorer
    def __init__(self, scorer: _Optional[_Union[ExternalScorer, _Mapping]] = ...) -> None: ...

class RegisterScorerResponse(_message.Message):
    __slots__ = ("scorer",)
    SCORER_FIELD_NUMBER: _ClassVar[int]
    scorer: ExternalScorer
    def __init__(self, scorer: _Optional[_Union[ExternalScorer, _Mapping]] = ...) -> None: ...

class ClaimScorerRunsRequest(_message.Message):
    __slots__ = ("worker", "scorers", "max_scorer_runs", "wait", "lease", "in_hand", "max_sample_bytes")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORER_RUNS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    IN_HAND_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    worker: str
    scorers: _containers.RepeatedCompositeFieldContainer[ScorerVersion]
    max_scorer_runs: int
    wait: _duration_pb2.Duration
    lease: _duration_pb2.Duration
    in_hand: int
    max_sample_bytes: int
    def __init__(self, worker: _Optional[str] = ..., scorers: _Optional[_Iterable[_Union[ScorerVersion, _Mapping]]] = ..., max_scorer_runs: _Optional[int] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., in_hand: _Optional[int] = ..., max_sample_bytes: _Optional[int] = ...) -> None: ...

class ScorerVersion(_message.Message):
    __slots__ = ("scorer_id", "version")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    version: str
    def __init__(self, scorer_id: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ClaimScorerRunsResponse(_message.Message):
    __slots__ = ("scorer_runs", "alone_waiting")
    SCORER_RUNS_FIELD_NUMBER: _ClassVar[int]
    ALONE_WAITING_FIELD_NUMBER: _ClassVar[int]
    scorer_runs: _containers.RepeatedCompositeFieldContainer[ClaimedScorerRun]
    alone_waiting: bool
    def __init__(self, scorer_runs: _Optional[_Iterable[_Union[ClaimedScorerRun, _Mapping]]] = ..., alone_waiting: bool = ...) -> None: ...

class ClaimedScorerRun(_message.Message):
    __slots__ = ("scorer_run_id", "claim", "scorer_id", "scorer_version", "run_id", "agent_id", "sample", "options", "steps", "lease_end_time", "deadline", "trace", "failures", "alone")
    SCORER_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LEASE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    scorer_run_id: str
    claim: int
    scorer_id: str
    scorer_version: str
    run_id: str
    agent_id: str
    sample: _scorer_run_requested_pb2.Sample
    options: _struct_pb2.Struct
    steps: _struct_pb2.Struct
    lease_end_time: _timestamp_pb2.Timestamp
    deadline: _timestamp_pb2.Timestamp
    trace: _scorer_run_pb2.Trace
    failures: int
    alone: bool
    def __init__(self, scorer_run_id: _Optional[str] = ..., claim: _Optional[int] = ..., scorer_id: _Optional[str] = ..., scorer_version: _Optional[str] = ..., run_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., sample: _Optional[_Union[_scorer_run_requested_pb2.Sample, _Mapping]] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., steps: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., lease_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trace: _Optional[_Union[_scorer_run_pb2.Trace, _Mapping]] = ..., failures: _Optional[int] = ..., alone: bool = ...) -> None: ...

class ReportScorerRunRequest(_message.Message):
    __slots__ = ("worker", "scorer_run_id", "claim", "scorer_version", "score", "error", "not_scorable", "extension", "release", "steps", "judging")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SCORER_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NOT_SCORABLE_FIELD_NUMBER: _ClassVar[int]
    EXTENSION_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    JUDGING_FIELD_NUMBER: _ClassVar[int]
    worker: str
    scorer_run_id: str
    claim: int
    scorer_version: str
    score: _scorer_run_pb2.Score
    error: AttemptError
    not_scorable: AttemptNotScorable
    extension: AttemptExtension
    release: AttemptRelease
    steps: _struct_pb2.Struct
    judging: _scorer_run_pb2.Judging
    def __init__(self, worker: _Optional[str] = ..., scorer_run_id: _Optional[str] = ..., claim: _Optional[int] = ..., scorer_version: _Optional[str] = ..., score: _Optional[_Union[_scorer_run_pb2.Score, _Mapping]] = ..., error: _Optional[_Union[AttemptError, _Mapping]] = ..., not_scorable: _Optional[_Union[AttemptNotScorable, _Mapping]] = ..., extension: _Optional[_Union[AttemptExtension, _Mapping]] = ..., release: _Optional[_Union[AttemptRelease, _Mapping]] = ..., steps: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., judging: _Optional[_Union[_scorer_run_pb2.Judging, _Mapping]] = ...) -> None: ...

class AttemptError(_message.Message):
    __slots__ = ("message", "error_class", "reason", "non_retriable", "retry_after")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NON_RETRIABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    message: str
    error_class: str
    reason: str
    non_retriable: bool
    retry_after: _duration_pb2.Duration
    def __init__(self, message: _Optional[str] = ..., error_class: _Optional[str] = ..., reason: _Optional[str] = ..., non_retriable: bool = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AttemptNotScorable(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class AttemptExtension(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: _duration_pb2.Duration
    def __init__(self, lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AttemptRelease(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReportScorerRunResponse(_message.Message):
    __slots__ = ("state", "due_time")
    STATE_FIELD_NUMBER: _ClassVar[int]
    DUE_TIME_FIELD_NUMBER: _ClassVar[int]
    state: _scorer_run_pb2.ScorerRunState
    due_time: _timestamp_pb2.Timestamp
    def __init__(self, state: _Optional[_Union[_scorer_run_pb2.ScorerRunState, str]] = ..., due_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
