"""What the README tells a newcomer to type works as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.processes import ROOT, AgentProcess
from tests.servers import program

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PRINTED = re.findall(r"^```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
GRPCURL = re.findall(r"^grpcurl (?:.*\\\n)*.*$", README, re.MULTILINE)


def test_first_block(tmp_path: Path) -> None:
    """The first block, in an empty folder, without a key and without a network, prints what the README says."""
    (tmp_path / "hello.py").write_text(PYTHON[0])
    environment = {name: value for name, value in os.environ.items() if not _is_of_this_machine(name)}
    command = [*_without_network(), sys.executable, "hello.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == (PRINTED[0], 0), done.stderr


def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agents of the quickstart are served, and its client prints what the run says."""
    _, agents, client = PYTHON
    (tmp_path / "my_agents.py").write_text(agents)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with AgentProcess(agents="my_agents") as service:
        service.start()
        program_text = client.replace("127.0.0.1:50051", service.address)
        done = subprocess.run([sys.executable, "-c", program_text], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("Good day, Dr. Ada", 0), done.stderr


def test_grpcurl() -> None:
    """Each call of the README answers, and the cursor of any frame carries on after that frame."""
    listing, describing, starting, watching, resuming = GRPCURL
    with AgentProcess() as service:
        service.start()
        assert "runwire.agent.v1.AgentService" in _call(listing, service.address)
        assert "rpc WatchRun" in _call(describing, service.address)
        run_id = json.loads(_call(starting, service.address))["run"]["run_id"]
        frames = _frames(_call(watching.replace("RUN_ID", run_id), service.address))
        for frame in frames[:-1]:
            command = resuming.replace("RUN_ID", run_id).replace("CURSOR", frame["cursor"])
            rest = _frames(_call(command, service.address))
            assert _sequences(frames) == _sequences(frames[: frames.index(frame) + 1]) + _sequences(rest)
            assert "ended" in rest[-1]


def _is_of_this_machine(name: str) -> bool:
    """Whether a variable names a key, a model provider, a proxy, or a setting of ours."""
    return name.endswith(("_API_KEY", "_BASE_URL")) or name.lower().endswith("_proxy") or name.startswith("RUNWIRE_")


def _without_network() -> list[str]:
    """A command before a command, which has only the loopback interface then. Empty where a process may not do that."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if unshare is None or ip is None:
        return []
    command = [unshare, "--net", "--map-root-user", "sh", "-c", f'{ip} link set lo up && exec "$@"', "sh"]
    return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []


def _call(command: str, address: str) -> str:
    line = command.replace("grpcurl", str(program("grpcurl")), 1).replace("localhost:50051", address)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _frames(output: str) -> list[dict[str, object]]:
    decoder, frames, place = json.JSONDecoder(), [], 0
    while output[place:].strip():
        place += len(output[place:]) - len(output[place:].lstrip())
        frame, place = decoder.raw_decode(output, place)
        frames.append(frame)
    return frames


def _sequences(frames: list[dict[str, object]]) -> list[int]:
    return [int(event["sequence"]) for frame in frames for event in frame.get("batch", {}).get("events", [])]
