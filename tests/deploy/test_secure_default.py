"""What is deployed is protected without anybody's doing, and can be used so: compose as processes, and the guide."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("kubernetes_validate")
from deploy.check import compose
from runwire.cli.app import run
from tests.client.processes import AgentProcess, ScorerProcess, ServiceProcess
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 60


def shell(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of it where `runwire` is installed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "HOME": str(folder), "PYTHONPATH": str(ROOT), **variables}
    command = ["sh", "-euc", script]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )


@dataclass
class Composed:
    """The two services as compose.yaml starts them, and the folder that is /access there."""

    folder: Path
    agent: ServiceProcess
    scorer: ServiceProcess

    def runwire(self, words: str, *, token: bool = True) -> subprocess.CompletedProcess[str]:
        places = f"--agent-address {self.agent.address} --scorer-address {self.scorer.address} --ca server.pem"
        return shell(f"runwire {words} {places} {'--token-file token' if token else ''}", self.folder)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """`access` has run, then the services, with their environment, on engines and ports of their own."""
    folder = tmp_path_factory.mktemp("access")
    make_access(folder)
    services = json.loads(compose.config(ROOT, compose.REQUIRED).stdout)["services"]
    with (
        AgentProcess(**settings(services["agent"], folder)) as agent,
        ScorerProcess(agent.store, **settings(services["scorer"], folder)) as scorer,
    ):
        for service in (agent, scorer):
            service.port = free_port()
            service.start()
        yield Composed(folder, agent, scorer)


def make_access(folder: Path) -> None:
    made = shell(compose.access_script(ROOT).replace("/access", str(folder)), folder, RUNWIRE_NAMES="")
    assert made.returncode == 0, made.stderr


def settings(service: dict[str, dict[str, str]], folder: Path) -> dict[str, str]:
    taken = ("RUNWIRE_STORE", "RUNWIRE_RESULTS", "RUNWIRE_AGENTS")
    ours = {name: value for name, value in service["environment"].items() if name.startswith("RUNWIRE_")}
    return {
        name.removeprefix("RUNWIRE_").lower(): str(value).replace("/access", str(folder))
        for name, value in ours.items()
        if name not in taken
    }


def test_composed_services_serve_whoever_has_the_token(composed: Composed) -> None:
    """A run is started, watched and scored with the certificate and the token that `access` made."""
    started = composed.runwire("start librarian 'What is a cursor?' --watch --json")
    assert started.returncode == 0, started.stderr
    run_id = json.loads(started.stdout.splitlines()[0])["run"]["runId"]
    scores = composed.runwire(f"scores {run_id} --follow")
    assert "succeeded" in scores.stdout, scores.stderr


def test_composed_services_serve_nobody_else(composed: Composed) -> None:
    """Without a token every call is refused, and without TLS nothing is heard."""
    for words in ("agents", "stats"):
        assert "needs a token" in composed.runwire(words, token=False).stderr
    plain = shell(f"runwire agents --agent-address {composed.agent.address}", composed.folder)
    assert plain.returncode == 3


def test_the_health_check_of_the_images_speaks_as_the_manifests_ask(composed: Composed) -> None:
    """Over TLS and without a token it hears whether a service serves, and whether the process lives."""
    for service in (composed.agent, composed.scorer):
        files = {f"RUNWIRE_TLS_{name.upper()}_FILE": service.settings[f"tls_{name}_file"] for name in ("cert", "key")}
        check = f"python {ROOT}/deploy/healthcheck.py LISTEN runwire.liveness"
        said = shell(check, composed.folder, LISTEN=f"0.0.0.0:{service.port}", **files)
        assert (said.returncode, said.stdout) == (0, "SERVING\n"), said.stderr


def test_what_is_there_is_kept_when_compose_starts_again(composed: Composed) -> None:
    """`access` makes nothing twice: the token that was handed out is good still, and so is the certificate."""
    names = ("server.pem", "server.key", "token", "tokens", "run-token-keys")
    before = {name: (composed.folder / name).read_bytes() for name in names}
    make_access(composed.folder)
    assert {name: (composed.folder / name).read_bytes() for name in names} == before
    assert {(composed.folder / name).stat().st_mode & 0o077 for name in names} == {0}, "others may read what is secret"


def test_ten_minutes(tmp_path: Path) -> None:
    """The first block of docs/security.md, typed as it stands there but for the ports, leads to a protected service."""
    page = (ROOT / "docs/security.md").read_text()
    [block] = re.findall(r"^In ten minutes.*?^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    *preparing, dev, asking = block.splitlines()
    prepared = shell("\n".join(preparing), tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    words = [*shlex.split(dev)[1:], "--agent-port", "0", "--scorer-port", "0", "--no-gateway"]
    with subprocess.Popen(
        [sys.executable, "-m", "runwire.cli", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as services:
        try:
            assert services.stdout is not None
            address = next(found[1] for line in services.stdout if (found := re.search(r"--agent-address (\S+)", line)))
            asked = shell(f"{asking.partition('#')[0]} --agent-address {address}", tmp_path)
            assert "librarian" in asked.stdout, asked.stderr
            refused = shell(f"runwire agents --ca server.pem --agent-address {address}", tmp_path)
            assert "needs a token" in refused.stderr
        finally:
            services.send_signal(signal.SIGINT)
            services.stdout.read()


def test_a_certificate_is_made_anew_when_it_ends_soon_or_is_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--keep` keeps what is for these names and good for another third, and nothing else; keys are for nobody else."""
    made = []
    for words in ("a --days 9", "a --days 9 --keep", "a b --days 9 --keep", "a b --days 30 --keep", "a b --days 30"):
        assert run(["certificate", *words.split(), "--folder", str(tmp_path)]) == 0
        made.append((tmp_path / "server.pem").read_bytes())
    first, second, third, fourth, fifth = made
    assert first == second
    assert len({second, third, fourth, fifth}) == 4
    assert (tmp_path / "server.key").stat().st_mode & 0o077 == 0
    for wrong in (["ü"], [""], ["a", "--days", "0"], ["a", "--folder", str(tmp_path / "server.pem" / "b")]):
        capsys.readouterr()
        assert run(["certificate", "--folder", str(tmp_path), *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
