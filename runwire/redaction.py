"""Keeps secrets, and lines that pretend to be others, out of what is stored, shown and logged. For both services."""

from __future__ import annotations

import os
import re
from typing import Final

MAX_MESSAGE_LENGTH: Final = 2_000
_MAX_LOOKED_AT: Final = 65_536
_SECRET_NAMES: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
_MASK: Final = "[redacted]"
_KEEP: Final = r"(?!\[redacted\])"

_NAMED: Final = (
    r"(?:passw(?:or)?d|passwd|passphrase|pwd|secret|api[-_ ]?key|apikey|access[-_]?key(?:[-_]?id)?|private[-_]?key"
    r"|secret[-_]?key|auth[-_]?token|access[-_]?token|refresh[-_]?token|id[-_]?token|bearer[-_]?token|session[-_]?token"
    r"|client[-_]?secret|authorization|credentials?)"
)
"""Names whose value is a secret, as they end."""
_IS: Final = _NAMED + r"(?:\\?[\"'])?\s{0,5}[:=]\s{0,5}"
_PORT: Final = r"\d{1,5}(?:[/\s,;?#\"').]|$)"

# Each is anchored to something rare, and bounded: a text of megabytes must not take minutes.
_PATTERNS: Final = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, flags, replacement in (
        (
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,20}-----.*?(?:-----END [A-Z0-9 ]{0,60}-----|\Z)",
            re.DOTALL,
            _MASK,
        ),
        (r"\beyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?", 0, _MASK),
        # Ours: of a file, and of a run.
        (r"\brw_[0-9a-f]{12}_[\w-]{8,}", 0, _MASK),
        (r"\brwr_[\w-]{8,}(?:\.[\w-]{0,100})?", 0, _MASK),
        (r"\b(?:bearer|basic)\s{1,5}(?!\[redacted\])[\w.~+/=-]{8,}", re.IGNORECASE, _MASK),
        (r"\bAIza[\w-]{20,}", 0, _MASK),
        (r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}", 0, _MASK),
        (r"\b(?:sk|pk|rk|gh[pousr]|github_pat|glpat|npm|hf|xox[abeprs])[-_][\w-]{12,}", 0, _MASK),
        (r"\bya29\.[\w-]{10,}", 0, _MASK),
        # "password": "...", and the same with single quotes or escaped ones.
        (rf"({_IS}\\?([\"'])){_KEEP}(?:(?!\2)[^\\\n]|\\[^\n]){{1,4000}}", re.IGNORECASE, rf"\1{_MASK}"),
        (rf"({_IS}){_KEEP}[^\s,;&\"'<>()\[\]{{}}]{{3,4000}}", re.IGNORECASE, rf"\1{_MASK}"),
        # The user and password of a URL, also a password with @ and / in it.
        (r"(?<=://)[^\s\"'<>]{1,400}(?=@)", 0, _MASK),
        # A password where the port belongs.
        (rf"(://[^\s/:@\"'\[\]]{{1,255}}:)(?!{_PORT}){_KEEP}[^\s/,?#@\"']{{1,400}}", 0, rf"\1{_MASK}"),
    )
)  # fmt: skip


def redact(text: str) -> str:
    """`masked` text, at most MAX_MESSAGE_LENGTH characters of it, without those that UTF-8 cannot hold."""
    return masked(text)[:MAX_MESSAGE_LENGTH].encode(errors="replace").decode()


def masked(text: str) -> str:
    """`text` without what looks like a credential: the values of environment variables named like secrets, keys and
    tokens in the usual formats, private keys, authorization headers, what is named a password, passwords in URLs. Of a
    text of more than 64 KiB the beginning and the end are left."""
    if len(text) > _MAX_LOOKED_AT:
        # Cut between words: no pattern would know half a secret.
        half = _MAX_LOOKED_AT // 2
        text = f"{text[:half].rsplit(None, 1)[0]} ... {text[-half:].split(None, 1)[-1]}"
    secrets = {value for name, value in os.environ.items() if len(value) >= 8 and _SECRET_NAMES.search(name.upper())}
    for value in sorted(secrets, key=len, reverse=True):  # one may begin as another does
        text = text.replace(value, _MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def one_line(text: str) -> str:
    """`text` with its control characters written out (`\\n`, `\\x1b`), those that Unicode knows as line ends or that
    turn the direction of a line too: no part of it can look like a line of its own."""
    return text.translate(_WRITTEN_OUT)


_WRITTEN_OUT: Final = {
    number: repr(chr(number))[1:-1]
    for number in (*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
    if number != 0x09
}
