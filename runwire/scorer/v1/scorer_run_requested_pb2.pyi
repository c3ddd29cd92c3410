import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScorerRunRequested(_message.Message):
    __slots__ = ("scorer_run_id", "tenant", "scorer_id", "scorer_version", "options", "sampling", "sample", "request_time", "deadline", "traceparent", "tracestate", "sibling_count", "scorer_name")
    SCORER_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SCORER_ID_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    SIBLING_COUNT_FIELD_NUMBER: _ClassVar[int]
    SCORER_NAME_FIELD_NUMBER: _ClassVar[int]
    scorer_run_id: str
    tenant: str
    scorer_id: str
    scorer_version: str
    options: _struct_pb2.Struct
    sampling: SamplingDecision
    sample: Sample
    request_time: _timestamp_pb2.Timestamp
    deadline: _timestamp_pb2.Timestamp
    traceparent: str
    tracestate: str
    sibling_count: int
    scorer_name: str
    def __init__(self, scorer_run_id: _Optional[str] = ..., tenant: _Optional[str] = ..., scorer_id: _Optional[str] = ..., scorer_version: _Optional[str] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., sampling: _Optional[_Union[SamplingDecision, _Mapping]] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ..., request_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., sibling_count: _Optional[int] = ..., scorer_name: _Optional[str] = ...) -> None: ...

class SamplingDecision(_message.Message):
    __slots__ = ("rate", "sampled")
    RATE_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    rate: float
    sampled: bool
    def __init__(self, rate: _Optional[float] = ..., sampled: bool = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("run_id", "agent_id", "agent_version", "run_state", "input", "output", "error_reason", "error_message", "tool_calls", "steps", "usage", "labels", "start_time", "end_time", "ground_truth", "context", "by_reference", "turn", "turns")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_STATE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    GROUND_TRUTH_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    BY_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    agent_id: str
    agent_version: str
    run_state: str
    input: _struct_pb2.Value
    output: _struct_pb2.Value
    error_reason: str
    error_message: str
    tool_calls: _containers.RepeatedCompositeFieldContainer[SampleToolCall]
    steps: _containers.RepeatedCompositeFieldContainer[SampleStep]
    usage: SampleUsage
    labels: _containers.ScalarMap[str, str]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    ground_truth: _struct_pb2.Value
    context: _containers.RepeatedScalarFieldContainer[str]
    by_reference: bool
    turn: int
    turns: _containers.RepeatedCompositeFieldContainer[SampleTurn]
    def __init__(self, run_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., agent_version: _Optional[str] = ..., run_state: _Optional[str] = ..., input: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., output: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., error_reason: _Optional[str] = ..., error_message: _Optional[str] = ..., tool_calls: _Optional[_Iterable[_Union[SampleToolCall, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[SampleStep, _Mapping]]] = ..., usage: _Optional[_Union[SampleUsage, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ground_truth: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., context: _Optional[_Iterable[str]] = ..., by_reference: bool = ..., turn: _Optional[int] = ..., turns: _Optional[_Iterable[_Union[SampleTurn, _Mapping]]] = ...) -> None: ...

class SampleTurn(_message.Message):
    __slots__ = ("turn", "message", "output", "state", "error_reason", "steering")
    TURN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    STEERING_FIELD_NUMBER: _ClassVar[int]
    turn: int
    message: _struct_pb2.Value
    output: _struct_pb2.Value
    state: str
    error_reason: str
    steering: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Value]
    def __init__(self, turn: _Optional[int] = ..., message: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., output: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., state: _Optional[str] = ..., error_reason: _Optional[str] = ..., steering: _Optional[_Iterable[_Union[_struct_pb2.Value, _Mapping]]] = ...) -> None: ...

class SampleToolCall(_message.Message):
    __slots__ = ("tool_call_id", "tool_name", "arguments", "result", "outcome", "step")
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    tool_call_id: str
    tool_name: str
    arguments: _struct_pb2.Value
    result: _struct_pb2.Value
    outcome: str
    step: int
    def __init__(self, tool_call_id: _Optional[str] = ..., tool_name: _Optional[str] = ..., arguments: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., result: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., outcome: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class SampleStep(_message.Message):
    __slots__ = ("step", "name", "text")
    STEP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    step: int
    name: str
    text: str
    def __init__(self, step: _Optional[int] = ..., name: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class SampleUsage(_message.Message):
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
