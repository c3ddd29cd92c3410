"""What the files have to agree with: the services, and their settings as the code has them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from pydantic import AliasChoices, ValidationError
from pydantic_settings import BaseSettings

import agent_service.config
import gateway.config
import scorer_service.config
from agent_service.app import SERVICE as AGENT_SERVICE
from runwire.rpc import LIVENESS
from scorer_service.servicer import SERVICE as SCORER_SERVICE

END_SECONDS: Final = 15.0
"""Beyond the grace for work, a process takes at most this long to end its streams, leases and connections."""


@dataclass(frozen=True)
class Service:
    """A service, and what its images and manifests must say."""

    name: str
    health: str
    """What readiness asks for."""
    extras: frozenset[str]
    """Of the package: what its image has."""
    listen: str
    grace: str
    settings: type[BaseSettings]
    module: str

    @property
    def port(self) -> int:
        return int(self.defaults()[self.listen].rpartition(":")[2])

    def fields(self) -> dict[str, str]:
        """The field of each environment variable."""
        prefix = self.settings.model_config.get("env_prefix", "")
        return {_variable(prefix, name, field): name for name, field in self.settings.model_fields.items()}

    def defaults(self) -> dict[str, Any]:
        return {variable: self.settings.model_fields[name].default for variable, name in self.fields().items()}

    def environment_problems(self, environment: Mapping[str, str | None]) -> Iterator[str]:
        """Variables of ours that this service does not have, and values that it refuses."""
        fields, given = self.fields(), {}
        for variable, value in environment.items():
            if not variable.startswith("RUNWIRE_"):
                continue
            if variable not in fields:
                yield f"{variable} is no setting of the {self.name} service"
            elif value is not None:
                given[fields[variable]] = value
        try:
            _without_environment(self.settings)(**given)
        except ValidationError as error:
            for wrong in error.errors(include_url=False, include_input=False):
                yield f"the {self.name} service refuses {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"

    def protection_problems(self, environment: Mapping[str, str | None], *folders: str) -> Iterator[str]:
        """Whether it listens over TLS and knows callers, by files that are in `folders`."""
        if environment.get("RUNWIRE_INSECURE"):
            yield "RUNWIRE_INSECURE is set: anyone who reaches it could do everything"
        for variable in ("RUNWIRE_TLS_CERT_FILE", "RUNWIRE_TLS_KEY_FILE", "RUNWIRE_TOKENS"):
            if (environment.get(variable) or "").rpartition("/")[0] not in folders:
                yield f"{variable} is {environment.get(variable)!r}, and nothing is mounted there"

    def grace_seconds(self, environment: Mapping[str, str | None]) -> float:
        """The time for work after SIGTERM, in this environment."""
        return float(environment.get(self.grace) or self.defaults()[self.grace])

    def table(self) -> str:
        """The settings as a table of Markdown."""
        meanings = _attribute_docstrings(self.settings)
        lines = ["| variable | default | meaning |", "|---|---|---|"]
        for variable, name in self.fields().items():
            field = self.settings.model_fields[name]
            notes = [meanings.get(name, ""), _choices(field.annotation), _bounds(field.metadata)]
            lines.append(f"| `{variable}` | {_default(field.default)} | {' '.join(filter(None, notes))} |")
        return "\n".join(lines)


AGENT: Final = Service(
    name="agent",
    health=AGENT_SERVICE,
    extras=frozenset({"agent", "redis", "otel"}),
    listen="RUNWIRE_AGENT_LISTEN",
    grace="RUNWIRE_SHUTDOWN_GRACE_SECONDS",
    settings=agent_service.config.Settings,
    module="agent_service",
)
SCORER: Final = Service(
    name="scorer",
    health=SCORER_SERVICE,
    extras=frozenset({"scorer", "judges", "redis", "postgres", "otel"}),
    listen="RUNWIRE_SCORER_LISTEN",
    grace="RUNWIRE_SCORER_GRACE_SECONDS",
    settings=scorer_service.config.Settings,
    module="scorer_service",
)
GATEWAY: Final = Service(
    name="gateway",
    health="",
    extras=frozenset({"gateway"}),
    listen="RUNWIRE_GATEWAY_LISTEN",
    grace="RUNWIRE_GATEWAY_SHUTDOWN_GRACE_SECONDS",
    settings=gateway.config.Settings,
    module="gateway",
)
SERVICES: Final = {service.name: service for service in (AGENT, SCORER)}
IMAGES: Final = {**SERVICES, GATEWAY.name: GATEWAY}
"""What has an image, and a table of settings."""

__all__ = ["AGENT", "END_SECONDS", "GATEWAY", "IMAGES", "LIVENESS", "SCORER", "SERVICES", "Service"]


def _variable(prefix: str, name: str, field: Any) -> str:
    if isinstance(field.validation_alias, AliasChoices):
        return next(str(choice) for choice in field.validation_alias.choices if str(choice).startswith("RUNWIRE_"))
    return f"{prefix}{name.upper()}"


def _without_environment(settings: type[BaseSettings]) -> type[BaseSettings]:
    """The same settings, read from arguments alone: the shell that the check runs in does not matter."""

    class Isolated(settings):
        @classmethod
        def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, **_: Any) -> tuple[Any, ...]:
            return (init_settings,)

    return Isolated


def _attribute_docstrings(owner: type) -> dict[str, str]:
    """What stands as a string below each attribute, of its bases too."""
    found: dict[str, str] = {}
    for each in reversed(owner.__mro__):
        if each.__module__.partition(".")[0] in ("runwire", "agent_service", "scorer_service"):
            found |= _own_docstrings(each)
    return found


def _own_docstrings(owner: type) -> dict[str, str]:
    [body] = [node.body for node in ast.parse(inspect.getsource(owner)).body if isinstance(node, ast.ClassDef)]
    found = {}
    for attribute, after in pairwise(body):
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name) and _is_text(after):
            found[attribute.target.id] = " ".join(after.value.value.split())
    return found


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float):
        value = f"{value:.0f}" if value.is_integer() else f"{value:g}"
    return "none" if value in ("", None) else f"`{value}`"


def _choices(annotation: Any) -> str:
    allowed = [repr(value) for value in getattr(annotation, "__args__", ()) if isinstance(value, str) and value]
    return f"One of {', '.join(f'`{value[1:-1]}`' for value in allowed)}." if allowed else ""


def _plain(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"


def _bounds(metadata: list[Any]) -> str:
    least = next((one.ge for one in metadata if hasattr(one, "ge")), None)
    above = next((one.gt for one in metadata if hasattr(one, "gt")), None)
    most = next((one.le for one in metadata if hasattr(one, "le")), None)
    low = (
        f"at least {_plain(least)}" if least is not None else f"more than {_plain(above)}" if above is not None else ""
    )
    high = f"at most {_plain(most)}" if most is not None else ""
    text = ", ".join(filter(None, (low, high)))
    return f"({text})" if text else ""
