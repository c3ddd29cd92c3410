"""Whom a client certificate stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire.errors import CertificateUnknown, ConfigurationError
from runwire.identity.certificates import Certificates

RULES = """
# who       what
spiffe://cluster.local/ns/*/sa/checkout   tenant=shop scopes=runs:write,runs:read,own
ops.example.com                           tenant=shop scopes=admin subject=operations
*.example.com                             tenant=other scopes=runs:read
"""


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    path = tmp_path / "rules"
    path.write_text(RULES)
    return Certificates(path)


@pytest.mark.parametrize(
    "name, subject, tenant",
    [
        ("spiffe://cluster.local/ns/blue/sa/checkout", "spiffe://cluster.local/ns/blue/sa/checkout", "shop"),
        ("ops.example.com", "operations", "shop"),
        ("web.example.com", "web.example.com", "other"),
    ],
)
def test_the_first_rule_that_fits(certificates: Certificates, name: str, subject: str, tenant: str) -> None:
    """A name stands for whom its rule says, or for itself."""
    found = certificates.principal(["unknown", name])
    assert (found.subject, found.tenant) == (subject, tenant)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "example.com",
        "a.b.example.com",
        "web.example.com.evil.org",
        "webXexample.com",
        "spiffe://cluster.local/ns/a/b/sa/checkout",
        "spiffe://cluster.local/ns//sa/checkout",
        "xspiffe://cluster.local/ns/a/sa/checkout",
        "spiffe://cluster.local/ns/a\nb/sa/checkout",
        f"{'x' * 300}.example.com",
    ],
)
def test_a_star_is_one_label(certificates: Certificates, name: str) -> None:
    """A pattern fits the whole name, its `*` one label or segment; nobody else has a principal."""
    with pytest.raises(CertificateUnknown):
        certificates.principal([name])


@pytest.mark.parametrize(
    "line",
    [
        "name",
        "name tenant=a",
        "name tenant=a/b scopes=admin",
        "name tenant=a scopes=root",
        "name tenant=a scopes=admin x",
    ],
)
def test_a_line_that_is_no_rule(tmp_path: Path, line: str) -> None:
    """A rule that would not be kept is an error at the start, with its line."""
    path = tmp_path / "rules"
    path.write_text(f"# first\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 2 is no rule"):
        Certificates(path)
