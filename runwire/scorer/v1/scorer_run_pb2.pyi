import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from runwire.scorer.v1 import scorer_run_requested_pb2 as _scorer_run_requested_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScoreDirection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORE_DIRECTION_UNSPECIFIED: _ClassVar[ScoreDirection]
    SCORE_DIRECTION_HIGHER_IS_BETTER: _ClassVar[ScoreDirection]
    SCORE_DIRECTION_LOWER_IS_BETTER: _ClassVar[ScoreDirection]

class ScorerRunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORER_RUN_STATE_UNSPECIFIED: _ClassVar[ScorerRunState]
    SCORER_RUN_STATE_PENDING: _ClassVar[ScorerRunState]
    SCORER_RUN_STATE_RUNNING: _ClassVar[ScorerRunState]
    SCORER_RUN_STATE_RETRYING: _ClassVar[ScorerRunState]
    SCORER_RUN_STATE_SUCCEEDED: _ClassVar[ScorerRunState]
    SCORER_RUN_STATE_FAILED: _ClassVar[ScorerRunState]
    SCORER_RUN_STATE_NOT_SCORABLE: _ClassVar[ScorerRunState]
    SCORER_RUN_STATE_DECLINED: _ClassVar[ScorerRunState]
    SCORER_RUN_STATE_CANCELLED: _ClassVar[ScorerRunState]

class ScorerRunPriority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORER_RUN_PRIORITY_UNSPECIFIED: _ClassVar[ScorerRunPriority]
    SCORER_RUN_PRIORITY_NORMAL: _ClassVar[ScorerRunPriority]
    SCORER_RUN_PRIORITY_HIGH: _ClassVar[ScorerRunPriority]
SCORE_DIRECTION_UNSPECIFIED: ScoreDirection
SCORE_DIRECTION_HIGHER_IS_BETTER: ScoreDirection
SCORE_DIRECTION_LOWER_IS_BETTER: ScoreDirection
SCORER_RUN_STATE_UNSPECIFIED: ScorerRunState
SCORER_RUN_STATE_PENDING: ScorerRunState
SCORER_RUN_STATE_RUNNING: ScorerRunState
SCORER_RUN_STATE_RETRYING: ScorerRunState
SCORER_RUN_STATE_SUCCEEDED: ScorerRunState
SCORER_RUN_STATE_FAILED: ScorerRunState
SCORER_RUN_STATE_NOT_SCORABLE: ScorerRunState
SCORER_RUN_STATE_DECLINED: ScorerRunState
SCORER_RUN_STATE_CANCELLED: ScorerRunState
SCORER_RUN_PRIORITY_UNSPECIFIED: ScorerRunPriority
SCORER_RUN_PRIORITY_NORMAL: ScorerRunPriority
SCORER_RUN_PRIORITY_HIGH: ScorerRunPriority

class Scorer(_message.Message):
    __slots__ = ("scorer_id", "version", "description", "direction", "judge", "judge_model", "prompt_version", "paused", "holders", "external", "options_schema", "paused_by")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    JUDGE_MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    PAUSED_BY_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    version: str
    description: str
    direction: ScoreDirection
    judge: bool
    judge_model: str
    prompt_version: str
    paused: bool
    holders: _containers.RepeatedCompositeFieldContainer[ScorerHolder]
    external: bool
    options_schema: _struct_pb2.Struct
    paused_by: str
    def __init__(self, scorer_id: _Optional[str] = ..., version: _Optional[str] = ..., description: _Optional[str] = ..., direction: _Optional[_Union[ScoreDirection, str]] = ..., judge: bool = ..., judge_model: _Optional[str] = ..., prompt_version: _Optional[str] = ..., paused: bool = ..., holders: _Optional[_Iterable[_Union[ScorerHolder, _Mapping]]] = ..., external: bool = ..., options_schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., paused_by: _Optional[str] = ...) -> None: ...

class ScorerHolder(_message.Message):
    __slots__ = ("worker", "version", "seen_time")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEEN_TIME_FIELD_NUMBER: _ClassVar[int]
    worker: str
    version: str
    seen_time: _timestamp_pb2.Timestamp
    def __init__(self, worker: _Optional[str] = ..., version: _Optional[str] = ..., seen_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ScorerRun(_message.Message):
    __slots__ = ("scorer_run_id", "run_id", "agent_id", "scorer_id", "scorer_version", "state", "score", "error", "attempts", "deliveries", "create_time", "due_time", "end_time", "trace", "sampling", "options", "labels", "priority", "sample", "redrives", "scorer_name", "waits", "attempts_omitted", "omitted", "requested_by", "redriven_by", "cancelled_by", "author", "opinions")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SCORER_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DUE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    REDRIVES_FIELD_NUMBER: _ClassVar[int]
    SCORER_NAME_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_OMITTED_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REDRIVEN_BY_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_BY_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    OPINIONS_FIELD_NUMBER: _ClassVar[int]
    scorer_run_id: str
    run_id: str
    agent_id: str
    scorer_id: str
    scorer_version: str
    state: ScorerRunState
    score: Score
    error: ScorerRunError
    attempts: _containers.RepeatedCompositeFieldContainer[ScorerRunAttempt]
    deliveries: int
    create_time: _timestamp_pb2.Timestamp
    due_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    trace: Trace
    sampling: _scorer_run_requested_pb2.SamplingDecision
    options: _struct_pb2.Struct
    labels: _containers.ScalarMap[str, str]
    priority: ScorerRunPriority
    sample: _scorer_run_requested_pb2.Sample
    redrives: int
    scorer_name: str
    waits: int
    attempts_omitted: int
    omitted: _containers.RepeatedScalarFieldContainer[str]
    requested_by: str
    redriven_by: str
    cancelled_by: str
    author: str
    opinions: _containers.RepeatedCompositeFieldContainer[Opinion]
    def __init__(self, scorer_run_id: _Optional[str] = ..., run_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., scorer_id: _Optional[str] = ..., scorer_version: _Optional[str] = ..., state: _Optional[_Union[ScorerRunState, str]] = ..., score: _Optional[_Union[Score, _Mapping]] = ..., error: _Optional[_Union[ScorerRunError, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[ScorerRunAttempt, _Mapping]]] = ..., deliveries: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., due_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trace: _Optional[_Union[Trace, _Mapping]] = ..., sampling: _Optional[_Union[_scorer_run_requested_pb2.SamplingDecision, _Mapping]] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., priority: _Optional[_Union[ScorerRunPriority, str]] = ..., sample: _Optional[_Union[_scorer_run_requested_pb2.Sample, _Mapping]] = ..., redrives: _Optional[int] = ..., scorer_name: _Optional[str] = ..., waits: _Optional[int] = ..., attempts_omitted: _Optional[int] = ..., omitted: _Optional[_Iterable[str]] = ..., requested_by: _Optional[str] = ..., redriven_by: _Optional[str] = ..., cancelled_by: _Optional[str] = ..., author: _Optional[str] = ..., opinions: _Optional[_Iterable[_Union[Opinion, _Mapping]]] = ...) -> None: ...

class Opinion(_message.Message):
    __slots__ = ("number", "value", "label", "comment", "author", "submitted_by", "submit_time")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_BY_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    number: int
    value: float
    label: str
    comment: str
    author: str
    submitted_by: str
    submit_time: _timestamp_pb2.Timestamp
    def __init__(self, number: _Optional[int] = ..., value: _Optional[float] = ..., label: _Optional[str] = ..., comment: _Optional[str] = ..., author: _Optional[str] = ..., submitted_by: _Optional[str] = ..., submit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("value", "label", "reason", "metadata", "direction", "judgement")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    JUDGEMENT_FIELD_NUMBER: _ClassVar[int]
    value: float
    label: str
    reason: str
    metadata: _struct_pb2.Struct
    direction: ScoreDirection
    judgement: Judgement
    def __init__(self, value: _Optional[float] = ..., label: _Optional[str] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., direction: _Optional[_Union[ScoreDirection, str]] = ..., judgement: _Optional[_Union[Judgement, _Mapping]] = ...) -> None: ...

class Judgement(_message.Message):
    __slots__ = ("model", "prompt_version", "input_tokens", "output_tokens", "cost_usd")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt_version: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    def __init__(self, model: _Optional[str] = ..., prompt_version: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cost_usd: _Optional[float] = ...) -> None: ...

class ScorerRunError(_message.Message):
    __slots__ = ("reason", "error_class", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    error_class: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., error_class: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ScorerRunAttempt(_message.Message):
    __slots__ = ("attempt", "worker", "start_time", "end_time", "error", "partial_results", "judging", "partial_results_omitted")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_RESULTS_FIELD_NUMBER: _ClassVar[int]
    JUDGING_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_RESULTS_OMITTED_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    worker: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    error: ScorerRunError
    partial_results: _struct_pb2.Struct
    judging: Judging
    partial_results_omitted: bool
    def __init__(self, attempt: _Optional[int] = ..., worker: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[ScorerRunError, _Mapping]] = ..., partial_results: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., judging: _Optional[_Union[Judging, _Mapping]] = ..., partial_results_omitted: bool = ...) -> None: ...

class Judging(_message.Message):
    __slots__ = ("model", "requests", "input_tokens", "output_tokens", "cost_usd", "exchanges")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    EXCHANGES_FIELD_NUMBER: _ClassVar[int]
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    exchanges: _containers.RepeatedCompositeFieldContainer[JudgeExchange]
    def __init__(self, model: _Optional[str] = ..., requests: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cost_usd: _Optional[float] = ..., exchanges: _Optional[_Iterable[_Union[JudgeExchange, _Mapping]]] = ...) -> None: ...

class JudgeExchange(_message.Message):
    __slots__ = ("prompt", "answer")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    answer: str
    def __init__(self, prompt: _Optional[str] = ..., answer: _Optional[str] = ...) -> None: ...

class Trace(_message.Message):
    __slots__ = ("traceparent", "tracestate")
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    traceparent: str
    tracestate: str
    def __init__(self, traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class ScorerStats(_message.Message):
    __slots__ = ("scorer_id", "eligible", "sampled", "scored", "failed", "not_scorable", "declined", "cancelled", "waiting", "coverage", "oldest_age", "latency_p50", "latency_p95", "latency_p99", "mean_score", "paused", "counts", "oldest_due_age", "scorer_name", "compared_with_people", "agreement", "mean_distance")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    NOT_SCORABLE_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_AGE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P95_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P99_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_DUE_AGE_FIELD_NUMBER: _ClassVar[int]
    SCORER_NAME_FIELD_NUMBER: _ClassVar[int]
    COMPARED_WITH_PEOPLE_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MEAN_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    eligible: int
    sampled: int
    scored: int
    failed: int
    not_scorable: int
    declined: int
    cancelled: int
    waiting: int
    coverage: float
    oldest_age: _duration_pb2.Duration
    latency_p50: _duration_pb2.Duration
    latency_p95: _duration_pb2.Duration
    latency_p99: _duration_pb2.Duration
    mean_score: float
    paused: bool
    counts: _containers.RepeatedCompositeFieldContainer[StateCount]
    oldest_due_age: _duration_pb2.Duration
    scorer_name: str
    compared_with_people: int
    agreement: float
    mean_distance: float
    def __init__(self, scorer_id: _Optional[str] = ..., eligible: _Optional[int] = ..., sampled: _Optional[int] = ..., scored: _Optional[int] = ..., failed: _Optional[int] = ..., not_scorable: _Optional[int] = ..., declined: _Optional[int] = ..., cancelled: _Optional[int] = ..., waiting: _Optional[int] = ..., coverage: _Optional[float] = ..., oldest_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., latency_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., latency_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., latency_p99: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., mean_score: _Optional[float] = ..., paused: bool = ..., counts: _Optional[_Iterable[_Union[StateCount, _Mapping]]] = ..., oldest_due_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., scorer_name: _Optional[str] = ..., compared_with_people: _Optional[int] = ..., agreement: _Optional[float] = ..., mean_distance: _Optional[float] = ...) -> None: ...

class StateCount(_message.Message):
    __slots__ = ("state", "count")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    state: ScorerRunState
    count: int
    def __init__(self, state: _Optional[_Union[ScorerRunState, str]] = ..., count: _Optional[int] = ...) -> None: ...
