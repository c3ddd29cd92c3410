"""Settings and agents, as they are read when the process starts."""

import sys
from pathlib import Path

import pytest

from agent_service import config
from agent_service.agents import registry
from runwire.errors import AgentNotFound, ConfigurationError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("RUNWIRE_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    """Without anything set the service listens on loopback and keeps runs in the embedded store."""
    settings = config.load()
    assert settings.listen == "127.0.0.1:50051"
    assert settings.store == "sqlite:///.runwire/runs.db"
    assert (settings.role, settings.lease_seconds, settings.max_losses) == ("all", 15.0, 5)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting is an environment variable; what is given goes first."""
    for name, value in {
        "RUNWIRE_AGENT_LISTEN": "127.0.0.1:1",
        "RUNWIRE_STORE": "memory://",
        "RUNWIRE_AGENTS": "a, b.c:d,,",
        "RUNWIRE_LEASE_SECONDS": "2.5",
        "RUNWIRE_MAX_STREAMS": "7",
    }.items():
        monkeypatch.setenv(name, value)
    settings = config.load()
    assert (settings.listen, settings.store) == ("127.0.0.1:1", "memory://")
    assert settings.agents == ("a", "b.c:d")
    assert (settings.lease_seconds, settings.max_streams) == (2.5, 7)
    given = config.load(listen="127.0.0.1:2", store=None)
    assert (given.listen, given.store) == ("127.0.0.1:2", "memory://")


@pytest.mark.parametrize(
    "name, value",
    [
        ("lease_seconds", 0),
        ("lease_seconds", -1),
        ("lease_seconds", "soon"),
        ("lease_seconds", "nan"),
        ("lease_seconds", "inf"),
        ("max_losses", 0),
        ("concurrency", 0),
        ("concurrency", 10_001),
        ("role", "both"),
        ("log_level", "LOUD"),
        ("retention_seconds", 0),
        ("max_sample_bytes", 10),
        ("max_streams", 0),
        ("write_timeout_seconds", 0),
        ("stream_max_age_seconds", 1e12),
    ],
)
def test_wrong_values(name: str, value: object) -> None:
    """A value out of bounds is refused with its name, in one line."""
    with pytest.raises(ConfigurationError) as wrong:
        config.load(**{name: value})
    assert name in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_settings_do_not_change() -> None:
    """They are read once."""
    with pytest.raises(Exception, match="frozen"):
        config.load().role = "work"  # type: ignore[misc]


MODULE = """
from agent_service import workflow

@workflow(id="one")
async def one(ctx, input): ...

@workflow(id="two")
async def two(ctx, input): ...

again = one
some = [two]
named = {"x": one, "y": 3}
nothing = []
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "agents_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "agents_of_a_test"  # type: ignore[misc]
    sys.modules.pop("agents_of_a_test", None)


def test_agents_are_found(module: str) -> None:
    """All of a module, each once; or those of one attribute, a list, a mapping or a single one."""

    def found(*names: str) -> list[str]:
        return [definition.agent_id for definition in registry.load(names)]

    assert found(module) == ["one", "two"]
    assert found(f"{module}:some") == ["two"]
    assert found(f"{module}:one") == ["one"]
    assert found(f"{module}:named") == ["one"]
    assert found(module, f"{module}:some", module) == ["one", "two"]
    loaded = registry.load([module])
    assert "one" in loaded
    assert "three" not in loaded
    assert loaded.get("two").agent_id == "two"
    with pytest.raises(AgentNotFound, match="one, two"):
        loaded.get("three")


@pytest.mark.parametrize("name", ["agents_of_a_test:nothing", "agents_of_a_test:missing", "no.such.module", "", ":x"])
def test_no_agents(module: str, name: str) -> None:
    """A name that leads to no agent is refused, with what to do about it."""
    with pytest.raises(ConfigurationError):
        registry.load([name])
    with pytest.raises(ConfigurationError, match="--agents"):
        registry.load([])
