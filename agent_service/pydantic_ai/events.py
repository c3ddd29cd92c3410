"""Tool calls of pydantic-ai as events of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic_ai.messages import (
    BaseToolCallPart,
    CitationAnchor,
    CitationSource,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    WebCitationSource,
)

from runwire.agent.v1 import run_event_pb2
from runwire.values import carry_text, carry_value

_MAX_CITATIONS: Final = 256
_MAX_NAME_BYTES: Final = 8_192
_MAX_QUOTE_BYTES: Final = 2_000
_DEFERRED: Final = frozenset({"approval_required", "call_deferred"})
_RETURNED: Final = frozenset({"tool_return", "tool_content_result"})
_OUTCOMES: Final[Mapping[str, run_event_pb2.ToolCallOutcome]] = {
    "success": run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED,
    "denied": run_event_pb2.TOOL_CALL_OUTCOME_DENIED,
}


def started(part: ToolCallPart) -> run_event_pb2.ToolCallStarted:
    return run_event_pb2.ToolCallStarted(
        tool_call_id=carry_text(part.tool_call_id),
        tool_name=carry_text(part.tool_name),
        arguments=carry_value(arguments(part)),
    )


def finished(part: ToolCallPart, result: Any, outcome: run_event_pb2.ToolCallOutcome) -> Any:
    return run_event_pb2.ToolCallFinished(
        tool_call_id=carry_text(part.tool_call_id),
        tool_name=carry_text(part.tool_name),
        result=carry_value(result),
        outcome=outcome,
    )


def arguments(part: BaseToolCallPart[Any]) -> Any:
    """The arguments as JSON; as the model wrote them where that is no JSON."""
    try:
        return part.args_as_dict()
    except (ValueError, AssertionError):
        return part.args


def native(part: NativeToolCallPart | NativeToolReturnPart) -> Any:
    """Of a tool that the model's provider executes itself."""
    call_id, name = carry_text(part.tool_call_id), carry_text(part.tool_name)
    if isinstance(part, NativeToolCallPart):
        return run_event_pb2.ToolCallStarted(
            tool_call_id=call_id, tool_name=name, arguments=carry_value(arguments(part)), native=True
        )
    return run_event_pb2.ToolCallFinished(
        tool_call_id=call_id,
        tool_name=name,
        result=carry_value(part.model_response_object()),
        outcome=_OUTCOMES.get(part.outcome, run_event_pb2.TOOL_CALL_OUTCOME_FAILED),
    )


def citations(response: ModelResponse) -> Iterator[run_event_pb2.CitationAdded]:
    """What a response cites, with places in its whole text."""
    before, told = 0, 0
    for part in response.parts:
        if not isinstance(part, TextPart):
            continue
        for citation in part.citations or ():
            for source in citation.sources:
                told += 1
                if told <= _MAX_CITATIONS:
                    yield _citation(source, citation.anchor, before)
        before += len(part.content)


def _citation(source: CitationSource, anchor: CitationAnchor | None, before: int) -> run_event_pb2.CitationAdded:
    web = isinstance(source, WebCitationSource)
    return run_event_pb2.CitationAdded(
        url=carry_text(source.url, _MAX_NAME_BYTES) if isinstance(source, WebCitationSource) else "",
        title=carry_text(source.title or "", _MAX_NAME_BYTES),
        source="" if web else carry_text(getattr(source, "document_id", None) or "", _MAX_NAME_BYTES),
        quote=carry_text("\n".join(source.excerpts), _MAX_QUOTE_BYTES),
        start=before + anchor.start if anchor is not None else 0,
        end=before + anchor.end if anchor is not None else 0,
    )


def outcome_of(result: ToolReturnPart) -> run_event_pb2.ToolCallOutcome:
    """How a call ended that no tool was executed for."""
    return _OUTCOMES.get(result.outcome, run_event_pb2.TOOL_CALL_OUTCOME_FAILED)


# A payload is pydantic_ai.durable_exec.CallToolResult as JSON, whose shape is persisted data and stays readable.


def is_deferred(payload: Mapping[str, Any]) -> bool:
    """Whether a tool did not end: it waits for an approval, or for somebody else to execute it."""
    return payload["kind"] in _DEFERRED


def result_of(payload: Mapping[str, Any]) -> tuple[Any, run_event_pb2.ToolCallOutcome]:
    """What a tool returned, or what the model was told in its place, and how it ended."""
    if payload["kind"] in _RETURNED:
        result = payload["result"]
        if isinstance(result, dict) and result.get("kind") == "tool-return":
            result = result["return_value"]
        return result, run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
    return payload.get("message") or payload.get("title"), run_event_pb2.TOOL_CALL_OUTCOME_FAILED
