"""The language model that judges ask, through pydantic-ai."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from runwire.errors import ConfigurationError
from scorer_service.meter import METER, Meter
from scorer_service.scoring import Answer, NonRetriableError, ProviderUnavailable, RetryAfter

OutputT = TypeVar("OutputT")
_OUTPUT_RETRIES: Final = 1
"""How often the model is asked again, within an attempt, for an answer of the right form."""
TIMEOUT_SECONDS: Final = 60.0
"""Of one request."""
MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""A provider that asks for a longer pause is asked again after this one."""
_TAKE_TEMPERATURE: Final = re.compile(r"(gpt-3\.5|gpt-4|claude-|gemini-|mistral-|command-|llama)")


class JudgeError(Exception):
    """The judge model did not answer in the form asked for. Another attempt may succeed."""


class ModelJudge:
    """A Judge made of a pydantic-ai model. What it takes is counted by the meter of the attempt that asks."""

    def __init__(
        self, name: str, model: Any, *, temperature: float | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        """`temperature` None: 0 for models that are known to take one, none for the others."""
        self.name = name
        self._model = model
        # The queue repeats attempts, with the delay that the provider asks for; its client must not do so too.
        self._settings: dict[str, Any] = {"max_retries": 0, "timeout": timeout_seconds}
        if temperature is None and takes_temperature(model):
            temperature = 0.0
        if temperature is not None:
            self._settings["temperature"] = temperature

    async def ask(self, instructions: str, prompt: str, output_type: type[OutputT]) -> Answer[OutputT]:
        """As `scoring.Judge.ask`. The messages of what it raises never quote the provider, who may quote a key."""
        from pydantic_ai import Agent, capture_run_messages
        from pydantic_ai.usage import RunUsage

        agent: Any = Agent(
            self._model, output_type=output_type, instructions=instructions, retries=_OUTPUT_RETRIES, name="judge"
        )
        usage, meter = RunUsage(), METER.get()
        with capture_run_messages() as messages:
            try:
                if meter:
                    meter.begin(self.name)
                result = await agent.run(prompt, usage=usage, model_settings=self._settings)
                if meter:
                    meter.answered = "answered"
            except Exception as error:
                raise self._as_ours(error, meter) from None
            finally:
                if meter:
                    _count(meter, usage, messages, f"{instructions}\n\n{prompt}")
        return Answer[output_type](  # type: ignore[valid-type]
            output=result.output,
            model=self.name,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=_cost(messages),
        )

    def _as_ours(self, error: Exception, meter: Meter | None) -> Exception:
        """What went wrong: the provider (nothing to do with what it was asked), the request, or the answer."""
        from pydantic_ai import exceptions as ai

        meter = meter or Meter()
        meter.answered = "answered"
        if isinstance(error, ai.ContentFilterError):
            return NonRetriableError(f"{self.name} refused to judge", reason="judge_refused")
        if isinstance(error, (ai.ModelRequestRejectedError, ai.ModelQuotaExceededError)):
            return NonRetriableError(f"{self.name} rejected the request: {_what(error)}")
        if isinstance(error, ai.ModelAPIError):
            delay = None if error.retry_after is None else min(error.retry_after, MAX_RETRY_AFTER_SECONDS)
            meter.delay_seconds = delay
            if isinstance(error, ai.ModelRateLimitError):
                meter.answered = "rate_limited"
                return RetryAfter(delay or 0.0, f"{self.name} is rate limited")
            meter.answered = "provider_unavailable"
            return ProviderUnavailable(f"{self.name} did not answer: {_what(error)}", delay)
        if isinstance(error, ai.UnexpectedModelBehavior):
            return JudgeError(f"{self.name} did not answer in the form asked for")
        return JudgeError(f"{self.name} gave an answer that cannot be read: {type(error).__name__}")


def takes_temperature(model: Any) -> bool:
    """Whether a model is known to take a temperature. Those that reason do not, and refuse the whole request."""
    profile = getattr(model, "profile", None) or {}
    if profile.get("openai_supports_reasoning") or profile.get("anthropic_disallows_sampling_settings"):
        return False
    name = str(getattr(model, "model_name", ""))
    return _TAKE_TEMPERATURE.match(name.rpartition("/")[2]) is not None


def _what(error: Any) -> str:
    status = getattr(error, "status_code", None)
    return type(error).__name__.lstrip("_") + (f", HTTP status {status}" if status else "")


def _count(meter: Meter, usage: Any, messages: Any, prompt: str) -> None:
    """What the requests took that the model answered, however it answered them."""
    responses = _responses(messages)
    # One that nobody answered was made all the same.
    requests = len(responses) + (meter.answered != "answered")  # also by a provider that hangs until we are stopped
    meter.add(requests, usage.input_tokens, usage.output_tokens, _cost(messages))
    if not responses:
        meter.keep(prompt, "")  # what was asked is known, also where nobody answered
    for response in responses:
        meter.keep(prompt, "\n".join(_said(part) for part in response.parts))


def _said(part: Any) -> str:
    said = getattr(part, "args", None) or getattr(part, "content", None) or ""
    return said if isinstance(said, str) else repr(said)


def _responses(messages: Any) -> list[Any]:
    from pydantic_ai.messages import ModelResponse

    return [message for message in messages if isinstance(message, ModelResponse)]


def _cost(messages: Any) -> float | None:
    """US dollars of all requests; None where a price is not known."""
    try:
        return float(sum(response.cost().total_price for response in _responses(messages)))
    except (LookupError, ValueError, AssertionError, ArithmeticError, TypeError):
        return None


def configured_judge(
    model: str | None = None, *, temperature: float | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> ModelJudge:
    """The judge of a pydantic-ai model string, by default RUNWIRE_JUDGE_MODEL. Raises ConfigurationError."""
    name = model or os.environ.get("RUNWIRE_JUDGE_MODEL", "")
    if not name:
        raise ConfigurationError(
            "this scorer asks a language model, and none is configured: set RUNWIRE_JUDGE_MODEL or --judge-model, "
            "for example openai:gpt-4o-mini"
        )
    if find_spec("pydantic_ai") is None:
        raise ConfigurationError("judges need pydantic-ai, which is not installed: pip install 'runwire[judges]'")
    from pydantic_ai.models import infer_model

    try:
        return ModelJudge(name, infer_model(name), temperature=temperature, timeout_seconds=timeout_seconds)
    except Exception as error:  # each provider has errors of its own for a missing key or package
        raise ConfigurationError(f"the judge model {name!r} cannot be used: {error}") from None
