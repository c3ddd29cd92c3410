"""Spans, where somebody asked for them: one trace from StartRun through the attempts at the run, its model requests,
tools and steps, to the messages for scorers. Off, which is the default, `span` costs a look at one name.

Names and attributes are those of OpenTelemetry's conventions for generative AI, and `runwire.*` beside them. What was
said (prompts, outputs, arguments) is left out unless content was asked for. docs/metrics.md lists all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
MAX_CONTENT_LENGTH: Final = 16 * 1024
"""Characters of one attribute that holds what was said."""

_tracer: Tracer | None = None
_content = False


class Span:
    """What is under way. Without tracing it is nothing, and takes everything."""

    carrier: Mapping[str, str] = {}
    """Its W3C trace context, `traceparent` and perhaps `tracestate`; empty without tracing."""

    def set(self, **attributes: Any) -> None:
        """By the names of the conventions, with `__` for each dot; those that are None are left out."""

    def say(self, name: str, value: Callable[[], Any]) -> None:
        """What was said, which is asked for only where content is wanted."""

    def rename(self, name: str) -> None:
        """Once more is known."""

    def fail(self, kind: str, message: str = "") -> None:
        """It went wrong: `kind` is error.type."""


_NOTHING: Final = Span()


class _Live(Span):
    def __init__(self, span: Any) -> None:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._span = span
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
        self.carrier = carrier

    def set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name.replace("__", "."), value)

    def say(self, name: str, value: Callable[[], Any]) -> None:
        if not _content:
            return
        try:
            said = value()
            text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, default=str)
        except Exception as error:  # an author's value; a trace must not cost the run
            text = f"<{type(error).__name__}>"
        self._span.set_attribute(name, text[:MAX_CONTENT_LENGTH])

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, kind: str, message: str = "") -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, message))


def switch_on(tracer: Tracer, *, content: bool = False) -> None:
    """Spans are made by this tracer from now on; with what was said, if `content`."""
    global _tracer, _content
    _tracer, _content = tracer, content


def switch_off() -> None:
    """No spans any more."""
    global _tracer
    _tracer = None


def is_on() -> bool:
    """Whether spans are made."""
    return _tracer is not None


@contextmanager
def span(
    name: str,
    *,
    kind: str = "internal",
    parent: Mapping[str, str] | None = None,
    links: Sequence[Mapping[str, str]] = (),
    **attributes: Any,
) -> Iterator[Span]:
    """A span around the block, within the one around that; within `parent`, another process's, where it is given, and
    linked to what is no parent. An exception that leaves the block fails it, by its class alone: its words may hold
    what was said."""
    if _tracer is None:
        yield _NOTHING
        return
    from opentelemetry.trace import SpanKind, use_span

    started = _tracer.start_span(
        name,
        context=_context_of(parent) if parent is not None else None,
        kind=SpanKind[kind.upper()],
        links=[link for carrier in links for link in _link(carrier)],
    )
    live = _Live(started)
    live.set(**attributes)
    with use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield live
        except BaseException as error:
            live.fail(type(error).__name__)
            raise


def _context_of(carrier: Mapping[str, str]) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(carrier, Context())


def _link(carrier: Mapping[str, str]) -> Iterator[Any]:
    from opentelemetry.trace import Link, get_current_span

    context = get_current_span(_context_of(carrier)).get_span_context()
    if context.is_valid:
        yield Link(context)


def trace_id(traceparent: str) -> str:
    """Of a W3C traceparent; empty where it is none."""
    return traceparent[3:35] if TRACEPARENT.fullmatch(traceparent) else ""


def carrier_of(traceparent: str, tracestate: str = "") -> dict[str, str]:
    """W3C trace context as a carrier; empty where it is none."""
    if not TRACEPARENT.fullmatch(traceparent):
        return {}
    return {"traceparent": traceparent, **({"tracestate": tracestate} if tracestate else {})}


def current() -> Mapping[str, str]:
    """The context of the span around the caller, no matter who made it; empty where there is none, or no
    OpenTelemetry."""
    try:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        return {}
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier
