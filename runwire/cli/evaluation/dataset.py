"""Datasets: files of JSON lines, an input each."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import click

from runwire.values import Json, to_value

MAX_CASES: Final = 100_000
_FIELDS: Final = {"id", "input", "expected", "context"}
_MAX_ID_LENGTH: Final = 128


@dataclass(frozen=True, slots=True)
class Case:
    """One input, and what a right answer looks like, where somebody said."""

    case_id: str
    input: Json
    expected: Json = None
    context: tuple[str, ...] = ()

    def key(self, *parts: str) -> str:
        """Names something of this case, and of no case with another input or another expectation."""
        content = json.dumps([self.case_id, self.input, self.expected, self.context], sort_keys=True)
        return "eval-" + sha256("\0".join([content, *parts]).encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The cases of a file, in its order."""

    name: str
    cases: tuple[Case, ...]


def read(path: Path) -> Dataset:
    """Raises UsageError, which names the first line that is wrong."""
    cases: list[Case] = []
    ids: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                case = _case(line, f"{path.name}:{number}")
                ids[case.case_id] += 1
                if ids[case.case_id] > 1:
                    raise click.UsageError(f"{path.name}:{number}: there are two cases {case.case_id!r}")
                cases.append(case)
                if len(cases) > MAX_CASES:
                    raise click.UsageError(f"{path.name} has more than {MAX_CASES} cases")
    except UnicodeDecodeError:
        raise click.UsageError(f"{path.name} is not UTF-8") from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not cases:
        raise click.UsageError(f'{path.name} has no cases: write JSON lines such as {{"input": "..."}}')
    return Dataset(path.name, tuple(cases))


def _case(line: str, place: str) -> Case:
    try:
        found: Any = json.loads(line, parse_constant=lambda name: _refuse(name))
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{place}: no JSON: {error}") from None
    if not isinstance(found, dict) or "input" not in found:
        raise click.UsageError(f"{place}: a case is an object with an `input`")
    if unknown := sorted(found.keys() - _FIELDS):
        raise click.UsageError(f"{place}: {unknown[0]!r} is none of {', '.join(sorted(_FIELDS))}")
    context = found.get("context", [])
    if not isinstance(context, list) or not all(isinstance(each, str) for each in context):
        raise click.UsageError(f"{place}: `context` is a list of texts")
    for name in ("input", "expected"):
        try:
            to_value(found.get(name))
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"{place}: `{name}` cannot be sent: {error}") from None
    case_id = found.get("id")
    if case_id is None:
        case_id = sha256(json.dumps(found["input"], sort_keys=True).encode()).hexdigest()[:12]
    if not isinstance(case_id, str) or not 1 <= len(case_id) <= _MAX_ID_LENGTH or not case_id.isprintable():
        raise click.UsageError(f"{place}: `id` is a text of 1 to {_MAX_ID_LENGTH} printable characters")
    return Case(case_id, found["input"], found.get("expected"), tuple(context))


def _refuse(name: str) -> Any:
    raise ValueError(f"it holds {name}")
