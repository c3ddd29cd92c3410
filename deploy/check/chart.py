"""deploy/helm/runwire: rendered with the values of each shape in `ci`, and held to the same as the plain manifests."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import yaml

from deploy.check import kubernetes, tools

CHART: Final = "deploy/helm/runwire"
RELEASE: Final = "runwire"
SHAPES: Final = ("production", "external", "sqlite")
"""Files of values in `ci`."""


def check(root: Path, *, shapes: Sequence[str] = ("", *SHAPES)) -> Iterator[str]:
    """Yields what is wrong with the chart in each of the shapes, '' being what it is without further values. Raises
    tools.Missing where there is no Helm."""
    chart = root / CHART
    if found := _version_problem(root, chart):
        yield found
    said = helm("lint", "--strict", str(chart))
    if said.returncode:
        yield f"helm lint: {said.stdout.strip()}{said.stderr.strip()}"
        return
    for shape in shapes:
        values = ["--values", str(chart / f"ci/{shape}.yaml")] if shape else []
        try:
            documents = render(root, values)
        except ValueError as error:
            yield f"chart, {shape or 'as it is'}: {error}"
            continue
        for problem in kubernetes.problems(root, documents):
            yield f"chart, {shape or 'as it is'}: {problem}"


def render(root: Path, arguments: Sequence[str]) -> list[kubernetes.Document]:
    """What would be applied. Raises ValueError with what Helm says, tools.Missing where there is none."""
    said = helm("template", RELEASE, str(root / CHART), *arguments)
    if said.returncode:
        raise ValueError(said.stderr.strip())
    return [document for document in yaml.safe_load_all(said.stdout) if document]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Raises tools.Missing."""
    return subprocess.run([tools.helm(), *arguments], capture_output=True, text=True, timeout=60, check=False)


def _version_problem(root: Path, chart: Path) -> str | None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    said = yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"]
    released = project.partition(".dev")[0]
    return None if said == released else f"Chart.yaml: appVersion is {said}, and the release is {released}"
