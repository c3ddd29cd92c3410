import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from runwire.scorer.v1 import scorer_port_pb2 as _scorer_port_pb2
from runwire.scorer.v1 import scorer_run_pb2 as _scorer_run_pb2
from runwire.scorer.v1 import scorer_run_requested_pb2 as _scorer_run_requested_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Thumb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    THUMB_UNSPECIFIED: _ClassVar[Thumb]
    THUMB_UP: _ClassVar[Thumb]
    THUMB_DOWN: _ClassVar[Thumb]
THUMB_UNSPECIFIED: Thumb
THUMB_UP: Thumb
THUMB_DOWN: Thumb

class ScorerRunFilter(_message.Message):
    __slots__ = ("run_id", "agent_id", "scorer_id", "states", "created_after", "created_before", "scorer_name", "error_reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    SCORER_NAME_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    agent_id: str
    scorer_id: str
    states: _containers.RepeatedScalarFieldContainer[_scorer_run_pb2.ScorerRunState]
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    scorer_name: str
    error_reason: str
    def __init__(self, run_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., scorer_id: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_scorer_run_pb2.ScorerRunState, str]]] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scorer_name: _Optional[str] = ..., error_reason: _Optional[str] = ...) -> None: ...

class ListScorersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListScorersResponse(_message.Message):
    __slots__ = ("scorers", "next_page_token")
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scorers: _containers.RepeatedCompositeFieldContainer[_scorer_run_pb2.Scorer]
    next_page_token: str
    def __init__(self, scorers: _Optional[_Iterable[_Union[_scorer_run_pb2.Scorer, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetScorerRunRequest(_message.Message):
    __slots__ = ("scorer_run_id", "include_sample")
    SCORER_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    scorer_run_id: str
    include_sample: bool
    def __init__(self, scorer_run_id: _Optional[str] = ..., include_sample: bool = ...) -> None: ...

class GetScorerRunResponse(_message.Message):
    __slots__ = ("scorer_run",)
    SCORER_RUN_FIELD_NUMBER: _ClassVar[int]
    scorer_run: _scorer_run_pb2.ScorerRun
    def __init__(self, scorer_run: _Optional[_Union[_scorer_run_pb2.ScorerRun, _Mapping]] = ...) -> None: ...

class ListScorerRunsRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: ScorerRunFilter
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[_Union[ScorerRunFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListScorerRunsResponse(_message.Message):
    __slots__ = ("scorer_runs", "next_page_token")
    SCORER_RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scorer_runs: _containers.RepeatedCompositeFieldContainer[_scorer_run_pb2.ScorerRun]
    next_page_token: str
    def __init__(self, scorer_runs: _Optional[_Iterable[_Union[_scorer_run_pb2.ScorerRun, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchScorerRunsRequest(_message.Message):
    __slots__ = ("run_id", "cursor", "heartbeat_interval", "all_runs")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    ALL_RUNS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    cursor: str
    heartbeat_interval: _duration_pb2.Duration
    all_runs: bool
    def __init__(self, run_id: _Optional[str] = ..., cursor: _Optional[str] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., all_runs: bool = ...) -> None: ...

class WatchScorerRunsResponse(_message.Message):
    __slots__ = ("cursor", "batch", "heartbeat", "ended")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    batch: ScorerRunBatch
    heartbeat: ScorerRunHeartbeat
    ended: ScorerRunsEnded
    def __init__(self, cursor: _Optional[str] = ..., batch: _Optional[_Union[ScorerRunBatch, _Mapping]] = ..., heartbeat: _Optional[_Union[ScorerRunHeartbeat, _Mapping]] = ..., ended: _Optional[_Union[ScorerRunsEnded, _Mapping]] = ...) -> None: ...

class ScorerRunBatch(_message.Message):
    __slots__ = ("scorer_runs",)
    SCORER_RUNS_FIELD_NUMBER: _ClassVar[int]
    scorer_runs: _containers.RepeatedCompositeFieldContainer[_scorer_run_pb2.ScorerRun]
    def __init__(self, scorer_runs: _Optional[_Iterable[_Union[_scorer_run_pb2.ScorerRun, _Mapping]]] = ...) -> None: ...

class ScorerRunHeartbeat(_message.Message):
    __slots__ = ("send_time",)
    SEND_TIME_FIELD_NUMBER: _ClassVar[int]
    send_time: _timestamp_pb2.Timestamp
    def __init__(self, send_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ScorerRunsEnded(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RequestScorerRunRequest(_message.Message):
    __slots__ = ("scorer_id", "scorer_version", "sample", "options", "request_id", "scorer_name")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_NAME_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    scorer_version: str
    sample: _scorer_run_requested_pb2.Sample
    options: _struct_pb2.Struct
    request_id: str
    scorer_name: str
    def __init__(self, scorer_id: _Optional[str] = ..., scorer_version: _Optional[str] = ..., sample: _Optional[_Union[_scorer_run_requested_pb2.Sample, _Mapping]] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., request_id: _Optional[str] = ..., scorer_name: _Optional[str] = ...) -> None: ...

class RequestScorerRunResponse(_message.Message):
    __slots__ = ("scorer_run",)
    SCORER_RUN_FIELD_NUMBER: _ClassVar[int]
    scorer_run: _scorer_run_pb2.ScorerRun
    def __init__(self, scorer_run: _Optional[_Union[_scorer_run_pb2.ScorerRun, _Mapping]] = ...) -> None: ...

class RetryScorerRunsRequest(_message.Message):
    __slots__ = ("scorer_run_ids", "filter", "scorer_version", "dry_run", "page_size", "page_token")
    SCORER_RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scorer_run_ids: _containers.RepeatedScalarFieldContainer[str]
    filter: ScorerRunFilter
    scorer_version: str
    dry_run: bool
    page_size: int
    page_token: str
    def __init__(self, scorer_run_ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[ScorerRunFilter, _Mapping]] = ..., scorer_version: _Optional[str] = ..., dry_run: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class RetryScorerRunsResponse(_message.Message):
    __slots__ = ("count", "scorer_run_ids", "next_page_token")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SCORER_RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    count: int
    scorer_run_ids: _containers.RepeatedScalarFieldContainer[str]
    next_page_token: str
    def __init__(self, count: _Optional[int] = ..., scorer_run_ids: _Optional[_Iterable[str]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelScorerRunsRequest(_message.Message):
    __slots__ = ("scorer_run_ids", "filter", "dry_run", "page_size", "page_token")
    SCORER_RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scorer_run_ids: _containers.RepeatedScalarFieldContainer[str]
    filter: ScorerRunFilter
    dry_run: bool
    page_size: int
    page_token: str
    def __init__(self, scorer_run_ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[ScorerRunFilter, _Mapping]] = ..., dry_run: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class CancelScorerRunsResponse(_message.Message):
    __slots__ = ("count", "scorer_run_ids", "next_page_token")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SCORER_RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    count: int
    scorer_run_ids: _containers.RepeatedScalarFieldContainer[str]
    next_page_token: str
    def __init__(self, count: _Optional[int] = ..., scorer_run_ids: _Optional[_Iterable[str]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class PauseScorerRequest(_message.Message):
    __slots__ = ("scorer_id",)
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    def __init__(self, scorer_id: _Optional[str] = ...) -> None: ...

class PauseScorerResponse(_message.Message):
    __slots__ = ("scorer",)
    SCORER_FIELD_NUMBER: _ClassVar[int]
    scorer: _scorer_run_pb2.Scorer
    def __init__(self, scorer: _Optional[_Union[_scorer_run_pb2.Scorer, _Mapping]] = ...) -> None: ...

class ResumeScorerRequest(_message.Message):
    __slots__ = ("scorer_id",)
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    def __init__(self, scorer_id: _Optional[str] = ...) -> None: ...

class ResumeScorerResponse(_message.Message):
    __slots__ = ("scorer",)
    SCORER_FIELD_NUMBER: _ClassVar[int]
    scorer: _scorer_run_pb2.Scorer
    def __init__(self, scorer: _Optional[_Union[_scorer_run_pb2.Scorer, _Mapping]] = ...) -> None: ...

class GetScorerStatsRequest(_message.Message):
    __slots__ = ("scorer_id", "created_after", "created_before")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    def __init__(self, scorer_id: _Optional[str] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetScorerStatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: _containers.RepeatedCompositeFieldContainer[_scorer_run_pb2.ScorerStats]
    def __init__(self, stats: _Optional[_Iterable[_Union[_scorer_run_pb2.ScorerStats, _Mapping]]] = ...) -> None: ...

class ListScorerWorkersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListScorerWorkersResponse(_message.Message):
    __slots__ = ("workers", "next_page_token")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[ScorerWorker]
    next_page_token: str
    def __init__(self, workers: _Optional[_Iterable[_Union[ScorerWorker, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ScorerWorker(_message.Message):
    __slots__ = ("worker", "scorers", "seen_time")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    SEEN_TIME_FIELD_NUMBER: _ClassVar[int]
    worker: str
    scorers: _containers.RepeatedCompositeFieldContainer[WorkerScorer]
    seen_time: _timestamp_pb2.Timestamp
    def __init__(self, worker: _Optional[str] = ..., scorers: _Optional[_Iterable[_Union[WorkerScorer, _Mapping]]] = ..., seen_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WorkerScorer(_message.Message):
    __slots__ = ("scorer_id", "version")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    version: str
    def __init__(self, scorer_id: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ListScorerQueuesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListScorerQueuesResponse(_message.Message):
    __slots__ = ("queues", "next_page_token")
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[ScorerQueue]
    next_page_token: str
    def __init__(self, queues: _Optional[_Iterable[_Union[ScorerQueue, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ScorerQueue(_message.Message):
    __slots__ = ("scorer_id", "scorer_version", "due", "ahead", "oldest_due_age", "workers", "paused")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    DUE_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    OLDEST_DUE_AGE_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    scorer_version: str
    due: int
    ahead: int
    oldest_due_age: _duration_pb2.Duration
    workers: int
    paused: bool
    def __init__(self, scorer_id: _Optional[str] = ..., scorer_version: _Optional[str] = ..., due: _Optional[int] = ..., ahead: _Optional[int] = ..., oldest_due_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., workers: _Optional[int] = ..., paused: bool = ...) -> None: ...

class DeleteScorerRunsRequest(_message.Message):
    __slots__ = ("run_ids", "dry_run")
    RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    run_ids: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    def __init__(self, run_ids: _Optional[_Iterable[str]] = ..., dry_run: bool = ...) -> None: ...

class DeleteScorerRunsResponse(_message.Message):
    __slots__ = ("count", "more")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    count: int
    more: bool
    def __init__(self, count: _Optional[int] = ..., more: bool = ...) -> None: ...

class SubmitScoreRequest(_message.Message):
    __slots__ = ("run_id", "scorer_id", "value", "thumb", "label", "comment", "author", "request_id")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    THUMB_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    scorer_id: str
    value: float
    thumb: Thumb
    label: str
    comment: str
    author: str
    request_id: str
    def __init__(self, run_id: _Optional[str] = ..., scorer_id: _Optional[str] = ..., value: _Optional[float] = ..., thumb: _Optional[_Union[Thumb, str]] = ..., label: _Optional[str] = ..., comment: _Optional[str] = ..., author: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SubmitScoreResponse(_message.Message):
    __slots__ = ("scorer_run",)
    SCORER_RUN_FIELD_NUMBER: _ClassVar[int]
    scorer_run: _scorer_run_pb2.ScorerRun
    def __init__(self, scorer_run: _Optional[_Union[_scorer_run_pb2.ScorerRun, _Mapping]] = ...) -> None: ...

class ScorerBudget(_message.Message):
    __slots__ = ("scorer_id", "window", "max_tokens", "max_cost_usd", "spent_tokens", "spent_cost_usd")
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_USD_FIELD_NUMBER: _ClassVar[int]
    SPENT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPENT_COST_USD_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    window: _duration_pb2.Duration
    max_tokens: int
    max_cost_usd: float
    spent_tokens: int
    spent_cost_usd: float
    def __init__(self, scorer_id: _Optional[str] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_tokens: _Optional[int] = ..., max_cost_usd: _Optional[float] = ..., spent_tokens: _Optional[int] = ..., spent_cost_usd: _Optional[float] = ...) -> None: ...

class SetScorerBudgetRequest(_message.Message):
    __slots__ = ("budget",)
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    budget: ScorerBudget
    def __init__(self, budget: _Optional[_Union[ScorerBudget, _Mapping]] = ...) -> None: ...

class SetScorerBudgetResponse(_message.Message):
    __slots__ = ("budget",)
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    budget: ScorerBudget
    def __init__(self, budget: _Optional[_Union[ScorerBudget, _Mapping]] = ...) -> None: ...

class ListScorerBudgetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListScorerBudgetsResponse(_message.Message):
    __slots__ = ("budgets",)
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    budgets: _containers.RepeatedCompositeFieldContainer[ScorerBudget]
    def __init__(self, budgets: _Optional[_Iterable[_Union[ScorerBudget, _Mapping]]] = ...) -> None: ...
