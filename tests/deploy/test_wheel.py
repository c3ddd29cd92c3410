"""The wheel holds everything, and what an image installs is enough: without an engine, in plain environments.

The environments are made as deploy/Dockerfile makes them, of the same files and locks, with uv in place of pip. The
processes start in empty folders and see nothing of this project beside what is installed.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.check import dockerfile
from deploy.check.services import AGENT, SCORER, Service
from runwire.agent.v1 import run_pb2
from runwire.client import AgentClient, ScorerClient
from runwire.scorer.v1 import scorer_run_pb2
from tests.servers import Server, free_port, program

ROOT = Path(__file__).parents[2]
PACKAGES = ("runwire", "agent_service", "scorer_service", "gateway")
INSTALL_SECONDS = 300

pytestmark = pytest.mark.timeout(600)


def run(*command: str | Path, **variables: str) -> str:
    """The output of a command that must succeed; it sees no variable of ours."""
    said = subprocess.run(
        command,
        env=_plain_environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    assert said.returncode == 0, said.stdout
    return said.stdout


def _plain_environment() -> dict[str, str]:
    ours = ("RUNWIRE_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the files that the Dockerfile copies to build the wheel."""
    source = tmp_path_factory.mktemp("source")
    for word, rest in dockerfile.stages((ROOT / "deploy/Dockerfile").read_text())["wheel"].instructions:
        if word != "COPY":
            continue
        for name in rest.split()[:-1]:
            if name.endswith("/"):
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (source / name).parent.mkdir(exist_ok=True)
                shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy, because building leaves traces."""
    copy, wheels = tmp_path_factory.mktemp("build") / "source", tmp_path_factory.mktemp("wheels")
    shutil.copytree(source, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", wheels, copy)
    [built] = wheels.glob("*.whl")
    return built


def test_the_wheel_has_every_file_of_the_packages(source: Path, wheel: Path) -> None:
    """Scripts, SQL, migrations, stubs and marks of types are in the wheel, and nothing that is not of the packages."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packed = {name for name in names if ".dist-info/" not in name and ".data/" not in name}
    there = {
        path.relative_to(source).as_posix()
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    assert packed == there
    pages = {Path(name).name for name in names if "/share/doc/runwire/" in name}
    assert pages == {"README.md", "ARCHITECTURE.md", *(page.name for page in (source / "docs").glob("*.md"))}
    assert {Path(name).suffix for name in packed} >= {".lua", ".sql", ".mako", ".pyi", ".typed"}


def install(service: Service, wheel: Path, folder: Path) -> Path:
    """The Python of a new environment with what the image of `service` has."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = [program("uv"), "pip", "install", "--quiet", "--python", python]
    lock = ROOT / "requirements" / f"{service.name}.txt"
    run(*pip, "--require-hashes", "--only-binary", ":all:", "-r", lock)
    run(*pip, "--no-deps", "--no-index", wheel)
    run(program("uv"), "pip", "check", "--quiet", "--python", python)
    return python


@pytest.fixture(scope="module")
def agent_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(AGENT, wheel, tmp_path_factory.mktemp("agent") / "venv")


@pytest.fixture(scope="module")
def scorer_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(SCORER, wheel, tmp_path_factory.mktemp("scorer") / "venv")


class Installed(Server):
    """A service, started as its image starts it, in an empty folder; only the port is another."""

    ready_line = "service listening on"

    def __init__(self, service: Service, python: Path, **variables: str) -> None:
        super().__init__(service.name)
        self.service = service
        self.python = python
        self.port = free_port()
        instructions = dockerfile.image(dockerfile.stages((ROOT / "deploy/Dockerfile").read_text()), service.name)
        own = {name: value for name, value in dockerfile.environment(instructions).items() if name != "PATH"}
        self.variables = own | variables | {service.listen: f"0.0.0.0:{self.port}", "HOME": str(self.directory)}
        self.variables["RUNWIRE_INSECURE"] = "true"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        return ["env", "-i", f"PATH={os.defpath}", *variables, str(self.python), "-m", self.service.module]

    def health(self) -> subprocess.CompletedProcess[str]:
        """What the image's HEALTHCHECK says."""
        command = [self.python, ROOT / "deploy/healthcheck.py", self.service.listen]
        return subprocess.run(command, env=self.variables, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture(params=["sqlite", "redis and postgresql"])
def services(
    request: pytest.FixtureRequest,
    agent_python: Path,
    scorer_python: Path,
    redis_url: str,
    postgres_url: str,
    tmp_path: Path,
) -> Iterator[tuple[Installed, Installed]]:
    """Both services from their own environments, on either pair of engines."""
    store, results = f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/scores.db"
    if request.param != "sqlite":
        store, results = redis_url, postgres_url
        said = run(scorer_python, "-m", "scorer_service", "migrate", RUNWIRE_RESULTS=results)
        assert "the schema is at" in said
    agent = Installed(AGENT, agent_python, RUNWIRE_STORE=store)
    scorer = Installed(SCORER, scorer_python, RUNWIRE_STORE=store, RUNWIRE_RESULTS=results)
    with agent, scorer:
        yield agent.start(), scorer.start()


@pytest.mark.deploy
async def test_installed_services_execute_and_score_a_run(services: tuple[Installed, Installed]) -> None:
    """From what the images install, the demonstration agent finds its documents and its run is scored; the image's
    health check tells a service that serves from one that is gone."""
    agent, scorer = services
    async with AgentClient(agent.address) as agents, agents.run("librarian", "How does a cursor work?") as stream:
        async for _ in stream:
            pass
        run_id, state = stream.run_id, stream.state
        output = (await agents.get_run(run_id)).output
    assert state == run_pb2.RUN_STATE_SUCCEEDED
    assert ".md" in str(output), "no page was found in the package"
    async with ScorerClient(scorer.address) as scorers, scorers.watch_scorer_runs(run_id=run_id) as states:
        ended = {one.scorer_id: one.state async for one in states}
    assert ended
    assert set(ended.values()) == {scorer_run_pb2.SCORER_RUN_STATE_SUCCEEDED}
    for service in services:
        assert service.health().returncode == 0
        service.stop()
        gone = service.health()
        assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)


@pytest.mark.deploy
def test_the_agent_image_has_nothing_of_the_scorer(agent_python: Path) -> None:
    """What only the scorer service needs is not installed beside the agent service."""
    found = "import importlib.util as u; print([n for n in ('sqlalchemy', 'alembic', 'asyncpg') if u.find_spec(n)])"
    assert run(agent_python, "-c", found).strip() == "[]"
