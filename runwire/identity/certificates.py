"""Client certificates: a rule says whom a subject alternative name stands for.

One rule a line, the first that fits counts; `*` stands for one label or path segment:

    spiffe://cluster.local/ns/*/sa/checkout  tenant=shop  scopes=runs:write,runs:read,own
    ops.example.com                          tenant=shop  subject=operations  scopes=admin
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runwire.errors import CertificateUnknown
from runwire.identity.principal import Principal, checked_scopes
from runwire.identity.watched_files import WatchedFiles


@dataclass(frozen=True)
class Rule:
    """Whom the names that fit stand for."""

    pattern: re.Pattern[str]
    tenant: str
    scopes: frozenset[str]
    subject: str
    """Empty: the name itself."""

    def principal(self, name: str) -> Principal:
        """Raises ValueError."""
        return Principal(self.subject or name, self.tenant, self.scopes)


class Certificates:
    """Tells by a file of rules whom a certificate stands for. That it is good, TLS has seen to."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError."""
        self._rules = WatchedFiles([path], lambda contents: rules(contents[0].decode()))

    def principal(self, names: Iterable[str]) -> Principal:
        """By the names of a certificate. Raises CertificateUnknown."""
        given = list(names)
        for rule in self._rules.get():
            for name in given:
                if rule.pattern.fullmatch(name):
                    return _made(rule, name)
        raise CertificateUnknown("no rule says whom this certificate stands for")


def _made(rule: Rule, name: str) -> Principal:
    try:
        return rule.principal(name)
    except ValueError:
        raise CertificateUnknown("the certificate's name cannot be a subject") from None


def rules(text: str) -> Sequence[Rule]:
    """Raises ValueError for a line that is none."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            found.append(_rule(words[0], dict(word.split("=", 1) for word in words[1:])))
        except (ValueError, KeyError) as error:
            raise ValueError(f"line {number} is no rule: {error}") from None
    return found


def _rule(pattern: str, given: dict[str, str]) -> Rule:
    if unknown := sorted(given.keys() - {"tenant", "scopes", "subject"}):
        raise ValueError(f"there is no {unknown[0]!r}; there are tenant, scopes and subject")
    expression = "[^/.]+".join(map(re.escape, pattern.split("*")))
    scopes = checked_scopes(given["scopes"].split(","))
    rule = Rule(re.compile(expression), given["tenant"], scopes, given.get("subject", ""))
    rule.principal(rule.subject or "any")
    return rule
