"""What a scorer is, and how one is carried out. No service is needed for any of this.

A scorer is a function of a sample, or a `Pipeline` of the steps preprocess, analyze, score and reason. The first
parameter of every step is the sample; the others are given by name, and a step takes those it wants:

    options        the settings of the request: a pydantic model if so annotated, else a dict
    preprocessed   what the step `preprocess` returned
    analysis       what the step `analyze` returned
    score          the Score (step `reason` only)
    judge          a Judge: the language model to ask

Results of `preprocess` and `analyze` are kept between attempts as JSON. They come back as the type that the step says
it returns, so annotate it: a pydantic model, a dataclass, a list, a dict ...
"""

from __future__ import annotations

import asyncio
import inspect
import math
import reprlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from runwire import parts
from runwire.backoff import Backoff
from runwire.errors import ConfigurationError
from runwire.scorer_errors import NonRetriableError as NonRetriableError
from runwire.scorer_errors import NotScorable as NotScorable
from runwire.scorer_errors import ProviderUnavailable as ProviderUnavailable
from runwire.scorer_errors import RetryAfter as RetryAfter
from runwire.values import carry_text, carry_value, from_value, json_text

Direction = Literal["higher", "lower"]
"""Which way scores are better."""

OutputT = TypeVar("OutputT")
_MAX_TEXT_BYTES: Final = 256 * 1024


class ToolCall(BaseModel):
    """One tool call of a run."""

    model_config = ConfigDict(frozen=True)

    tool_name: str
    arguments: Any = None
    result: Any = None
    outcome: str = "succeeded"
    """`succeeded`, `failed`, `denied` or `unknown_after_crash`."""
    tool_call_id: str = ""
    step: int = 0


class Step(BaseModel):
    """One step of a run."""

    model_config = ConfigDict(frozen=True)

    step: int
    name: str = ""
    text: str = ""


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True)

    turn: int
    message: Any = None
    output: Any = None
    state: str = "succeeded"
    """`succeeded`, `failed` or `cancelled`."""
    error_reason: str = ""
    steering: list[Any] = Field(default_factory=list)
    """Messages that came while it was under way."""


class Usage(BaseModel):
    """What a run used."""

    model_config = ConfigDict(frozen=True)

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    tool_calls: int = 0


class Sample(BaseModel):
    """A finished run as scorers see it: runwire.scorer.v1.Sample."""

    model_config = ConfigDict(frozen=True)

    input: Any = None
    output: Any = None
    run_id: str = ""
    agent_id: str = ""
    agent_version: str = ""
    run_state: str = "succeeded"
    """`succeeded`, `failed` or `cancelled`."""
    error_reason: str = ""
    error_message: str = ""
    tool_calls: list[ToolCall] = Field(default_factory=list)
    """In the order in which they began."""
    steps: list[Step] = Field(default_factory=list)
    usage: Usage = Field(default_factory=Usage)
    labels: dict[str, str] = Field(default_factory=dict)
    start_time: datetime | None = None
    end_time: datetime | None = None
    ground_truth: Any = None
    """What a right answer looks like; None where nobody said."""
    context: list[str] = Field(default_factory=list)
    """Passages that the answer should rest on."""
    turn: int = 0
    """The turn of a conversation that this is a sample of: `input` is its message. 0: of a whole run."""
    turns: list[Turn] = Field(default_factory=list)
    """Of a whole conversation, in order."""

    @property
    def input_text(self) -> str:
        """The input as text: see `text_of`."""
        return text_of(self.input)

    @property
    def output_text(self) -> str:
        """The output as text: see `text_of`."""
        return text_of(self.output)


def text_of(value: Any) -> str:
    """A JSON value as text: a string as it is, anything else the strings and numbers in it, a line each; of parts
    (`runwire.parts`) the text, the URL, or what kind of file it is."""
    if isinstance(value, str):
        return value
    return "\n".join(_leaves(value))


def _leaves(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        if (said := parts.as_text(value)) is not None:
            return [said]  # of an image its kind: a judge is not to be paid for a megabyte of base64
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, float) and value.is_integer():
        return [str(int(value))]  # JSON has one kind of number: 3 arrives as 3.0
    return [str(value)]


class BadScore(NonRetriableError):
    """What the scorer returned is no score: not a finite number, or too large."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="bad_score")


@dataclass(frozen=True)
class Judgement:
    """What a judge was asked and what it used."""

    model: str
    prompt_version: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    """None where the price of the model is not known."""


@dataclass(frozen=True)
class Score:
    """What a scorer found. Raises BadScore unless `value` is a finite number."""

    value: float
    """Any number: bool, Decimal and the numbers of other libraries too."""
    label: str = ""
    """A text; what is none is taken by its text, an enum by its value, None as empty."""
    reason: str = ""
    """As `label`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Anything; see `runwire.values` for how it is carried as JSON."""
    judgement: Judgement | None = None

    def __post_init__(self) -> None:
        value = _number(self.value)
        if not math.isfinite(value):
            raise BadScore(f"a score must be a finite number, got {reprlib.repr(self.value)}")
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "label", text_of_any(self.label))
        object.__setattr__(self, "reason", text_of_any(self.reason))


def _number(value: Any) -> float:
    """As a float; NaN for what is no number."""
    try:
        return math.nan if isinstance(value, (str, bytes, bytearray)) else float(value)
    except OverflowError:
        return math.inf
    except Exception:
        return math.nan


def text_of_any(value: Any) -> str:
    """What an author gave for a text, as one: None is empty, an enum its value, anything else as JSON has it. Raises
    nothing."""
    if type(value) is str:
        return carry_text(value, _MAX_TEXT_BYTES)
    plain = from_value(carry_value(value, _MAX_TEXT_BYTES))
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json_text(plain, _MAX_TEXT_BYTES)


class Answer(BaseModel, typing.Generic[OutputT]):
    """What a judge said, and what it took."""

    output: OutputT
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    cut: dict[str, int] = Field(default_factory=dict)
    """Which parts of what was to be judged were too long to be shown whole, and how many characters they had."""


class Judge(Protocol):
    """A language model that scorers ask."""

    async def ask(self, instructions: str, prompt: str, output_type: type[OutputT]) -> Answer[OutputT]:
        """One answer of the form `output_type`. Raises RetryAfter when the model is asked too often,
        ProviderUnavailable when it cannot be reached, NonRetriableError when it refuses, and any other exception for
        what a retry may heal."""
        ...


@dataclass(frozen=True)
class RetryPolicy:
    """How often an attempt that raised is repeated, and when: a random part of a delay that doubles. Waiting for what
    cannot be had (see ProviderUnavailable) is no attempt: it continues for `wait_seconds`, with the same pauses."""

    retries: int = 4
    first_delay_seconds: float = 15.0
    max_delay_seconds: float = 7200.0
    wait_seconds: float = 86_400.0

    def ceiling(self, failures: int) -> float:
        """The longest delay after this many failed attempts (1 or more)."""
        return Backoff(self.first_delay_seconds, self.max_delay_seconds).bound(failures)


StepFunction = Callable[..., Any]
_PARAMETERS: Final = {
    "preprocess": {"options", "judge"},
    "analyze": {"options", "judge", "preprocessed"},
    "score": {"options", "judge", "preprocessed", "analysis"},
    "reason": {"options", "judge", "preprocessed", "analysis", "score"},
}
_RESULT_NAMES: Final = {"preprocess": "preprocessed", "analyze": "analysis", "score": "score"}
_SCORE: Final = TypeAdapter(Score)


class _Step:
    """One step of a scorer: its function and what that wants."""

    def __init__(self, scorer_id: str, name: str, function: StepFunction) -> None:
        self.name = name
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters:
            raise ConfigurationError(f"scorer {scorer_id!r}: step {name} takes no sample")
        self.wants = [parameter.name for parameter in parameters[1:] if parameter.default is parameter.empty]
        self.wants += [p.name for p in parameters[1:] if p.default is not p.empty and p.name in _PARAMETERS[name]]
        if unknown := set(self.wants) - _PARAMETERS[name]:
            raise ConfigurationError(
                f"scorer {scorer_id!r}: step {name} has the unknown parameters {sorted(unknown)}; "
                f"known are the sample, then {sorted(_PARAMETERS[name])}"
            )
        hints = self._hints(scorer_id) if "options" in self.wants or name in ("preprocess", "analyze") else {}
        self.options_type = hints.get("options")
        self.result = _SCORE if name == "score" else TypeAdapter(hints.get("return", Any))

    def _hints(self, scorer_id: str) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self.function)
        except NameError as error:
            raise ConfigurationError(
                f"scorer {scorer_id!r}: step {self.name} has an unknown annotation: {error}"
            ) from None

    async def call(self, sample: Sample, values: Mapping[str, Any]) -> Any:
        arguments = {name: values.get(name) for name in self.wants}
        if self.is_async:
            return await self.function(sample, **arguments)
        return await asyncio.to_thread(self.function, sample, **arguments)


class Scorer:
    """A scorer and its settings. Made by `scorer` and by `Pipeline`; calling it calls its function."""

    def __init__(
        self,
        id: str,
        version: str,
        functions: Mapping[str, StepFunction],
        *,
        description: str = "",
        direction: Direction = "higher",
        timeout_seconds: float | None = None,
        retry: RetryPolicy | None = None,
        concurrency: int | None = None,
        process: bool = False,
        prompt_version: str = "",
    ) -> None:
        for name, value in (("id", id), ("version", version)):
            if not value or len(value) > 128 or not value.isprintable():
                raise ConfigurationError(f"a scorer's {name} must be 1 to 128 printable characters, got {value!r}")
        if direction not in ("higher", "lower"):
            raise ConfigurationError(f"scorer {id!r}: direction must be 'higher' or 'lower', got {direction!r}")
        if concurrency is not None and concurrency < 1:
            raise ConfigurationError(f"scorer {id!r}: concurrency must be at least 1, got {concurrency}")
        if timeout_seconds is not None and not timeout_seconds > 0:
            raise ConfigurationError(f"scorer {id!r}: timeout_seconds must be above 0, got {timeout_seconds}")
        self.id = id
        self.version = version
        self.steps = [_Step(id, name, function) for name, function in functions.items()]
        if process and any(step.is_async for step in self.steps):
            raise ConfigurationError(f"scorer {id!r}: process=True is for functions that are not async")
        self.description = description or _first_line(functions["score"])
        self.direction = direction
        self.timeout_seconds = timeout_seconds
        self.retry = retry
        self.concurrency = concurrency
        self.process = process
        self.prompt_version = prompt_version
        self.judge = any("judge" in step.wants for step in self.steps)
        self.is_code = False
        """Whether it works the CPU and waits for nothing: the prebuilt ones that ask no model."""
        self.threaded = not process and not all(step.is_async for step in self.steps)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Calls the function that scores, as it was written."""
        score = next(step for step in self.steps if step.name == "score")
        return score.function(*arguments, **named)

    def __repr__(self) -> str:
        return f"<Scorer {self.id} {self.version}>"


def _first_line(function: StepFunction) -> str:
    return (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ").strip()


def scorer(
    *,
    id: str,
    version: str,
    description: str = "",
    direction: Direction = "higher",
    timeout_seconds: float | None = None,
    retry: RetryPolicy | None = None,
    concurrency: int | None = None,
    process: bool = False,
) -> Callable[[StepFunction], Scorer]:
    """Makes a function a scorer: `def f(sample) -> Score`, async or not; a number is a Score without words.

    `timeout_seconds` bounds one attempt, `concurrency` how many run at once in one worker process; None leaves both,
    and `retry`, to the service. A function that is not async runs in a thread, which nothing can stop: with
    `process=True` it runs in a process of its own, which a time-out ends; say so of everything that works the CPU hard.
    The module that defines it must then be importable. Raises ConfigurationError.
    """

    def make(function: StepFunction) -> Scorer:
        return Scorer(
            id,
            version,
            {"score": function},
            description=description,
            direction=direction,
            timeout_seconds=timeout_seconds,
            retry=retry,
            concurrency=concurrency,
            process=process,
        )

    return make


class Pipeline(Scorer):
    """A scorer in steps: preprocess -> analyze -> score -> reason, of which only `score` must be there. A step that
    completed is not repeated when a later one fails. `reason` returns the text that explains the score."""

    def __init__(
        self,
        id: str,
        version: str,
        *,
        score: StepFunction,
        preprocess: StepFunction | None = None,
        analyze: StepFunction | None = None,
        reason: StepFunction | None = None,
        **settings: Any,
    ) -> None:
        given = {"preprocess": preprocess, "analyze": analyze, "score": score, "reason": reason}
        super().__init__(id, version, {name: step for name, step in given.items() if step}, **settings)


OnStep = Callable[[str, Any], None]


async def evaluate(
    scorer: Scorer,
    sample: Sample,
    options: Mapping[str, Any] | None = None,
    *,
    judge: Judge | None = None,
    done: Mapping[str, Any] | None = None,
    on_step: OnStep | None = None,
) -> Score:
    """Scores a sample: one attempt, without retries or a time-out.

    `done` holds the results of steps that an earlier attempt completed, as JSON; `on_step` is told each further one.
    Raises what the scorer raises, NotScorable, NonRetriableError for options that do not fit, and BadScore.
    """
    values: dict[str, Any] = {"judge": judge}
    done = done or {}
    for step in scorer.steps:
        if step.name in done:
            result = step.result.validate_python(done[step.name])
        else:
            if "options" in step.wants:
                values["options"] = _options(step.options_type, options or {})
            result = await step.call(sample, values)
            if step.name == "score":
                result = _as_score(result)
            if on_step is not None and len(scorer.steps) > 1 and step.name != "reason":
                _tell(on_step, step, result)
        if step.name == "reason":
            return replace(typing.cast(Score, values["score"]), reason=text_of_any(result))
        values[_RESULT_NAMES[step.name]] = result
    return typing.cast(Score, values["score"])


def _tell(on_step: OnStep, step: _Step, result: Any) -> None:
    """Of a step that completed. One whose result cannot be JSON is not kept, and done again by a later attempt."""
    try:
        kept = step.result.dump_python(result, mode="json")
    except Exception:
        return
    on_step(step.name, kept)


def _as_score(result: Any) -> Score:
    if isinstance(result, NotScorable):
        raise result
    if isinstance(result, Score):
        return result
    if math.isnan(_number(result)) and not isinstance(result, float):
        raise BadScore(f"a scorer returns a Score or a number, not {type(result).__name__}")
    return Score(result)


def _options(wanted: Any, options: Mapping[str, Any]) -> Any:
    if wanted is None or typing.get_origin(wanted) in (dict, Mapping) or wanted in (dict, Mapping, Any):
        return dict(options)
    try:
        return TypeAdapter(wanted).validate_python(dict(options))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors())
        raise NonRetriableError(f"the options do not fit: {problems}", reason="invalid_options") from None
