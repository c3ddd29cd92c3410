"""What we depend on is under licences that we allow, and what could not be looked up is said."""

from __future__ import annotations

from email.message import Message
from pathlib import Path

import pytest

from deploy.audit import advisories, licences, locks

ROOT = Path(__file__).parents[2]


def test_every_dependency_has_an_allowed_licence() -> None:
    """Each package of the locks that is installed here says a licence that we allow, and stands in docs/licences.md."""
    assert list(licences.check(ROOT)) == []
    assert len(licences.found(ROOT)) > 0.9 * len(locks.shipped(ROOT))


def test_what_the_images_have_is_told_from_tools() -> None:
    """The locks are read: the images have gRPC and no linter, development has both."""
    assert {"grpcio", "starlette", "sqlalchemy"} <= locks.shipped(ROOT)
    assert "mypy" in locks.all_of(ROOT) - locks.shipped(ROOT)


@pytest.mark.parametrize(
    "licence, allowed",
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0", True),
        ("(MIT AND PSF-2.0)", True),
        ("MIT AND GPL-3.0", False),
        ("GPL-3.0", False),
        ("", False),
    ],
)
def test_expressions_are_understood(licence: str, allowed: bool) -> None:
    """One of several to choose from is enough; of several that hold together all must be allowed."""
    assert licences.is_allowed(licence, licences.ALLOWED) is allowed


def test_a_licence_is_found_where_a_package_says_it() -> None:
    """In its expression, its field or its classifiers; nowhere is no licence."""
    said = {
        "License-Expression": "ISC",
        "License": "Apache 2.0",
        "Classifier": "License :: OSI Approved :: BSD License",
    }
    for header, licence in zip(said, ("ISC", "Apache-2.0", "BSD"), strict=True):
        message = Message()
        message[header] = said[header]
        assert licences.licence_of("x", message) == licence
    assert licences.licence_of("x", Message()) == ""


def test_what_was_not_audited_is_no_success() -> None:
    """A package that pip-audit skips is unknown and not well, one with an advisory is a problem, and a tool that said
    nothing leaves the whole lock unknown."""
    known = {"id": "PYSEC-1", "fix_versions": ["2"]}
    report = {
        "dependencies": [
            {"name": "well", "version": "1", "vulns": []},
            {"name": "ill", "version": "1", "vulns": [known]},
            {"name": "away", "skip_reason": "not found"},
        ]
    }
    audited = advisories.read("dev", report, "")
    assert (audited.problems, audited.unknown) == (("ill 1: PYSEC-1, mended in 2",), ("away: not found",))
    assert advisories.read("dev", None, "no network\n").unknown == ("pip-audit says nothing: no network",)
