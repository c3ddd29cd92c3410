import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_KIND_UNSPECIFIED: _ClassVar[AgentKind]
    AGENT_KIND_AGENT: _ClassVar[AgentKind]
    AGENT_KIND_WORKFLOW: _ClassVar[AgentKind]

class MessageMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MESSAGE_MODE_UNSPECIFIED: _ClassVar[MessageMode]
    MESSAGE_MODE_QUEUE: _ClassVar[MessageMode]
    MESSAGE_MODE_STEER: _ClassVar[MessageMode]
    MESSAGE_MODE_INTERRUPT: _ClassVar[MessageMode]

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_QUEUED: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_SUSPENDED: _ClassVar[RunState]
    RUN_STATE_SUCCEEDED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
    RUN_STATE_CANCELLED: _ClassVar[RunState]
    RUN_STATE_WAITING: _ClassVar[RunState]

class PendingKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PENDING_KIND_UNSPECIFIED: _ClassVar[PendingKind]
    PENDING_KIND_APPROVAL: _ClassVar[PendingKind]
    PENDING_KIND_EXTERNAL_TOOL: _ClassVar[PendingKind]
    PENDING_KIND_DATA: _ClassVar[PendingKind]
    PENDING_KIND_TIME: _ClassVar[PendingKind]
AGENT_KIND_UNSPECIFIED: AgentKind
AGENT_KIND_AGENT: AgentKind
AGENT_KIND_WORKFLOW: AgentKind
MESSAGE_MODE_UNSPECIFIED: MessageMode
MESSAGE_MODE_QUEUE: MessageMode
MESSAGE_MODE_STEER: MessageMode
MESSAGE_MODE_INTERRUPT: MessageMode
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_QUEUED: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_SUSPENDED: RunState
RUN_STATE_SUCCEEDED: RunState
RUN_STATE_FAILED: RunState
RUN_STATE_CANCELLED: RunState
RUN_STATE_WAITING: RunState
PENDING_KIND_UNSPECIFIED: PendingKind
PENDING_KIND_APPROVAL: PendingKind
PENDING_KIND_EXTERNAL_TOOL: PendingKind
PENDING_KIND_DATA: PendingKind
PENDING_KIND_TIME: PendingKind

class Agent(_message.Message):
    __slots__ = ("agent_id", "description", "kind", "version", "input_schema", "output_schema", "scorers", "models", "model_settings")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    description: str
    kind: AgentKind
    version: str
    input_schema: _struct_pb2.Struct
    output_schema: _struct_pb2.Struct
    scorers: _containers.RepeatedCompositeFieldContainer[ScorerRef]
    models: _containers.RepeatedScalarFieldContainer[str]
    model_settings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, agent_id: _Optional[str] = ..., description: _Optional[str] = ..., kind: _Optional[_Union[AgentKind, str]] = ..., version: _Optional[str] = ..., input_schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., output_schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., scorers: _Optional[_Iterable[_Union[ScorerRef, _Mapping]]] = ..., models: _Optional[_Iterable[str]] = ..., model_settings: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelChoice(_message.Message):
    __slots__ = ("model", "settings")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    model: str
    settings: _struct_pb2.Struct
    def __init__(self, model: _Optional[str] = ..., settings: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class InputPart(_message.Message):
    __slots__ = ("text", "image", "audio", "video", "document")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    text: str
    image: Media
    audio: Media
    video: Media
    document: Media
    def __init__(self, text: _Optional[str] = ..., image: _Optional[_Union[Media, _Mapping]] = ..., audio: _Optional[_Union[Media, _Mapping]] = ..., video: _Optional[_Union[Media, _Mapping]] = ..., document: _Optional[_Union[Media, _Mapping]] = ...) -> None: ...

class Media(_message.Message):
    __slots__ = ("url", "data", "media_type")
    URL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    url: str
    data: bytes
    media_type: str
    def __init__(self, url: _Optional[str] = ..., data: _Optional[bytes] = ..., media_type: _Optional[str] = ...) -> None: ...

class ScorerRef(_message.Message):
    __slots__ = ("scorer_id", "sampling", "scorer_version", "match_labels", "match_states", "options", "name", "whole_conversation")
    class MatchLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    MATCH_LABELS_FIELD_NUMBER: _ClassVar[int]
    MATCH_STATES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHOLE_CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    scorer_id: str
    sampling: float
    scorer_version: str
    match_labels: _containers.ScalarMap[str, str]
    match_states: _containers.RepeatedScalarFieldContainer[RunState]
    options: _struct_pb2.Struct
    name: str
    whole_conversation: bool
    def __init__(self, scorer_id: _Optional[str] = ..., sampling: _Optional[float] = ..., scorer_version: _Optional[str] = ..., match_labels: _Optional[_Mapping[str, str]] = ..., match_states: _Optional[_Iterable[_Union[RunState, str]]] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., name: _Optional[str] = ..., whole_conversation: bool = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "agent_id", "state", "input", "output", "error", "attempt", "labels", "usage", "last_sequence", "cursor", "create_time", "start_time", "end_time", "expire_time", "scorers", "agent_version", "pending", "timeout", "attempts", "cancel_requested", "omitted", "owner", "conversation", "turn", "cancelled_by", "forked_from", "context", "model", "trace_id", "forked_from_sequence", "forked_from_turn", "forked_from_step")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_BY_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_TURN_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    agent_id: str
    state: RunState
    input: _struct_pb2.Value
    output: _struct_pb2.Value
    error: RunError
    attempt: int
    labels: _containers.ScalarMap[str, str]
    usage: Usage
    last_sequence: int
    cursor: str
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    scorers: _containers.RepeatedCompositeFieldContainer[ScorerRef]
    agent_version: str
    pending: _containers.RepeatedCompositeFieldContainer[PendingRequest]
    timeout: _duration_pb2.Duration
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    cancel_requested: bool
    omitted: _containers.RepeatedScalarFieldContainer[str]
    owner: str
    conversation: Conversation
    turn: Turn
    cancelled_by: str
    forked_from: str
    context: _struct_pb2.Struct
    model: ModelChoice
    trace_id: str
    forked_from_sequence: int
    forked_from_turn: int
    forked_from_step: int
    def __init__(self, run_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., input: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., output: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., error: _Optional[_Union[RunError, _Mapping]] = ..., attempt: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., last_sequence: _Optional[int] = ..., cursor: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scorers: _Optional[_Iterable[_Union[ScorerRef, _Mapping]]] = ..., agent_version: _Optional[str] = ..., pending: _Optional[_Iterable[_Union[PendingRequest, _Mapping]]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., cancel_requested: bool = ..., omitted: _Optional[_Iterable[str]] = ..., owner: _Optional[str] = ..., conversation: _Optional[_Union[Conversation, _Mapping]] = ..., turn: _Optional[_Union[Turn, _Mapping]] = ..., cancelled_by: _Optional[str] = ..., forked_from: _Optional[str] = ..., context: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., model: _Optional[_Union[ModelChoice, _Mapping]] = ..., trace_id: _Optional[str] = ..., forked_from_sequence: _Optional[int] = ..., forked_from_turn: _Optional[int] = ..., forked_from_step: _Optional[int] = ...) -> None: ...

class Conversation(_message.Message):
    __slots__ = ("idle_timeout",)
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    idle_timeout: _duration_pb2.Duration
    def __init__(self, idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("turn", "state", "message", "message_number", "output", "error", "usage", "first_sequence", "last_sequence", "start_time", "end_time", "first_step", "last_step")
    TURN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    turn: int
    state: RunState
    message: _struct_pb2.Value
    message_number: int
    output: _struct_pb2.Value
    error: RunError
    usage: Usage
    first_sequence: int
    last_sequence: int
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    first_step: int
    last_step: int
    def __init__(self, turn: _Optional[int] = ..., state: _Optional[_Union[RunState, str]] = ..., message: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., message_number: _Optional[int] = ..., output: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., error: _Optional[_Union[RunError, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., first_step: _Optional[int] = ..., last_step: _Optional[int] = ...) -> None: ...

class RunError(_message.Message):
    __slots__ = ("reason", "message", "error_class")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    error_class: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., error_class: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("requests", "input_tokens", "output_tokens", "tool_calls")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    requests: int
    input_tokens: int
    output_tokens: int
    tool_calls: int
    def __init__(self, requests: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., tool_calls: _Optional[int] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("attempt", "worker", "start_time", "end_time", "outcome")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    worker: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    outcome: str
    def __init__(self, attempt: _Optional[int] = ..., worker: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., outcome: _Optional[str] = ...) -> None: ...

class PendingRequest(_message.Message):
    __slots__ = ("request_id", "kind", "name", "arguments", "schema", "deadline", "tool_call_id", "metadata")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    kind: PendingKind
    name: str
    arguments: _struct_pb2.Value
    schema: _struct_pb2.Struct
    deadline: _timestamp_pb2.Timestamp
    tool_call_id: str
    metadata: _struct_pb2.Struct
    def __init__(self, request_id: _Optional[str] = ..., kind: _Optional[_Union[PendingKind, str]] = ..., name: _Optional[str] = ..., arguments: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tool_call_id: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...
