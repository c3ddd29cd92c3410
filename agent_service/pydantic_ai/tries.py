"""What exceptions of tools do: by a policy a tool is called again, and in the end the run fails or the model is told.

    failed/<step>/<call>/<n>    the n-th time that a tool raised for this call: what, and when it is called again

Each is recorded before anything follows from it, so that a tool is called as often as its policy says, whatever process
dies in between. A run that another continues from leaves these entries behind: there the tool is called again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pydantic_ai.exceptions import UsageLimitExceeded, UserError
from pydantic_ai.messages import ToolCallPart
from pydantic_core import from_json, to_json

from agent_service.agents.context import NonRetriable, Retry
from agent_service.agents.pauses import pause
from agent_service.log.journal import FAILED, Journal
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import ConfigurationError
from runwire.redaction import redact
from runwire.values import carry_text

Retries = Retry | Sequence[Retry]
"""How often a tool is called; of several the first counts whose `on` is the class of what was raised."""
AtTheEnd = Literal["fail_run", "tell_model"]
"""What becomes of an exception after which a tool is not called again."""

_MISUSE: Final = (UserError, UsageLimitExceeded)
"""Of the agent, or of its budget: no try of a tool changes it, and it is no affair of the model's."""
_MAX_WORDS: Final = 100_000
_MAX_TOLD: Final = 2_000


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """For all tools of an agent, and for those that are named."""

    retries: Retries
    named: Mapping[str, Retries]
    end: AtTheEnd
    named_ends: Mapping[str, AtTheEnd]

    def retry(self, tool: str, error: Exception) -> Retry | None:
        """How it continues after this; None: it does not."""
        if isinstance(error, (*_MISUSE, NonRetriable)):
            return None
        policies = self.named.get(tool, self.retries)
        for policy in (policies,) if isinstance(policies, Retry) else policies:
            if isinstance(error, policy.on):
                return policy
        return None

    def at_the_end(self, tool: str, error: Exception) -> AtTheEnd:
        return "fail_run" if isinstance(error, _MISUSE) else self.named_ends.get(tool, self.end)


def policy(
    agent: str,
    tool_retry: Retries | Mapping[str, Retries],
    on_tool_error: AtTheEnd | Mapping[str, AtTheEnd],
    default: Retry,
) -> ToolPolicy:
    """What `durable_agent` was given, checked. Raises ConfigurationError."""
    retries = tool_retry if isinstance(tool_retry, Mapping) else {"": tool_retry}
    for tool, given in retries.items():
        each = (given,) if isinstance(given, Retry) else given
        if not isinstance(each, Sequence) or not all(isinstance(one, Retry) for one in each):
            where = f"tool_retry[{tool!r}]" if tool else "tool_retry"
            raise ConfigurationError(
                f"durable_agent({agent!r}): {where} is {given!r}; it must be a Retry, or several: Retry(attempts=3)"
            )
    ends = on_tool_error if isinstance(on_tool_error, Mapping) else {"": on_tool_error}
    for end in ends.values():
        if end not in ("fail_run", "tell_model"):
            raise ConfigurationError(
                f"durable_agent({agent!r}): on_tool_error is {end!r}; it can be 'fail_run' or 'tell_model'"
            )
    return ToolPolicy(retries.get("", default), retries, ends.get("", "fail_run"), ends)


class ToolRaised(Exception):
    """What a tool raised in an attempt before, for the last time."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A time that a tool raised."""

    error_class: str
    message: str
    again_at: float | None
    """Seconds since the Unix epoch, by the store's clock; None: it is not called again."""
    told_model: bool = False

    @property
    def is_end(self) -> bool:
        """Whether it ends the run."""
        return self.again_at is None and not self.told_model

    def to_proto(self) -> run_pb2.RunError:
        return run_pb2.RunError(reason="tool_error", message=self.message, error_class=self.error_class)

    def words(self) -> str:
        """For the model."""
        return f"The tool failed. {self.error_class}: {self.message[:_MAX_TOLD]}"

    def again(self) -> ToolRaised:
        """To raise once more what it raised: by the same name, as the run's error says it."""
        return type(self.error_class, (ToolRaised,), {})(self.message)  # type: ignore[no-any-return]


class Tries:
    """The failures of the tool calls of one run."""

    def __init__(self, journal: Journal, now: Callable[[], float], policy: ToolPolicy) -> None:
        self._journal = journal
        self._now = now
        self._policy = policy

    def of(self, call: str) -> list[Failure]:
        """The times that the tool raised for this call, oldest first."""
        found: list[Failure] = []
        while (data := self._journal.get(f"{FAILED}{call}/{len(found) + 1}")) is not None:
            found.append(Failure(**from_json(data)))
        return found

    async def pause(self, last: Failure) -> None:
        """Waits for what is left of the pause after it."""
        await pause((last.again_at or 0.0) - self._now())

    async def failed(
        self, call: str, part: ToolCallPart, before: Sequence[Failure], error: Exception, step: int, repeatable: bool
    ) -> Failure:
        """Records that the tool raised once more, and tells it. Returns with what follows."""
        tries = len(before) + 1
        retry = self._policy.retry(part.tool_name, error) if repeatable else None
        delay = retry.delay(tries) if retry is not None and tries < retry.attempts else None
        failure = Failure(
            carry_text(type(error).__name__, 256),
            redact(_words(error)),
            None if delay is None else self._now() + delay,
            delay is None and self._policy.at_the_end(part.tool_name, error) == "tell_model",
        )
        event: dict[str, Any] = {}
        if delay is not None:
            event["tool_call_retried"] = retried = run_event_pb2.ToolCallRetried(
                tool_call_id=carry_text(part.tool_call_id),
                tool_name=carry_text(part.tool_name),
                error=failure.to_proto(),
                tries=tries,
            )
            retried.delay.FromNanoseconds(int(delay * 1e9))
        elif not failure.told_model:
            event["tool_call_finished"] = run_event_pb2.ToolCallFinished(
                tool_call_id=carry_text(part.tool_call_id),
                tool_name=carry_text(part.tool_name),
                outcome=run_event_pb2.TOOL_CALL_OUTCOME_FAILED,
                error=failure.to_proto(),
            )
        await self._journal.record(f"{FAILED}{call}/{tries}", to_json(asdict(failure)), step=step, **event)
        return failure


def _words(error: Exception) -> str:
    try:
        return str(error)[:_MAX_WORDS]
    except Exception:  # the class is the author's, and may fail in this too
        return ""
