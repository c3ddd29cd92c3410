"""What a scorer returned or raised, as plain values that can be kept. None of these trusts what it is given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from scorer_service.meter import cost, tokens
from scorer_service.records import ScoreRecord, json_text, printable
from scorer_service.scoring import BadScore, Judgement, Score, Scorer

MAX_LABEL_LENGTH: Final = 255
MAX_REASON_LENGTH: Final = 16_384
MAX_METADATA_BYTES: Final = 65_536
MAX_STEPS_BYTES: Final = 262_144
MAX_DELAY_SECONDS: Final = 7 * 86_400.0
"""Longest pause that a scorer may ask for."""
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


def record_of(score: Score, scorer: Scorer) -> ScoreRecord:
    """The score as it is stored. Raises BadScore for what cannot be."""
    try:
        return ScoreRecord(
            value=float(score.value),
            label=_text(score.label, "label", MAX_LABEL_LENGTH),
            reason=_text(score.reason, "reason", MAX_REASON_LENGTH),
            metadata=_metadata(score.metadata),
            direction=1 if scorer.direction == "higher" else 2,
            judgement=None if score.judgement is None else _judgement(score.judgement, scorer),
        )
    except BadScore:
        raise
    except Exception as error:
        raise BadScore(f"the score cannot be kept: {words(error)}") from None


def _text(value: Any, name: str, limit: int) -> str:
    if not isinstance(value, str):
        raise BadScore(f"the score's {name} must be a string, not {type(value).__name__}")
    return printable(str.__str__(value)[: 4 * limit], limit)


def _metadata(metadata: Any) -> str:
    if not metadata:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise BadScore(f"the score's metadata must be a mapping, not {type(metadata).__name__}")
    if is_beyond(metadata, MAX_METADATA_BYTES):
        raise BadScore(f"the score's metadata is too large; at most {MAX_METADATA_BYTES} bytes are kept")
    try:
        text = json_text(dict(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadScore(f"the score's metadata is not JSON that can be kept: {words(error)}") from None
    if (size := len(text.encode())) > MAX_METADATA_BYTES:
        raise BadScore(f"the score's metadata has {size} bytes; at most {MAX_METADATA_BYTES} are kept")
    return text


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


def _judgement(judged: Judgement, scorer: Scorer) -> str:
    if not isinstance(judged, Judgement):
        raise BadScore(f"the score's judgement must be a Judgement, not {type(judged).__name__}")
    return json.dumps(
        {
            "model": _text(judged.model, "judgement.model", MAX_LABEL_LENGTH),
            "prompt_version": _text(
                judged.prompt_version or scorer.prompt_version, "judgement.prompt_version", MAX_LABEL_LENGTH
            ),
            "input_tokens": tokens(judged.input_tokens),
            "output_tokens": tokens(judged.output_tokens),
            "cost_usd": cost(judged.cost_usd),
        }
    )
