"""What is known against the versions in our locks, by pip-audit: where its data can be reached."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.audit.locks import DEVELOPMENT, SHIPPED

_LIMIT_SECONDS: Final = 300


@dataclass(frozen=True)
class Audited:
    """What is known of one lock."""

    lock: str
    problems: tuple[str, ...]
    unknown: tuple[str, ...]
    """What nothing could be learned of: packages, or why the tool itself did not run."""


def audit(root: Path) -> Iterator[Audited]:
    """Asks for each lock. The tool is fetched for the occasion: nothing of ours needs it."""
    command = [str(Path(sys.executable).parent / "uv"), "tool", "run", "pip-audit", "--disable-pip", "--require-hashes"]
    for lock in (*SHIPPED, DEVELOPMENT):
        try:
            said = subprocess.run(
                [*command, "--format", "json", "--progress-spinner", "off", "-r", f"requirements/{lock}.txt"],
                cwd=root,
                capture_output=True,
                text=True,
                timeout=_LIMIT_SECONDS,
                check=False,
            )
            yield read(lock, json.loads(said.stdout or "null"), said.stderr)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            yield Audited(lock, (), (f"pip-audit did not run: {error}",))


def read(lock: str, report: Mapping[str, Any] | None, errors: str) -> Audited:
    """What the tool's report means. A package that it skips is not one that is well."""
    if not report or "dependencies" not in report:
        said = errors.strip().splitlines()
        return Audited(lock, (), (f"pip-audit says nothing{': ' + said[-1] if said else ''}",))
    problems, unknown = [], []
    for each in report["dependencies"]:
        if "skip_reason" in each:
            unknown.append(f"{each['name']}: {each['skip_reason']}")
        for known in each.get("vulns", ()):
            better = ", ".join(known.get("fix_versions", ())) or "no version yet"
            problems.append(f"{each['name']} {each['version']}: {known['id']}, mended in {better}")
    return Audited(lock, tuple(problems), tuple(unknown))
