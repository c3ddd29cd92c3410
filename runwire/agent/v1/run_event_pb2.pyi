import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from runwire.agent.v1 import run_pb2 as _run_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToolCallOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOOL_CALL_OUTCOME_UNSPECIFIED: _ClassVar[ToolCallOutcome]
    TOOL_CALL_OUTCOME_SUCCEEDED: _ClassVar[ToolCallOutcome]
    TOOL_CALL_OUTCOME_FAILED: _ClassVar[ToolCallOutcome]
    TOOL_CALL_OUTCOME_DENIED: _ClassVar[ToolCallOutcome]
    TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH: _ClassVar[ToolCallOutcome]
TOOL_CALL_OUTCOME_UNSPECIFIED: ToolCallOutcome
TOOL_CALL_OUTCOME_SUCCEEDED: ToolCallOutcome
TOOL_CALL_OUTCOME_FAILED: ToolCallOutcome
TOOL_CALL_OUTCOME_DENIED: ToolCallOutcome
TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH: ToolCallOutcome

class RunEvent(_message.Message):
    __slots__ = ("sequence", "create_time", "attempt", "step", "turn", "run_started", "step_started", "text_delta", "reasoning_delta", "tool_call_started", "tool_call_finished", "step_finished", "run_suspended", "run_resumed", "custom", "run_finished", "turn_started", "turn_finished", "message_received", "tool_call_delta", "output_delta", "citation_added", "tool_call_retried")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    RUN_STARTED_FIELD_NUMBER: _ClassVar[int]
    STEP_STARTED_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    REASONING_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_STARTED_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FINISHED_FIELD_NUMBER: _ClassVar[int]
    STEP_FINISHED_FIELD_NUMBER: _ClassVar[int]
    RUN_SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    RUN_RESUMED_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_FIELD_NUMBER: _ClassVar[int]
    RUN_FINISHED_FIELD_NUMBER: _ClassVar[int]
    TURN_STARTED_FIELD_NUMBER: _ClassVar[int]
    TURN_FINISHED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_DELTA_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_DELTA_FIELD_NUMBER: _ClassVar[int]
    CITATION_ADDED_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_RETRIED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    create_time: _timestamp_pb2.Timestamp
    attempt: int
    step: int
    turn: int
    run_started: RunStarted
    step_started: StepStarted
    text_delta: TextDelta
    reasoning_delta: ReasoningDelta
    tool_call_started: ToolCallStarted
    tool_call_finished: ToolCallFinished
    step_finished: StepFinished
    run_suspended: RunSuspended
    run_resumed: RunResumed
    custom: CustomEvent
    run_finished: RunFinished
    turn_started: TurnStarted
    turn_finished: TurnFinished
    message_received: MessageReceived
    tool_call_delta: ToolCallDelta
    output_delta: OutputDelta
    citation_added: CitationAdded
    tool_call_retried: ToolCallRetried
    def __init__(self, sequence: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., step: _Optional[int] = ..., turn: _Optional[int] = ..., run_started: _Optional[_Union[RunStarted, _Mapping]] = ..., step_started: _Optional[_Union[StepStarted, _Mapping]] = ..., text_delta: _Optional[_Union[TextDelta, _Mapping]] = ..., reasoning_delta: _Optional[_Union[ReasoningDelta, _Mapping]] = ..., tool_call_started: _Optional[_Union[ToolCallStarted, _Mapping]] = ..., tool_call_finished: _Optional[_Union[ToolCallFinished, _Mapping]] = ..., step_finished: _Optional[_Union[StepFinished, _Mapping]] = ..., run_suspended: _Optional[_Union[RunSuspended, _Mapping]] = ..., run_resumed: _Optional[_Union[RunResumed, _Mapping]] = ..., custom: _Optional[_Union[CustomEvent, _Mapping]] = ..., run_finished: _Optional[_Union[RunFinished, _Mapping]] = ..., turn_started: _Optional[_Union[TurnStarted, _Mapping]] = ..., turn_finished: _Optional[_Union[TurnFinished, _Mapping]] = ..., message_received: _Optional[_Union[MessageReceived, _Mapping]] = ..., tool_call_delta: _Optional[_Union[ToolCallDelta, _Mapping]] = ..., output_delta: _Optional[_Union[OutputDelta, _Mapping]] = ..., citation_added: _Optional[_Union[CitationAdded, _Mapping]] = ..., tool_call_retried: _Optional[_Union[ToolCallRetried, _Mapping]] = ...) -> None: ...

class RunStarted(_message.Message):
    __slots__ = ("run_id", "agent_id", "input")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    agent_id: str
    input: _struct_pb2.Value
    def __init__(self, run_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., input: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class StepStarted(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class TextDelta(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class ReasoningDelta(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class ToolCallDelta(_message.Message):
    __slots__ = ("tool_call_id", "tool_name", "arguments")
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    tool_call_id: str
    tool_name: str
    arguments: str
    def __init__(self, tool_call_id: _Optional[str] = ..., tool_name: _Optional[str] = ..., arguments: _Optional[str] = ...) -> None: ...

class OutputDelta(_message.Message):
    __slots__ = ("text", "output_id")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_ID_FIELD_NUMBER: _ClassVar[int]
    text: str
    output_id: str
    def __init__(self, text: _Optional[str] = ..., output_id: _Optional[str] = ...) -> None: ...

class CitationAdded(_message.Message):
    __slots__ = ("url", "title", "source", "quote", "start", "end")
    URL_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    url: str
    title: str
    source: str
    quote: str
    start: int
    end: int
    def __init__(self, url: _Optional[str] = ..., title: _Optional[str] = ..., source: _Optional[str] = ..., quote: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ToolCallStarted(_message.Message):
    __slots__ = ("tool_call_id", "tool_name", "arguments", "native")
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    NATIVE_FIELD_NUMBER: _ClassVar[int]
    tool_call_id: str
    tool_name: str
    arguments: _struct_pb2.Value
    native: bool
    def __init__(self, tool_call_id: _Optional[str] = ..., tool_name: _Optional[str] = ..., arguments: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., native: bool = ...) -> None: ...

class ToolCallRetried(_message.Message):
    __slots__ = ("tool_call_id", "tool_name", "error", "tries", "delay")
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_NAME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    tool_call_id: str
    tool_name: str
    error: _run_pb2.RunError
    tries: int
    delay: _duration_pb2.Duration
    def __init__(self, tool_call_id: _Optional[str] = ..., tool_name: _Optional[str] = ..., error: _Optional[_Union[_run_pb2.RunError, _Mapping]] = ..., tries: _Optional[int] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ToolCallFinished(_message.Message):
    __slots__ = ("tool_call_id", "tool_name", "result", "outcome", "error")
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_NAME_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    tool_call_id: str
    tool_name: str
    result: _struct_pb2.Value
    outcome: ToolCallOutcome
    error: _run_pb2.RunError
    def __init__(self, tool_call_id: _Optional[str] = ..., tool_name: _Optional[str] = ..., result: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., outcome: _Optional[_Union[ToolCallOutcome, str]] = ..., error: _Optional[_Union[_run_pb2.RunError, _Mapping]] = ...) -> None: ...

class StepFinished(_message.Message):
    __slots__ = ("name", "usage")
    NAME_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    usage: _run_pb2.Usage
    def __init__(self, name: _Optional[str] = ..., usage: _Optional[_Union[_run_pb2.Usage, _Mapping]] = ...) -> None: ...

class RunSuspended(_message.Message):
    __slots__ = ("pending",)
    PENDING_FIELD_NUMBER: _ClassVar[int]
    pending: _containers.RepeatedCompositeFieldContainer[_run_pb2.PendingRequest]
    def __init__(self, pending: _Optional[_Iterable[_Union[_run_pb2.PendingRequest, _Mapping]]] = ...) -> None: ...

class RunResumed(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    def __init__(self, answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("request_id", "approve", "deny", "data", "by", "metadata")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    APPROVE_FIELD_NUMBER: _ClassVar[int]
    DENY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    approve: Approve
    deny: Deny
    data: _struct_pb2.Value
    by: str
    metadata: _struct_pb2.Struct
    def __init__(self, request_id: _Optional[str] = ..., approve: _Optional[_Union[Approve, _Mapping]] = ..., deny: _Optional[_Union[Deny, _Mapping]] = ..., data: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., by: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Approve(_message.Message):
    __slots__ = ("override_arguments",)
    OVERRIDE_ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    override_arguments: _struct_pb2.Struct
    def __init__(self, override_arguments: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Deny(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class CustomEvent(_message.Message):
    __slots__ = ("type", "data")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    type: str
    data: _struct_pb2.Struct
    def __init__(self, type: _Optional[str] = ..., data: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class RunFinished(_message.Message):
    __slots__ = ("state", "output", "error", "usage")
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    state: _run_pb2.RunState
    output: _struct_pb2.Value
    error: _run_pb2.RunError
    usage: _run_pb2.Usage
    def __init__(self, state: _Optional[_Union[_run_pb2.RunState, str]] = ..., output: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., error: _Optional[_Union[_run_pb2.RunError, _Mapping]] = ..., usage: _Optional[_Union[_run_pb2.Usage, _Mapping]] = ...) -> None: ...

class TurnStarted(_message.Message):
    __slots__ = ("message", "message_number", "mode")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    message: _struct_pb2.Value
    message_number: int
    mode: _run_pb2.MessageMode
    def __init__(self, message: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., message_number: _Optional[int] = ..., mode: _Optional[_Union[_run_pb2.MessageMode, str]] = ...) -> None: ...

class TurnFinished(_message.Message):
    __slots__ = ("state", "output", "error", "usage")
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    state: _run_pb2.RunState
    output: _struct_pb2.Value
    error: _run_pb2.RunError
    usage: _run_pb2.Usage
    def __init__(self, state: _Optional[_Union[_run_pb2.RunState, str]] = ..., output: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., error: _Optional[_Union[_run_pb2.RunError, _Mapping]] = ..., usage: _Optional[_Union[_run_pb2.Usage, _Mapping]] = ...) -> None: ...

class MessageReceived(_message.Message):
    __slots__ = ("message", "message_number", "mode")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    message: _struct_pb2.Value
    message_number: int
    mode: _run_pb2.MessageMode
    def __init__(self, message: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., message_number: _Optional[int] = ..., mode: _Optional[_Union[_run_pb2.MessageMode, str]] = ...) -> None: ...
