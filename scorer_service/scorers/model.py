"""The language model that judges ask, through pydantic-ai."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from runwire.errors import ConfigurationError
from scorer_service.scoring import Answer, NonRetriableError, RetryAfter

OutputT = TypeVar("OutputT")
_OUTPUT_RETRIES: Final = 1
"""How often the model is asked again, within an attempt, for an answer of the right form."""


class JudgeError(Exception):
    """The judge model did not answer, or not in the form asked for. Another attempt may succeed."""


class ModelJudge:
    """A Judge made of a pydantic-ai model."""

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self._model = model

    async def ask(self, instructions: str, prompt: str, output_type: type[OutputT]) -> Answer[OutputT]:
        """As `scoring.Judge.ask`. The messages of what it raises never quote the provider, who may quote a key."""
        from pydantic_ai import Agent, exceptions

        agent: Any = Agent(
            self._model, output_type=output_type, instructions=instructions, retries=_OUTPUT_RETRIES, name="judge"
        )
        try:
            # The queue repeats attempts, with the delay that the provider asks for; its client must not do so too.
            result = await agent.run(prompt, model_settings={"temperature": 0.0, "max_retries": 0})
        except exceptions.ContentFilterError:
            raise NonRetriableError(f"{self.name} refused to judge", reason="judge_refused") from None
        except exceptions.ModelRateLimitError as error:
            if error.retry_after is not None:
                raise RetryAfter(error.retry_after, f"{self.name} is rate limited") from None
            raise JudgeError(f"{self.name} is rate limited") from None
        except (exceptions.ModelRequestRejectedError, exceptions.ModelQuotaExceededError) as error:
            raise NonRetriableError(f"{self.name} rejected the request: {_what(error)}") from None
        except exceptions.ModelAPIError as error:
            raise JudgeError(f"{self.name} did not answer: {_what(error)}") from None
        except exceptions.UnexpectedModelBehavior:
            raise JudgeError(f"{self.name} did not answer in the form asked for") from None
        usage = result.usage
        return Answer[output_type](  # type: ignore[valid-type]
            output=result.output,
            model=self.name,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=_cost(result),
        )


def _what(error: Any) -> str:
    status = getattr(error, "status_code", None)
    return type(error).__name__.lstrip("_") + (f", HTTP status {status}" if status else "")


def _cost(result: Any) -> float | None:
    """US dollars of all requests; None where a price is not known."""
    from pydantic_ai.messages import ModelResponse

    responses = [message for message in result.new_messages() if isinstance(message, ModelResponse)]
    try:
        return float(sum(response.cost().total_price for response in responses))
    except (LookupError, ValueError, AssertionError):
        return None


def configured_judge(model: str | None = None) -> ModelJudge:
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
        return ModelJudge(name, infer_model(name))
    except Exception as error:  # each provider has errors of its own for a missing key or package
        raise ConfigurationError(f"the judge model {name!r} cannot be used: {error}") from None
