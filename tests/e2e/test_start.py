"""What `python -m agent_service` makes of wrong arguments: one line, exit code 2, nothing half-written."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT

LIMIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[subprocess.CompletedProcess[str], list[str]]]:
    """How each of WRONG ended, and what it left in its folder; several at a time, as each takes a while to start."""

    def end(what: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        folder = tmp_path_factory.mktemp("wrong")
        write_modules(folder / "modules")
        given = {"store": "sqlite:///runs.db"} | WRONG[what][0]
        ended = run(folder, *(f"--{name}={value}" for name, value in given.items()))
        return ended, sorted(path.name for path in (folder / "work").iterdir())

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(WRONG, pool.map(end, WRONG), strict=True))


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
    given = {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder / 'modules'}", "RUNWIRE_AGENT_LISTEN": "127.0.0.1:0"}
    work = folder / "work"
    work.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "agent_service", *arguments],
        cwd=work,
        env=own | given | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module of agents."""
    write_modules(tmp_path / "modules")
    return tmp_path


def write_modules(modules: Path) -> None:
    """Modules that are wrong in all sorts of ways, and a good one."""
    modules.mkdir()
    for name, text in {
        "broken": "def (",
        "raises": "raise RuntimeError('first line\\nsecond line')",
        "needs": "import something_that_is_not_installed",
        "exits": "import sys\nsys.exit(7)",
        "empty": "x = 1",
        "twins": (
            "from agent_service import workflow\n"
            "@workflow(id='same')\nasync def a(ctx, input): ...\n"
            "@workflow(id='same')\nasync def b(ctx, input): ...\n"
        ),
        "shape": "from agent_service import workflow\n@workflow(id='x')\nasync def a(ctx): ...\n",
        "sampled": (
            "from agent_service import ScorerRef, workflow\n"
            "@workflow(id='x', scorers=[ScorerRef('s', sampling=2)])\nasync def a(ctx, input): ...\n"
        ),
        "policy": (
            "from agent_service import workflow\n"
            "@workflow(id='x', on_version_change='ignore')\nasync def a(ctx, input): ...\n"
        ),
        "none_at_once": (
            "from agent_service import workflow\n@workflow(id='x', concurrency=0)\nasync def a(ctx, input): ...\n"
        ),
        "no_schema": (
            "from agent_service import workflow\nclass Odd: pass\n"
            "@workflow(id='no_schema_agent')\nasync def a(ctx, input: Odd): ...\n"
        ),
        "good": "from agent_service import workflow\n@workflow(id='x')\nasync def a(ctx, input): ...\n",
    }.items():
        (modules / f"{name}.py").write_text(text)


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "unknown scheme": ({"store": "mysql://localhost/x", "agents": "good"}, "mysql"),
    "no scheme": ({"store": "runs.db", "agents": "good"}, "no scheme"),
    "no folder": ({"store": "sqlite:///nowhere/runs.db", "agents": "good"}, "nowhere"),
    "a folder and no file": ({"store": "sqlite:///.", "agents": "good"}, "folder"),
    "no database": ({"store": "sqlite:///../modules/good.py", "agents": "good"}, "good.py"),
    "an option that is not there": ({"store": "sqlite:///runs.db?fast=yes", "agents": "good"}, "fast"),
    "a module that is not there": ({"agents": "no_such_module"}, "no_such_module"),
    "a module that does not parse": ({"agents": "broken"}, "SyntaxError"),
    "a module that raises": ({"agents": "raises"}, "first line"),
    "a module that needs another": ({"agents": "needs"}, "something_that_is_not_installed"),
    "a module that exits": ({"agents": "exits"}, "exits"),
    "a module without agents": ({"agents": "empty"}, "empty"),
    "an attribute that is not there": ({"agents": "good:nothing"}, "nothing"),
    "an attribute that is no agent": ({"agents": "empty:x"}, "empty:x"),
    "two agents with one name": ({"agents": "twins"}, "same"),
    "no agents at all": ({"agents": ","}, "--agents"),
    "a workflow of the wrong shape": ({"agents": "shape"}, "ctx, input"),
    "a scorer of the wrong shape": ({"agents": "sampled"}, "sampling"),
    "a policy that is none": ({"agents": "policy"}, "'ignore'"),
    "a concurrency of none": ({"agents": "none_at_once"}, "concurrency"),
    "a type without a schema": ({"agents": "no_schema"}, "no_schema_agent"),
    "an address without a port": ({"listen": "localhost", "agents": "good"}, "HOST:PORT"),
    "a port that can be none": ({"listen": "127.0.0.1:70000", "agents": "good"}, "HOST:PORT"),
    "an address of another machine": ({"listen": "192.0.2.1:0", "agents": "good"}, "192.0.2.1"),
    "a role that is none": ({"role": "watch", "agents": "good"}, "role"),
    "a concurrency of nothing": ({"concurrency": "0", "agents": "good"}, "concurrency"),
    "a log level that is none": ({"log-level": "LOUD", "agents": "good"}, "log_level"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument(wrong: dict[str, tuple[subprocess.CompletedProcess[str], list[str]]], what: str) -> None:
    """One line on stderr that names what is wrong, exit code 2, no traceback, and no half-written file."""
    ended, left = wrong[what]
    assert ended.returncode == 2, ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith("agent service: ")
    assert WRONG[what][1] in line
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert left in ([], ["runs.db"]), "a whole store or none"


@pytest.mark.parametrize(
    "name, value",
    [("RUNWIRE_LEASE_SECONDS", "soon"), ("RUNWIRE_MAX_LOSSES", "0"), ("RUNWIRE_ROLE", "none"), ("RUNWIRE_AGENTS", "")],
)
def test_a_wrong_environment(folder: Path, name: str, value: str) -> None:
    """The same for what is set in the environment."""
    ended = run(folder, "--store=sqlite:///runs.db", **{"RUNWIRE_AGENTS": "good", name: value})
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert name.removeprefix("RUNWIRE_").lower() in ended.stderr.lower()


def test_an_unknown_option(folder: Path) -> None:
    """An option that does not exist is named, with exit code 2."""
    ended = run(folder, "--stroe=sqlite:///runs.db")
    assert ended.returncode == 2
    assert "--stroe" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use(folder: Path) -> None:
    """A port that another process has is an error at once, and is not shared."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run(folder, f"--listen={address}", "--store=sqlite:///runs.db", "--agents=good")
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert address in line
    assert "in use" in line


def test_a_store_that_does_not_answer(folder: Path) -> None:
    """A store that is not there within its time is no mistake in the arguments: exit code 3, one line, no password."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ended = run(folder, f"--store=redis://:hunter2hunter2@127.0.0.1:{port}/0?start=0.3", "--agents=good")
    assert ended.returncode == 3
    *_, last = ended.stderr.splitlines()
    assert last.startswith("agent service: the store cannot be reached")
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_that_may_not_be_read(folder: Path) -> None:
    """A folder without permission is named, with what to check. Root may do all, and so becomes somebody else."""
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(0o000)
    program = (
        "import os; import agent_service.__main__, encodings.idna, runwire.sqlite, tests.e2e.workflows\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "agent_service.__main__.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, f"--store=sqlite:///{locked}/runs.db", "--agents=tests.e2e.workflows"],
        cwd=ROOT,
        env=os.environ | {"RUNWIRE_AGENT_LISTEN": "127.0.0.1:0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    [line] = ended.stderr.splitlines()
    assert "locked" in line
