"""What an agent is to this service: an identifier, types, scorers, and a function of (context, input)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Final, TypeVar, get_type_hints

from google.protobuf import struct_pb2
from pydantic import TypeAdapter, ValidationError

from agent_service.agents import lifespans
from agent_service.agents.context import RunContext
from agent_service.agents.lifespans import Lifespan
from runwire.agent.v1 import run_pb2
from runwire.errors import ConfigurationError, InvalidRequest
from runwire.redaction import redact
from runwire.values import carry_struct, carry_value, from_struct, from_value, to_struct

Body = Callable[[RunContext, Any], Awaitable[Any]]
Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])

ORPHAN_AFTER_SECONDS: Final = 900.0
"""Longer than a deploy takes, and than a version that was rolled back needs to come again."""
MAX_OUTPUT_BYTES: Final = 1024 * 1024
MAX_SCORER_NAME_LENGTH: Final = 128
MAX_VERSION_LENGTH: Final = 128
_ON_VERSION_CHANGE: Final = ("fail", "restart", "wait")
_MAX_PROBLEMS: Final = 20
_ENDS: Final[Mapping[str, run_pb2.RunState]] = {
    "succeeded": run_pb2.RUN_STATE_SUCCEEDED,
    "failed": run_pb2.RUN_STATE_FAILED,
    "cancelled": run_pb2.RUN_STATE_CANCELLED,
}


@dataclass(frozen=True, slots=True)
class ScorerRef:
    """Asks for a scorer at the end of every run of an agent."""

    scorer_id: str
    sampling: float = 1.0
    """Share of the runs to score, 0 to 1; decided by the run id, so that rates nest."""
    version: str = ""
    """Empty: the newest that the scorer service has."""
    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_states: Sequence[str] = ()
    """`succeeded`, `failed`, `cancelled`; empty: `succeeded`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    """Tells this use of the scorer from others, as where one scorer is asked twice with different options. At most 128
    printable characters."""
    whole_conversation: bool = False
    """In a conversation: asked once, when it has ended, and not at the end of each turn."""

    def to_proto(self) -> run_pb2.ScorerRef:
        """The reference as it stands in a Run. Raises ConfigurationError for values that cannot be."""
        if not self.scorer_id or not 0 <= self.sampling <= 1:
            raise ConfigurationError(f"{self!r}: scorer_id must be set and sampling be between 0 and 1")
        if len(self.name) > MAX_SCORER_NAME_LENGTH or not self.name.isprintable():
            raise ConfigurationError(f"{self!r}: name must have at most 128 printable characters")
        if not set(self.match_states) <= set(_ENDS):
            raise ConfigurationError(f"{self!r}: match_states are {', '.join(_ENDS)}")
        return run_pb2.ScorerRef(
            scorer_id=self.scorer_id,
            sampling=self.sampling,
            scorer_version=self.version,
            match_labels=self.match_labels,
            match_states=[_ENDS[state] for state in self.match_states],
            options=self._options(),
            name=self.name,
            whole_conversation=self.whole_conversation,
        )

    def _options(self) -> struct_pb2.Struct:
        try:
            return to_struct(self.options)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"scorer {self.scorer_id!r}: options: {error}") from None


def repeated_scorer(scorers: Iterable[run_pb2.ScorerRef]) -> int | None:
    """The place of the first reference that repeats an earlier one, to the same scorer under the same name; or None."""
    seen: set[tuple[str, str]] = set()
    for place, scorer in enumerate(scorers):
        if (key := (scorer.scorer_id, scorer.name)) in seen:
            return place
        seen.add(key)
    return None


@dataclass(frozen=True)
class Definition:
    """An agent or workflow that can be served. Made by `workflow` and `durable_agent`."""

    agent_id: str
    body: Body
    kind: run_pb2.AgentKind = run_pb2.AGENT_KIND_WORKFLOW
    input_type: Any = Any
    output_type: Any = Any
    description: str = ""
    version: str = ""
    """Of the agent's code. Only workers that have the version that a run was begun with continue with it."""
    on_version_change: str = "fail"
    """What becomes of a run under way whose version nobody has had for `orphan_after`: `fail`, `restart` (journal
    forgotten) or `wait`. One that was not begun yet is begun by this version, unless it is `wait`."""
    orphan_after: float = ORPHAN_AFTER_SECONDS
    """In seconds, from when such a run is due."""
    scorers: Sequence[ScorerRef] = ()
    concurrency: int | None = None
    """Most runs of this agent at once in one process; None: as many as the process runs."""
    lifespan: Lifespan | None = None
    """Opens what all runs of a process share; `RunContext.resources` is what it yields."""
    models: Sequence[str] = ()
    """Names of models that a run may ask for."""
    model_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model that a run may ask for, with the type of each."""

    def __post_init__(self) -> None:
        if not 0 < len(self.agent_id) <= 128:
            raise ConfigurationError(f"agent id {self.agent_id!r}: must have 1 to 128 characters")
        if self.on_version_change not in _ON_VERSION_CHANGE:
            raise ConfigurationError(
                f"agent {self.agent_id!r}: on_version_change is {self.on_version_change!r}; it can be "
                f"{', '.join(_ON_VERSION_CHANGE)}"
            )
        if len(self.version) > MAX_VERSION_LENGTH or not self.version.isprintable():
            raise ConfigurationError(
                f"agent {self.agent_id!r}: version {self.version!r} must have at most {MAX_VERSION_LENGTH} printable "
                "characters"
            )
        if not 0 < self.orphan_after < math.inf:
            raise ConfigurationError(
                f"agent {self.agent_id!r}: orphan_after is {self.orphan_after!r}; expected seconds, above 0"
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigurationError(
                f"agent {self.agent_id!r}: concurrency is {self.concurrency}; it must be at least 1"
            )

        if self.lifespan is not None:
            lifespans.check(self.agent_id, self.lifespan)
        if wrong := [scorer for scorer in self.scorers if not isinstance(scorer, ScorerRef)]:
            raise ConfigurationError(
                f"agent {self.agent_id!r}: scorers are ScorerRef(...), got {wrong[0]!r}: scorers=[ScorerRef('some-id')]"
            )
        if (place := repeated_scorer(self.scorer_protos)) is not None:
            raise ConfigurationError(
                f"agent {self.agent_id!r}: {self.scorers[place]!r} repeats another reference; give it a name of its own"
            )

    @cached_property
    def _input(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.input_type)

    @cached_property
    def _output(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.output_type)

    @cached_property
    def scorer_protos(self) -> list[run_pb2.ScorerRef]:
        return [scorer.to_proto() for scorer in self.scorers]

    def parse_input(self, value: struct_pb2.Value, root: str = "input") -> Any:
        """The input as the declared type. Raises InvalidRequest, with a violation for each path that is wrong, which
        begins with `root`."""
        try:
            return self._input.validate_python(from_value(value))
        except ValidationError as error:
            raise InvalidRequest(_violations(error, root)) from None
        except BaseException as error:
            # A validator is the author's, and may raise anything; StartRun calls it too, and is to be answered.
            raise InvalidRequest({root: redact(f"does not fit: {type(error).__name__}: {error}")}) from error

    @cached_property
    def _settings(self) -> Mapping[str, TypeAdapter[Any]]:
        return {name: TypeAdapter(kind) for name, kind in self.model_settings.items()}

    def check_model(self, choice: run_pb2.ModelChoice) -> None:
        """Raises InvalidRequest for a model, or settings of one, that the agent does not let its callers choose."""
        wrong: dict[str, str] = {}
        if choice.model and choice.model not in self.models:
            wrong["model.model"] = _not_offered(self.agent_id, choice.model, "model", self.models)
        for name, value in from_struct(choice.settings).items():
            if (adapter := self._settings.get(name)) is None:
                wrong[f"model.settings.{name}"] = _not_offered(self.agent_id, name, "setting", sorted(self._settings))
                continue
            try:
                adapter.validate_python(value)
            except ValidationError as error:
                wrong |= _violations(error, f"model.settings.{name}")
        if wrong:
            raise InvalidRequest(wrong)

    def output_problem(self, output: Any) -> str:
        """Why the output is not of the declared type, in words; empty where it is."""
        try:
            self._output.validate_python(output)
        except ValidationError as error:
            problems = _violations(error, "output")
            return "; ".join(f"{path}: {problem}" for path, problem in list(problems.items())[:_MAX_PROBLEMS])
        except Exception as error:
            return f"output: {type(error).__name__}: {error}"
        return ""

    def dump_output(self, output: Any) -> struct_pb2.Value:
        """What the body returned, as stored: at most 1 MiB, in the forms of `runwire.values`. Raises nothing: the work
        is done and paid for."""
        try:
            plain = self._output.dump_python(output, mode="json", warnings=False)
        except Exception:
            plain = output
        return carry_value(plain, MAX_OUTPUT_BYTES)

    def dump_any(self, output: Any) -> struct_pb2.Value:
        """The result of a workflow's turn, which is of no declared type. Raises nothing."""
        try:
            plain = TypeAdapter(Any).dump_python(output, mode="json", warnings=False)
        except Exception:
            plain = output
        return carry_value(plain, MAX_OUTPUT_BYTES)

    @cached_property
    def proto(self) -> run_pb2.Agent:
        """The agent as ListAgents shows it."""
        return run_pb2.Agent(
            agent_id=self.agent_id,
            description=self.description,
            kind=self.kind,
            version=self.version,
            input_schema=carry_struct(self._input.json_schema()),
            output_schema=carry_struct(self._output.json_schema(mode="serialization")),
            scorers=self.scorer_protos,
            models=sorted(self.models),
            model_settings=sorted(self.model_settings),
        )


def _not_offered(agent_id: str, name: str, what: str, offered: Sequence[str]) -> str:
    offers = f"it offers {', '.join(offered)}" if offered else "it offers none"
    return f"agent {agent_id!r} does not offer the {what} {name!r}; {offers}"


def _violations(error: ValidationError, root: str = "input") -> dict[str, str]:
    found: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        found.setdefault(f"{root}{path}", problem["msg"])
    return found


def workflow(
    *misused: Any,
    id: str = "",
    version: str = "",
    on_version_change: str = "fail",
    orphan_after: float = ORPHAN_AFTER_SECONDS,
    scorers: Sequence[ScorerRef] = (),
    description: str = "",
    concurrency: int | None = None,
    lifespan: Lifespan | None = None,
) -> Callable[[Callable[..., Awaitable[Any]]], Definition]:
    """Makes an async function of (RunContext, input) an agent that can be served.

    The annotations of the input and of the result are the types that inputs are checked against before a run is
    accepted, and outputs are stored as: pydantic models, dataclasses, str, dict, or any other type pydantic knows.
    The function is executed again from its beginning after a crash or a suspension: what must happen once belongs
    into `ctx.step`.

    `lifespan`, a function with @asynccontextmanager, opens what all runs of a process share, such as a pool of
    connections: before the first run is claimed, on the service's loop. What it yields is `ctx.resources`. Several
    agents may name the same.
    """
    if misused or not id:
        raise ConfigurationError('workflow: write @workflow(id="some-id") above the function')

    def define(function: Callable[..., Awaitable[Any]]) -> Definition:
        parameters = list(inspect.signature(function).parameters)
        if len(parameters) != 2 or not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"workflow {id!r}: expected `async def {function.__name__}(ctx, input)`")
        hints = get_type_hints(function)
        return Definition(
            agent_id=id,
            body=_in_body_step(function),
            input_type=hints.get(parameters[1], Any),
            output_type=hints.get("return", Any),
            description=description or (inspect.getdoc(function) or "").partition("\n\n")[0],
            version=version,
            on_version_change=on_version_change,
            orphan_after=orphan_after,
            scorers=tuple(scorers),
            concurrency=concurrency,
            lifespan=lifespan,
        )

    return define


def _in_body_step(function: Body) -> Body:
    @wraps(function)
    async def body(ctx: RunContext, input: Any) -> Any:
        await ctx.begin_body()
        output = await function(ctx, input)
        await ctx.end_body()
        return output

    return body
