"""What a scorer returned or raised, as plain values that can be kept. None of these trusts what it is given."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from google.protobuf.struct_pb2 import Struct

from runwire.values import carry_struct, carry_value, from_struct, from_value
from scorer_service.meter import cost, tokens
from scorer_service.results.records import ScoreRecord, json_text, printable
from scorer_service.scoring import BadScore, Direction, Judgement, Score, text_of_any

MAX_LABEL_LENGTH: Final = 255
MAX_REASON_LENGTH: Final = 16_384
MAX_METADATA_BYTES: Final = 65_536
MAX_STEPS_BYTES: Final = 262_144
MAX_DELAY_SECONDS: Final = 7 * 86_400.0
"""Longest pause that a scorer may ask for."""
CUT: Final = "..."
"""Key of the mark in metadata that was cut."""
_MAX_KEYS: Final = 1000
_MAX_KEY_BYTES: Final = 1024
_EMPTY: Final = (dict, list, tuple, str, bytes)
_MAX_NAME_LENGTH: Final = 128


def words(error: BaseException) -> str:
    """What an exception says, if it can; else what it is."""
    try:
        text = str.__str__(str(error))
    except BaseException:
        text = ""
    return printable(text[: 2 * _MAX_WORDS]) or class_name(error)


_MAX_WORDS: Final = 2000


def class_name(error: BaseException) -> str:
    """Name of an exception's class."""
    try:
        return printable(str.__str__(type(error).__name__), _MAX_NAME_LENGTH)
    except BaseException:
        return "exception"


def reason_of(error: BaseException, otherwise: str) -> str:
    """The machine-readable reason that an exception carries, if it is one."""
    try:
        reason = str.__str__(error.reason)  # type: ignore[attr-defined]
    except BaseException:
        return otherwise
    return reason if 0 < len(reason) <= _MAX_NAME_LENGTH and reason.isascii() and reason.isprintable() else otherwise


def delay_of(error: BaseException) -> float | None:
    """The pause that an exception asks for, within bounds; None where it asks for none."""
    try:
        delay = float(error.delay_seconds)  # type: ignore[attr-defined]
    except BaseException:
        return None
    return None if math.isnan(delay) else min(max(0.0, delay), MAX_DELAY_SECONDS)


class Origin(Protocol):
    """The scorer that a score comes from."""

    @property
    def direction(self) -> Direction: ...

    @property
    def prompt_version(self) -> str: ...


def record_of(score: Score, scorer: Origin) -> ScoreRecord:
    """The score as it is stored. What is only said of it is carried (see `runwire.values`) and cut, with a mark, and is
    never a reason to refuse it: it is paid for. Raises BadScore for what is no score at all."""
    if not isinstance(score, Score):
        raise BadScore(f"the score is {type(score).__name__}")
    return ScoreRecord(
        value=float(score.value),
        label=_text(score.label, MAX_LABEL_LENGTH),
        reason=_text(score.reason, MAX_REASON_LENGTH),
        metadata=_any_metadata(score.metadata),
        direction=1 if scorer.direction == "higher" else 2,
        judgement=_judgement(score.judgement, scorer) if isinstance(score.judgement, Judgement) else None,
    )


def _text(value: Any, limit: int) -> str:
    return printable(text_of_any(value)[: 4 * limit], limit)


def _any_metadata(metadata: Any) -> str:
    try:
        return _metadata(metadata)
    except Exception as error:  # of code of the author's
        return _text_of({CUT: f"cannot be kept: {class_name(error)}"})


def _metadata(metadata: Any) -> str:
    """The whole of it, if it fits; else key by key as much as does, and how much is missing."""
    if metadata is None or (type(metadata) in _EMPTY and not metadata):
        return "{}"
    whole = _json(carry_struct(metadata, 2 * MAX_METADATA_BYTES))
    if len(whole.encode()) <= MAX_METADATA_BYTES and not _is_cut(metadata, whole):
        return whole
    kept, room, seen = dict[str, Any](), MAX_METADATA_BYTES - 200, 0
    for key, value in _items(metadata):
        seen += 1
        name = _name(key, kept)
        carried = from_value(carry_value(value, max(1024, room)))
        size = len(_text_of({name: carried}).encode()) if name else room + 1
        if name and size <= room and len(kept) < _MAX_KEYS:
            kept[name] = carried
            room -= size
        elif seen >= 2 * _MAX_KEYS:
            break
    return _text_of({**kept, CUT: _mark(_length(metadata), seen, len(kept))})


def _mark(there: int | None, seen: int, kept: int) -> str:
    """How many keys are missing, as far as one can know: a mapping of the author's need not tell the truth."""
    missing = max(seen, there or 0) - kept
    if not missing and there is not None:
        return f"cut: {MAX_METADATA_BYTES} bytes are kept"
    return f"{missing if there is not None else 'some'} more, left out: {MAX_METADATA_BYTES} bytes are kept"


def _length(metadata: Any) -> int | None:
    try:
        return len(metadata) if isinstance(metadata, Mapping) else 1
    except Exception:
        return None


def _name(key: Any, taken: Mapping[str, Any]) -> str:
    """The key as a text that is not taken; empty for one that is too long to be a name."""
    (name, value), *_ = carry_struct({key: None}, _MAX_KEY_BYTES).fields.items()
    if value.HasField("string_value"):
        return ""
    unique, number = name, 1
    while unique in taken or unique in ("", CUT):
        number += 1
        unique = f"{name} ({number})"
    return unique


def _is_cut(metadata: Any, text: str) -> bool:
    """Whether an object was carried as one long text, because it was too large."""
    return isinstance(metadata, Mapping) and text.startswith('{"value":"[too large] ')


def _items(metadata: Any) -> Iterator[tuple[Any, Any]]:
    try:
        yield from metadata.items() if isinstance(metadata, Mapping) else [("value", metadata)]
    except Exception:
        return  # a mapping of the author's that cannot be gone through to its end


def _text_of(carried: dict[str, Any]) -> str:
    return json.dumps(carried, separators=(",", ":"), ensure_ascii=False)


def _json(struct: Struct) -> str:
    return _text_of(from_struct(struct))


def is_beyond(value: Any, limit_bytes: int) -> bool:
    """Whether a value surely takes more as JSON; found in steps that the limit bounds, also where the value is huge or
    holds itself."""
    left, waiting = limit_bytes, [value]
    while waiting:
        one = waiting.pop()
        left -= 1
        if isinstance(one, (str, bytes)):
            left -= len(one)
        elif isinstance(one, int):
            left -= int.bit_length(one) // 4
        elif isinstance(one, Mapping):
            if len(one) > left:
                return True
            for key, item in one.items():
                waiting += (key, item)
        elif isinstance(one, (list, tuple)):
            if len(one) > left:
                return True
            waiting += one
        if left < 0:
            return True
    return False


def steps_text(version: str, steps: dict[str, Any]) -> str:
    """The results of steps as they are kept; those that are too large are not, and will be done again."""
    if not steps:
        return "{}"
    try:
        if is_beyond(steps, MAX_STEPS_BYTES):
            return "{}"
        text = json_text({"version": version, "steps": steps})
    except Exception:
        return "{}"
    return text if len(text.encode()) <= MAX_STEPS_BYTES else "{}"


def _judgement(judged: Judgement, scorer: Origin) -> str:
    return json.dumps(
        {
            "model": _text(judged.model, MAX_LABEL_LENGTH),
            "prompt_version": _text(judged.prompt_version or scorer.prompt_version, MAX_LABEL_LENGTH),
            "input_tokens": tokens(judged.input_tokens),
            "output_tokens": tokens(judged.output_tokens),
            "cost_usd": cost(judged.cost_usd),
        }
    )
