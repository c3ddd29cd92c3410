"""The two services as real processes on private SQLite files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.servers import Server, free_port

ROOT = Path(__file__).parents[2]


class ServiceProcess(Server):
    """One service. `start` after `kill` or `stop` brings it back on the same port with the same data."""

    ready_line = "service listening on"
    module: str

    def __init__(self, store: str | None = None, **settings: str) -> None:
        super().__init__(self.module)
        self.port = free_port()
        self.store = store or f"sqlite:///{self.directory / 'runs.db'}"
        self.settings = settings

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def arguments(self) -> list[str]:
        return ["--listen", self.address, "--store", self.store]

    def command(self) -> list[str]:
        environment = [f"RUNWIRE_{name.upper()}={value}" for name, value in self.settings.items()]
        # The tests' own agents and scorers are found from the root of the project.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return ["env", f"PYTHONPATH={path}", *environment, sys.executable, "-m", self.module, *self.arguments()]


class AgentProcess(ServiceProcess):
    module = "agent_service"

    def __init__(self, agents: str = "agent_service.demo", store: str | None = None, **settings: str) -> None:
        super().__init__(store, **settings)
        self.agents = agents

    def arguments(self) -> list[str]:
        return [*super().arguments(), "--agents", self.agents]


class ScorerProcess(ServiceProcess):
    module = "scorer_service"

    def arguments(self) -> list[str]:
        return [*super().arguments(), "--results", f"sqlite:///{self.directory / 'scores.db'}"]
