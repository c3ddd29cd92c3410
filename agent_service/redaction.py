"""Keeps secrets out of what is stored and shown."""

from __future__ import annotations

import os
import re
from typing import Final

MAX_MESSAGE_LENGTH: Final = 2_000
_SECRET_NAMES: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")
_PATTERNS: Final = (
    re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"),
    re.compile(r"\b(sk|pk|rk|ghp|gho|xox[abp]|AKIA)[-_]?[\w-]{12,}"),
    re.compile(r"(?i)(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),
)
_MASK: Final = "[redacted]"


def redact(text: str) -> str:
    """`masked` text, at most MAX_MESSAGE_LENGTH characters of it, without those that UTF-8 cannot hold."""
    return masked(text)[:MAX_MESSAGE_LENGTH].encode(errors="replace").decode()


def masked(text: str) -> str:
    """`text` without what looks like a credential: the values of environment variables named like secrets, keys in
    the usual formats, authorization headers, passwords in URLs."""
    secrets = {value for name, value in os.environ.items() if len(value) >= 8 and _SECRET_NAMES.search(name.upper())}
    for value in sorted(secrets, key=len, reverse=True):  # one may begin as another does
        text = text.replace(value, _MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(_MASK, text)
    return text
