"""What people type: inputs, durations, labels, states."""

from __future__ import annotations

import json
import mimetypes
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from google.protobuf.struct_pb2 import Value

from runwire import parts
from runwire.bounds import MAX_INPUT_BYTES, too_large
from runwire.errors import InvalidRequest
from runwire.values import Json, to_value

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_MAX_SECONDS = 100 * 365 * 86400.0
_UNITS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def read_input(given: str | None, *, as_text: bool = False) -> Value:
    """The input that an argument stands for: `@file` is a file's content, `-` is standard input; JSON is JSON, and
    anything else is a plain string, unless it begins like an object or a list. `as_text` takes it as it is."""
    if given is None:
        return to_value(None)
    text = _content(given)
    return check_input(text if as_text else parse_input(text))


def read_parts(given: str | None, files: Sequence[str], urls: Sequence[str]) -> Value:
    """The input of an agent that has files beside its text, as `runwire.parts` says."""
    found: list[Json] = [] if given is None else [_content(given)]
    for name in files:
        try:
            found.append(parts.of_file(Path(name)))
        except OSError as error:
            raise click.UsageError(f"cannot read {name!r}: {error.strerror}") from None
        except InvalidRequest as error:
            raise click.UsageError(f"--file {name!r}: {' '.join(error.violations.values())}") from None
    for url in urls:
        kind = parts.kind_of(mimetypes.guess_type(urlsplit(url).path)[0] or "")
        found.append({"type": kind, "url": url})
    value = to_value(found)
    if (size := value.ByteSize()) > MAX_INPUT_BYTES:
        raise click.UsageError(f"INPUT with its files {too_large(size, MAX_INPUT_BYTES, 'give them by --url')}")
    return value


def parse_object(text: str, what: str) -> dict[str, Json]:
    """A JSON object that can be sent, and nothing else."""
    value = parse_json(text, what)
    if not isinstance(value, dict):
        raise click.UsageError(f"{what} must be a JSON object, such as '{{\"account\": 17}}'")
    return value


def parse_input(text: str) -> Json:
    """JSON, or a plain string."""
    try:
        return _loads(text, "INPUT")
    except json.JSONDecodeError as error:
        if text.lstrip()[:1] in ("{", "["):
            raise click.UsageError(
                f"INPUT begins like JSON but is none: {error.msg} at character {error.pos + 1}; "
                "use --text to send it as it is"
            ) from None
        return text


def check_input(value: Json, what: str = "INPUT") -> Value:
    """As it is sent. A number that would change on the way is a usage error."""
    try:
        return to_value(value)
    except ValueError as error:
        raise click.UsageError(f"{what} cannot be sent: {error}") from None
    except RecursionError:
        raise click.UsageError(f"{what} is nested too deeply") from None


def parse_json(text: str, what: str) -> Json:
    """JSON that can be sent, and nothing else."""
    try:
        value = _loads(text, what)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{what} is not JSON: {error.msg} at character {error.pos + 1}") from None
    check_input(value, what)
    return value


def _loads(text: str, what: str) -> Json:
    """Raises JSONDecodeError for what is no JSON, and UsageError for JSON that is too much."""

    def refuse(name: str) -> Any:
        raise click.UsageError(f"{what} holds {name}, which JSON does not have")

    try:
        value: Json = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError:
        raise
    except ValueError:
        raise click.UsageError(f"{what} holds an integer with too many digits: send a string") from None
    except RecursionError:
        raise click.UsageError(f"{what} is nested too deeply") from None
    return value


def _content(given: str) -> str:
    if given == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    if not given.startswith("@"):
        return given
    path = Path(given[1:])
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise click.UsageError(f"cannot read {given[1:]!r}: {error.strerror}") from None


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8: {error.reason} at byte {error.start}") from None


class Duration(click.ParamType):  # type: ignore[type-arg] # generic only in newer click
    """A number with ms, s, m, h or d; seconds without a unit. Becomes seconds."""

    name = "DURATION"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(value.strip())
        if not match:
            self.fail(f"{value!r} is no duration; write 30s, 5m, 2h or 1d", param, ctx)
        seconds = float(match[1]) * _UNITS[match[2]]
        if seconds > _MAX_SECONDS:
            self.fail(f"{value!r} is more than a hundred years", param, ctx)
        return seconds


class Since(Duration):
    """A duration back from now, or a time as ISO 8601. Becomes a datetime."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, datetime):
            return value
        if _DURATION.fullmatch(value.strip()):
            return datetime.now(UTC) - timedelta(seconds=super().convert(value, param, ctx))
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):  # the latter for the first and the last day of all
            self.fail(f"{value!r} is neither a duration back from now (2h) nor a time (2026-01-31T12:00)", param, ctx)


class State(click.ParamType):  # type: ignore[type-arg]
    """The name of a state in lower case. Becomes the enum's number."""

    def __init__(self, enum: Any) -> None:
        names = [name for name in enum.keys() if not name.endswith("_UNSPECIFIED")]  # noqa: SIM118 - an enum wrapper
        prefix = next(name for name in enum.keys() if name.endswith("_UNSPECIFIED"))  # noqa: SIM118
        self._values = {
            name.removeprefix(prefix.removesuffix("UNSPECIFIED")).lower(): enum.Value(name) for name in names
        }
        self.name = "|".join(self._values)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        key = value.lower().replace("-", "_").replace(" ", "_")
        if key not in self._values:
            self.fail(f"{value!r} is no state; states are {', '.join(self._values)}", param, ctx)
        return int(self._values[key])


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """KEY=VALUE arguments as a dict."""
    result: dict[str, str] = {}
    for each in given:
        key, separator, value = each.partition("=")
        if not separator or not key:
            raise click.UsageError(f"{option} takes KEY=VALUE, not {each!r}")
        if key in result:
            raise click.UsageError(f"{option} names {key!r} twice")
        result[key] = value
    return result
